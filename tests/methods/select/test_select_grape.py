"""GRAPE: one answer a prompt, the likeliest under the model, by sums of log-probabilities gathered by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import LlamaForCausalLM

import ftft.engine.scoring as scoring_module
from ftft.data.examples import Examples
from ftft.engine.ledger import Ledger
from ftft.engine.scoring import CountedScoring
from ftft.errors import UserError
from ftft.methods.select.grape import GRAPE, first_of_each, prompts_of
from ftft.methods.selection import read_selection
from ftft.run.checking import check_models_and_data
from ftft.run.reading import recipe_from_dict
from ftft.run.runner import read_result, run_recipe
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.decoding import greedy

ROWS = [
    ("the film", "good"), ("the film", "very bad film"), ("the film", "is"),
    ("a dog", "runs outside"), ("people", "a b c d"), ("people", "sleeps"), ("people", "nobody is happy and the cat"),
]  # fmt: skip


def examples(rows: list[tuple[str, str]] = ROWS, ids: list[str] | None = None) -> Examples:
    prompts, answers = (pa.array(column) for column in zip(*rows))
    names = ids or [f"r{place}" for place in range(len(rows))]
    return Examples(pa.array(names), {"prompt": prompts, "completion": answers}, np.zeros(len(rows), dtype=np.int64), (), "f")


class Given:
    """A scoring model that says these log-probabilities and lengths."""

    def __init__(self, means: list[float], tokens: list[int]) -> None:
        self.columns = np.stack([means, np.zeros(len(means)), tokens], axis=1).astype(np.float32)

    def predictions(self, some: Examples) -> np.ndarray:
        return self.columns


def chosen(method: GRAPE, scoring: Any, some: Examples | None = None) -> list[str]:
    return method.select(some or examples(), None, seed=3, scoring=scoring).ids.to_pylist()


def test_the_likeliest_answer_of_every_prompt_stays() -> None:
    scoring = Given([-2.0, -1.0, -1.5, -9.0, -0.5, -0.9, -0.7], [2, 4, 2, 3, 5, 2, 7])
    assert chosen(GRAPE(), scoring) == ["r4", "r1", "r3"]
    assert chosen(GRAPE(normalise="sum"), scoring) == ["r5", "r2", "r3"]  # -4 -4 -3 | -27 | -2.5 -1.8 -4.9
    assert chosen(GRAPE(choose="worst"), scoring) == ["r3", "r0", "r5"]
    assert chosen(GRAPE(keep=2), scoring) == ["r4", "r6", "r1", "r2", "r3"]
    assert sorted(chosen(GRAPE(keep=9), scoring)) == [f"r{place}" for place in range(7)]


def test_equal_answers_go_by_id_whatever_the_order_of_the_rows() -> None:
    ids = ["c", "a", "b", "x", "z", "y", "w"]
    some = examples(ids=ids)
    flat = Given([-1.0] * 7, [3] * 7)
    assert sorted(chosen(GRAPE(), flat, some)) == ["a", "w", "x"]
    assert sorted(chosen(GRAPE(), flat, some.take(np.arange(7)[::-1]))) == ["a", "w", "x"]


def test_what_was_chosen_is_told_by_both_scores_and_its_length() -> None:
    scoring = Given([-2.0, -1.0, -1.5, -9.0, -0.5, -0.9, -0.7], [2, 4, 2, 3, 5, 2, 7])
    counts = GRAPE().select(examples(), None, seed=0, scoring=scoring).counts
    assert (counts["pool"], counts["selected"], counts["prompts"], counts["with_several_answers"]) == (7, 3, 3, 2)
    assert counts["means"]["tokens"] == {"pool": pytest.approx(25 / 7), "selected": 4.0}
    assert counts["means"]["mean_log_probability"]["selected"] == pytest.approx(-3.5)
    assert counts["means"]["log_probability"]["selected"] == pytest.approx(-(2.5 + 4 + 27) / 3)


def test_a_random_answer_asks_no_model_and_is_the_seeds() -> None:
    class Silent:
        def predictions(self, some: Examples) -> np.ndarray:
            raise AssertionError("asked")

    found = {tuple(sorted(GRAPE(choose="random").select(examples(), None, seed=seed, scoring=Silent()).ids.to_pylist()))
             for seed in range(12)}  # fmt: skip
    assert len(found) > 3 and all(len(one) == 3 and "r3" in one for one in found)


def test_the_first_of_each_group_are_the_first_in_order() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        groups, order = generator.integers(0, 5, 20), generator.permutation(20)
        for count in (1, 3):
            kept = first_of_each(order, groups, count)
            expected = [row for place, row in enumerate(order) if sum(groups[order[:place]] == groups[row]) < count]
            assert kept.tolist() == expected


def test_a_chats_prompt_is_all_before_the_assistants_last_turn() -> None:
    def chat(*said: str) -> str:
        roles = ("user", "assistant")
        return json.dumps([{"role": roles[place % 2], "content": one} for place, one in enumerate(said)])

    chats = pa.array([chat("hi", "a"), chat("hi", "b"), chat("hi", "a", "so", "c"), chat("hi", "a", "so", "d", "end")])
    some = Examples(pa.array(list("wxyz")), {"messages": chats}, np.zeros(4, dtype=np.int64), (), "f")
    codes = prompts_of(some).tolist()
    assert codes[0] == codes[1] != codes[2] == codes[3]


def test_rows_without_prompts_or_with_one_answer_each_are_refused() -> None:
    texts = Examples(pa.array(["a"]), {"text": pa.array(["b"])}, np.zeros(1, dtype=np.int64), (), "f")
    with pytest.raises(UserError, match="rows of text alone have no prompt; give prompt and completion"):
        GRAPE().select(texts, None, seed=0, scoring=Given([0.0], [1]))
    with pytest.raises(UserError, match="each of the 2 prompts has one; give rows that share a prompt, or select all"):
        GRAPE().select(examples([("a", "b"), ("c", "b")]), None, seed=0, scoring=Given([0.0, 0.0], [1, 1]))


@pytest.fixture
def model(tiny_model: Callable[..., Any]) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_model("llama").config).eval()


def scoring_with(model: Any, tokenizer: Any, ledger: Ledger | None = None) -> CountedScoring:
    task = CausalLanguageModelling(max_length=32)
    return CountedScoring(lambda: (model, tokenizer), task, {}, ledger or Ledger(), torch.device("cpu"), "here")


def by_hand(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """The sum of the log-probabilities of an answer's tokens, its end included, in float64."""
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    after = [*after, tokenizer.eos_token_id]
    with torch.no_grad():
        log_p = copy.deepcopy(model).double()(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(float(log_p[len(before) - 1 + place, token]) for place, token in enumerate(after))


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_sum_is_that_of_the_tokens_gathered_by_hand_in_any_batch(
    side: str, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, for which 1e-5 is what the scores' own float32 leaves; whatever side the tokenizer pads on."""
    ledger = Ledger()
    monkeypatch.setattr(tokenizer, "padding_side", side)
    model.double()
    scoring = scoring_with(model, tokenizer, ledger)
    expected = np.array([by_hand(model, tokenizer, *row) for row in ROWS])
    together = scoring.predictions(examples())
    alone = np.concatenate([scoring.predictions(examples([row])) for row in ROWS])
    monkeypatch.setattr(scoring_module, "BATCH", 3)
    for found in (together, alone, scoring.predictions(examples())):
        np.testing.assert_allclose(found[:, 0].astype(np.float64) * found[:, 2], expected, rtol=0, atol=1e-5)
    assert ledger.effective["scoring"].examples == 21 and ledger.effective["scoring"].flops > 0
    best = [max((value, -place) for place, value in enumerate(expected) if ROWS[place][0] == prompt)[1]
            for prompt in ("the film", "a dog", "people")]  # fmt: skip
    assert sorted(chosen(GRAPE(normalise="sum"), scoring)) == sorted(f"r{-place}" for place in best)


def test_the_kept_answer_is_the_likeliest_of_its_prompt_and_there_is_one_for_each() -> None:
    source = np.random.default_rng(5)
    for normalise in ("mean", "sum"):
        rows = [(f"p{source.integers(9)}", f"a{place}") for place in range(60)]
        means, tokens = -source.integers(1, 6, 60) / 4, source.integers(1, 5, 60)  # many of them equal
        scores = means if normalise == "mean" else means * tokens
        method = GRAPE(normalise=normalise)  # type: ignore[arg-type]
        kept = [int(one[1:]) for one in chosen(method, Given(means.tolist(), tokens.tolist()), examples(rows))]
        prompts = [rows[place][0] for place in kept]
        assert sorted(prompts) == sorted({prompt for prompt, _ in rows})
        for place in kept:
            pool = [other for other, (prompt, _) in enumerate(rows) if prompt == rows[place][0]]
            assert scores[place] == max(scores[pool])
            assert f"r{place}" == min(f"r{other}" for other in pool if scores[other] == scores[place]), "equal ones by id"


def test_a_chats_score_is_that_of_what_the_assistant_says_after_the_template(model: Any, tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ m.role + ' ' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + ' ' }}{% endgeneration %}{% else %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    before, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        rows = [("the film", "good"), ("the film", "very bad film")]
        chats = [json.dumps([{"role": "user", "content": one}, {"role": "assistant", "content": other}]) for one, other in rows]
        some = Examples(pa.array(["a", "b"]), {"messages": pa.array(chats)}, np.zeros(2, dtype=np.int64), (), "f")
        said = scoring_with(model.double(), tokenizer).predictions(some)
        for (prompt, answer), found in zip(rows, said):
            begin, whole = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (f"user {prompt} assistant", f"user {prompt} assistant {answer}")
            )
            with torch.no_grad():
                log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = sum(float(log_p[place - 1, whole[place]]) for place in range(len(begin), len(whole)))
            assert found[2] == len(whole) - len(begin)
            assert float(found[0]) * float(found[2]) == pytest.approx(expected, abs=1e-5)
    finally:
        tokenizer.chat_template = before


def test_what_the_model_itself_would_say_beats_the_same_words_in_another_order(model: Any, tokenizer: Any) -> None:
    prompts = ["the film", "a dog", "people", "good bad"]
    tokens = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    said = greedy(model, tokens, most=6, ends=(), pad=0, count=lambda *_: nullcontext())
    rows = []
    for prompt, one in zip(prompts, said):
        text = tokenizer.decode(one)
        shuffled = " ".join(text.split()[::-1])
        if tokenizer(text, add_special_tokens=False)["input_ids"] == one and shuffled != text:
            rows += [(prompt, shuffled), (prompt, text)]
    assert rows, "some greedy text is read again as the same tokens, and is another one backwards"
    expected = [f"r{place}" for place in range(1, len(rows), 2)]
    assert sorted(chosen(GRAPE(), scoring_with(model, tokenizer), examples(rows))) == expected


def test_a_recipe_trains_on_the_chosen_answers(model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    rows = [{"id": f"{place}", "prompt": one, "completion": other} for place, (one, other) in enumerate(ROWS)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**row, "id": "t" + row["id"]}) + "\n" for row in rows[:3]))
    sets = {"test": {"path": str(tmp_path / "test.jsonl"), "role": "id", "split": "validation"}}
    stage = {"model": {"path": str(folder)}, "train": {"steps": 2, "batch_size": 2, "precision": "fp32"}, "select": "grape"}
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 32},
        "data": {"train": {"path": str(tmp_path / "train.jsonl")}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {"main": {**stage, "evaluate": {"name": "language_modelling", "resamples": 0}}},
        "output": str(tmp_path / "runs"),
    }
    recipe = recipe_from_dict(raw, default_name="grape")
    assert "stage main: learns from 3 examples in 2 steps of 2" in list(check_models_and_data(recipe))
    run = run_recipe(recipe)
    kept = read_selection(run / "stages/main/selection.parquet")
    tiny_tokenizer.eos_token = "[SEP]"
    means = [by_hand(model, tiny_tokenizer, *row) / (len(row[1].split()) + 1) for row in ROWS]
    best = {max((means[place], place) for place in range(7) if ROWS[place][0] == prompt)[1] for prompt, _ in ROWS}
    assert {int(name) for name in kept.ids.to_pylist()} == best
    books = read_result(run)["stages"]["main"]["ledger"]["effective"]
    assert books["scoring"]["examples"] == 7 and books["scoring"]["flops"] > 0
