"""S3FT: the model's own answer where it is right, its paraphrase where that is, the given one elsewhere; and a recipe's stage
that learns from them, made once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ftft.data.examples import Examples
from ftft.data.hashing import fingerprint_examples
from ftft.data.prompting import answers_of, questions_of, with_answers, with_questions
from ftft.errors import UserError
from ftft.methods.create.s3ft import S3FT, own_answers
from ftft.methods.created import read_created, write_created
from ftft.run.checking import check_models_and_data
from ftft.run.reading import recipe_from_dict
from ftft.run.recipe import LATER_IN_STAGE, Recipe, without_later
from ftft.run.runner import read_result, run_recipe, run_store
from ftft.run.verifying import verify_run
from ftft.tasks.answers import is_right

PROMPTS = ["2 + 3?", "4 + 4?", "6 - 5?", "1 + 1?"]
GOLD = ["It is 5.", "It is 8.", "It is 1.", "It is 2."]


def examples(prompts: list[str] = PROMPTS, gold: list[str] = GOLD) -> Examples:
    inputs = {"prompt": pa.array(prompts, pa.large_string()), "completion": pa.array(gold, pa.large_string())}
    ids, labels = pa.array([f"r{place}" for place in range(len(gold))]), np.zeros(len(gold), dtype=np.int64)
    return Examples(ids, inputs, labels, (), fingerprint_examples(ids, inputs, labels, ()))


def chats() -> Examples:
    rows = []
    for prompt, gold in zip(PROMPTS, GOLD):
        turns = [("system", "Be short."), ("user", prompt), ("assistant", gold), ("user", "Thanks.")]
        rows.append(json.dumps([{"role": role, "content": said} for role, said in turns], separators=(",", ":")))
    some = examples()
    return dataclasses.replace(some, inputs={"messages": pa.array(rows, pa.large_string())})


class Says:
    """A writer that says to each question what it is told; what it was asked is kept."""

    def __init__(self, answers: Callable[[str], str | None]) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def write(self, some: Examples, most: int) -> list[str | None]:
        assert most == 256
        self.asked.append(questions_of(some))
        return [self.answers(question) for question in questions_of(some)]


def test_each_target_is_from_the_first_that_is_right() -> None:
    def answer(question: str) -> str | None:
        if "A correct answer is" not in question:
            return {"2 + 3?": "Five, that is 5", "4 + 4?": "I say 9", "6 - 5?": None, "1 + 1?": "3"}[question]
        return {"4": "Twice 4 gives 8", "6": "7", "1": "1 and 1 make 2.0"}[question[0]]

    writer = Says(answer)
    created = S3FT().create(examples(), writer)
    assert answers_of(created.examples) == ["Five, that is 5", "Twice 4 gives 8", "It is 1.", "1 and 1 make 2.0"]
    assert created.sources.to_pylist() == ["self", "paraphrase", "gold", "paraphrase"]
    assert created.counts == {"parents": 4, "self": 1, "paraphrase": 2, "gold": 1}
    assert created.parents.equals(examples().ids) and created.examples.ids.equals(examples().ids)
    assert created.examples.inputs["prompt"].equals(examples().inputs["prompt"])
    assert writer.asked[0] == PROMPTS
    assert writer.asked[1][0].startswith("4 + 4?\n\nA correct answer is:\nIt is 8.\n\nAnswer") and len(writer.asked[1]) == 3
    assert created.rule == {"name": "s3ft", **dataclasses.asdict(S3FT())}


def test_always_right_is_all_its_own_and_always_wrong_leaves_the_data_as_they_are() -> None:
    right = Says(lambda question: dict(zip(PROMPTS, ["5", "8", "1", "2"]))[question])
    created = S3FT().create(examples(), right)
    assert set(created.sources.to_pylist()) == {"self"} and answers_of(created.examples) == ["5", "8", "1", "2"]
    assert len(right.asked) == 1 and created.examples.fingerprint != examples().fingerprint
    for wrong in (Says(lambda question: "77"), Says(lambda question: None)):
        created = S3FT().create(examples(), wrong)
        assert set(created.sources.to_pylist()) == {"gold"} and answers_of(created.examples) == GOLD
        assert created.examples.fingerprint == examples().fingerprint and len(wrong.asked) == 2


def test_no_target_but_a_given_one_fails_the_judge() -> None:
    source = np.random.default_rng(0)
    gold = [f"so {place % 7}" for place in range(60)]
    writer = Says(lambda question: f"I think {source.integers(7)}" if source.random() < 0.8 else None)
    created = S3FT().create(examples([f"q{place}" for place in range(60)], gold), writer)
    found = list(zip(answers_of(created.examples), gold, created.sources.to_pylist()))
    assert all(is_right(target, right, "number") for target, right, source in found)
    assert all((target == right) == (source == "gold") for target, right, source in found)
    assert {"self", "paraphrase", "gold"} == {source for _, _, source in found}


def test_paraphrasing_all_is_its_first_step_left_out() -> None:
    writer = Says(lambda question: "5" if question.startswith("2 + 3?\n\nA correct") else None)
    created = S3FT(own=False).create(examples(), writer)
    assert created.sources.to_pylist() == ["paraphrase", "gold", "gold", "gold"] and len(writer.asked) == 1
    alone = Says(lambda question: None)
    S3FT(paraphrase=False).create(examples(), alone)
    assert alone.asked == [PROMPTS]


def test_an_instruction_is_filled_with_what_the_row_says_and_nothing_in_that() -> None:
    writer = Says(lambda question: None)
    S3FT(own=False, instruction="{answer}|{prompt}|{answer}").create(examples(["what is {answer}?"], ["{prompt} 1"]), writer)
    assert writer.asked == [["{prompt} 1|what is {answer}?|{prompt} 1"]]
    with pytest.raises(UserError, match="instruction must hold {answer}, which stand"):
        S3FT(instruction="say {prompt}")
    with pytest.raises(UserError, match="own and paraphrase are both false"):
        S3FT(own=False, paraphrase=False)


def test_a_judge_of_ones_own() -> None:
    steps = [("loud", lambda some: [text.upper() for text in questions_of(some)])]
    targets, sources = own_answers(examples(["a", "bb"], ["x", "y"]), steps, lambda written, gold: len(written) == 2)
    assert (targets, sources) == (["x", "BB"], ["gold", "loud"])


def test_a_chat_is_asked_up_to_the_assistants_last_turn_and_ends_with_its_answer() -> None:
    writer = Says(lambda question: "5" if question == "2 + 3?" else None)
    created = S3FT().create(chats(), writer)
    turns = [json.loads(chat) for chat in created.examples.inputs["messages"].to_pylist()]
    assert [turn["content"] for turn in turns[0]] == ["Be short.", "2 + 3?", "5"]
    assert [turn["role"] for turn in turns[0]] == ["system", "user", "assistant"]
    assert turns[1][-1] == {"role": "assistant", "content": "It is 8."} and writer.asked[0] == PROMPTS
    asked = json.loads(with_questions(chats(), ["other"] * 4).inputs["messages"][0].as_py())
    assert [turn["content"] for turn in asked] == ["Be short.", "other", "It is 5."]
    assert answers_of(with_answers(chats(), ["a", "b", "c", "d"])) == ["a", "b", "c", "d"]


def test_texts_without_a_prompt_are_refused() -> None:
    some = examples()
    texts = dataclasses.replace(some, inputs={"text": some.inputs["prompt"]})
    with pytest.raises(UserError, match="s3ft asks the model what the rows ask, and rows of text alone have no prompt"):
        S3FT().create(texts, Says(lambda question: "1"))


def test_what_was_made_is_read_as_it_was_written(tmp_path: Path) -> None:
    created = S3FT().create(examples(), Says(lambda question: "5"))
    grouped = dataclasses.replace(created.examples, groups=pa.array(list("abab")), clusters=pa.array(list("ccdd")))
    created = dataclasses.replace(created, examples=grouped)
    path = tmp_path / "created.parquet"
    write_created(created, path)
    again = read_created(path)
    for name in ("ids", "groups", "clusters", "inputs", "label_names", "fingerprint"):
        assert getattr(again.examples, name) == getattr(created.examples, name), name
    assert again.sources == created.sources and again.parents == created.parents
    assert (again.rule, again.counts) == (created.rule, created.counts)
    table = pq.read_table(path)
    said = table["input.completion"].to_pylist()
    changed = table.set_column(table.column_names.index("input.completion"), "input.completion", pa.array(["4", *said[1:]]))
    pq.write_table(changed, path)
    with pytest.raises(UserError, match="is not as it was left"):
        read_created(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no examples that were made"):
        read_created(path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        read_created(path)


# -- in a recipe -----------------------------------------------------------------------------------------------------

WORDS = ["good", "bad", "film", "movie", "dog", "cat", "people", "place", "plot", "food", "man", "woman"]
TRAIN = {"steps": 3, "batch_size": 4, "precision": "fp32"}


@pytest.fixture(scope="module")
def llama(tiny_config: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that has learned to say "good film 1" and end, whatever it is asked."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama") / "model"
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config("llama"))
    said = tiny_tokenizer("good film 1", add_special_tokens=False)["input_ids"] + [3]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        asked = torch.randint(5, len(tiny_tokenizer), (16, 4), generator=generator)
        tokens = torch.cat([asked, torch.tensor([said] * 16)], dim=1)
        logits = model(tokens).logits[:, 3:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    return folder


def recipe_of(folder: Path, model: Path, stages: dict[str, Any], **changes: Any) -> Recipe:
    for name, size in (("train", 12), ("test", 4)):
        rows = [
            {"id": f"{name}-{row}", "prompt": f"the {WORDS[row]} a", "completion": f"it is {row % 3}"} for row in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = {"test": {"path": str(folder / "test.jsonl"), "role": "id", "split": "validation"}}
    usual = {"model": {"path": str(model)}, "train": TRAIN, "evaluate": {"name": "language_modelling", "resamples": 0}}
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 64},
        "data": {"train": {"path": str(folder / "train.jsonl")}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {name: {**usual, **stage} for name, stage in stages.items()},
        "output": str(folder / "runs"),
    }
    return recipe_from_dict({**raw, **changes}, default_name="s3ft")


S3 = {"name": "s3ft", "max_tokens": 12, "paraphrase": False}


def test_a_stage_learns_from_what_its_model_made_once(tmp_path: Path, llama: Path) -> None:
    stages = {
        "sft": {},
        "s3ft": {"create": S3, "dynamics": {"mode": "online"}},
        "again": {"create": S3, "use_dynamics_of": "s3ft", "select": {"name": "top", "score": "loss", "count": 4}},
    }
    recipe = recipe_of(tmp_path, llama, stages, baseline="sft", main="s3ft")
    assert "stage s3ft: learns from 12 examples in 3 steps of 4" in list(check_models_and_data(recipe))
    folder = run_recipe(recipe)
    result = read_result(folder)["stages"]
    created = read_created(folder / "stages/s3ft/created.parquet")
    assert created.sources.to_pylist() == ["gold", "self", "gold"] * 4
    assert answers_of(created.examples)[:3] == ["it is 0", "good film 1", "it is 2"]
    assert result["s3ft"]["creation"]["counts"] == {"parents": 12, "self": 4, "paraphrase": 0, "gold": 8}
    books = {name: stage["ledger"]["effective"] for name, stage in result.items()}
    assert "creation" not in books["sft"] and books["s3ft"]["creation"]["flops"] > 0
    assert books["s3ft"]["creation"]["examples"] == 12 and books["s3ft"]["creation"]["tokens"] > 12 * 3
    assert books["again"]["creation"] == books["s3ft"]["creation"], "made once, charged to whoever uses it"
    assert result["s3ft"]["training"]["losses"] != result["sft"]["training"]["losses"]
    own = {name: sum(cost["flops"] for cost in book.values()) for name, book in books.items()}
    assert result["s3ft"]["cost"]["flops"] == own["s3ft"]
    assert result["again"]["cost"]["flops"] == own["s3ft"] + own["again"] - books["s3ft"]["creation"]["flops"]
    keys = {one.name for one in run_store(recipe).root.iterdir() if one.is_dir()}
    assert len(keys) == 4 and result["s3ft"]["creation"]["key"][:20] in keys
    assert len(pq.read_table(folder / "stages/again/selection.parquet")) == 4
    assert [one.mismatch for one in verify_run(folder, steps=2)] == [None, None, None]


def test_what_the_model_says_itself_is_likelier_to_it_than_what_was_given(tmp_path: Path, llama: Path) -> None:
    """Of a model that writes greedily; not a law, for the likeliest token is not always the beginning of the likeliest text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftft.engine.ledger import Ledger
    from ftft.engine.scoring import CountedScoring
    from ftft.tasks.causal_language_modelling import CausalLanguageModelling

    recipe = recipe_of(tmp_path, llama, {"main": {"create": S3}})
    created = read_created(run_recipe(recipe) / "stages/main/created.parquet")
    answers = [f"it is {int(one.removeprefix('train-')) % 3}" for one in created.examples.ids.to_pylist()]
    given = with_answers(created.examples, answers)
    loaded = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    task = CausalLanguageModelling(max_length=64)
    scoring = CountedScoring(lambda: loaded, task, {}, Ledger(), torch.device("cpu"), "here")
    targets, gold = (scoring.predictions(some)[:, 0] for some in (created.examples, given))
    own = np.array(created.sources.to_pylist()) == "self"
    assert own.sum() == 4 and (targets[own] > gold[own]).all() and np.array_equal(targets[~own], gold[~own])
    assert targets.mean() > gold.mean()


def test_what_was_made_before_a_kill_is_not_made_again(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftft.engine.loop import TrainingLoop
    from ftft.engine.writing import CountedWriting

    recipe = recipe_of(tmp_path, llama, {"main": {"create": S3}})

    class Killed(Exception):
        pass

    def killed(self: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "run", killed)
        with pytest.raises(Killed):
            run_recipe(recipe)
    written = []
    monkeypatch.setattr(CountedWriting, "write", lambda *given: written.append(given))
    result = read_result(run_recipe(recipe))["stages"]["main"]
    assert not written and result["ledger"]["effective"]["creation"]["examples"] == 12
    assert "creation" not in result["ledger"]["repeated"]


def test_another_model_makes_others_and_an_earlier_stages_can(tmp_path: Path, llama: Path) -> None:
    learns = {"train": {**TRAIN, "steps": 60}, "optimize": {"name": "adamw", "learning_rate": 1e-2}}
    stages = {"first": learns, "main": {"create": S3, "use_model_of": "first"}}
    recipe = recipe_of(tmp_path, llama, stages)
    folder = run_recipe(recipe)
    result = read_result(folder)["stages"]
    counts = result["main"]["creation"]["counts"]
    assert counts["self"] > 4, "a model that has learned the rows answers more of them"
    assert result["main"]["cost"]["uses"] == ["first"]
    shutil.rmtree(run_store(recipe).root)  # and with it the model that wrote: what it wrote is kept, and selected from anew
    assert [(one.mismatch, one.notes) for one in verify_run(folder, steps=2)] == [(None, ())] * 2


def test_a_small_reference_and_a_large_main_model_learn_from_what_one_model_made(tmp_path: Path, llama: Path) -> None:
    made = {"create": S3, "use_model_of": "base"}
    chosen = {"use_dynamics_of": "small", "select": {"name": "top", "score": "loss", "count": 4}}
    exact = {**TRAIN, "precision": "fp64"}  # its own model's precision is not that of the one that writes
    stages = {
        "base": {},
        "small": {"model": {"path": str(llama), "keep_layers": 1}, "dynamics": {"mode": "online"}, **made},
        "large": {"train": exact, **made, **chosen},
    }
    assert list(check_models_and_data(recipe_of(tmp_path, llama, stages)))[-1] == "the recipe is sound"
    result = read_result(run_recipe(recipe_of(tmp_path, llama, stages)))["stages"]
    assert result["small"]["creation"]["key"] == result["large"]["creation"]["key"]
    without = {"base": {}, "other": {}, **stages, "large": {**stages["large"], "use_model_of": "other"}}
    own = {**stages, "small": {**stages["small"], "use_model_of": None}, "large": {**stages["large"], "use_model_of": None}}
    for wrong in (without, own):  # other writers, whether named or the stages' own
        with pytest.raises(UserError, match="^stages.large.select: these dynamics are of other data"):
            list(check_models_and_data(recipe_of(tmp_path, llama, wrong)))


def test_dynamics_of_the_given_rows_are_no_dynamics_of_those_made(tmp_path: Path, llama: Path) -> None:
    chosen = {"use_dynamics_of": "reference", "select": {"name": "top", "score": "loss", "count": 4}}
    stages = {"reference": {"dynamics": {"mode": "online"}}, "main": {"create": S3, **chosen}}
    with pytest.raises(UserError, match="^stages.main.select: these dynamics are of other data"):
        list(check_models_and_data(recipe_of(tmp_path, llama, stages)))
    with pytest.raises(UserError, match="^stages.main.select: these dynamics are of other data"):
        run_recipe(recipe_of(tmp_path, llama, stages))


def test_what_cannot_be_made_is_refused_before_anything_is_trained(
    tmp_path: Path, llama: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"id": one, "text": f"the {one}"}) + "\n" for one in WORDS))
    data = {"train": {"path": str(tmp_path / "texts.jsonl")}, "columns": {"id": "id"}, "validation_fraction": 0.3}
    recipe = recipe_of(tmp_path, llama, {"first": {}, "main": {"create": S3}}, data=data)
    for work in (lambda: list(check_models_and_data(recipe)), lambda: run_recipe(recipe)):
        with pytest.raises(UserError, match="^stages.main.create: s3ft asks .* rows of text alone have no prompt"):
            work()
    with pytest.raises(UserError, match="^stages.erm.create: s3ft serves the tasks causal_language_modelling and not text"):
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"create": "s3ft"}})
    with pytest.raises(UserError, match="use_model_of is given, and all looks at no model"):
        recipe_of(tmp_path, llama, {"first": {}, "main": {"use_model_of": "first"}})


def test_a_stage_that_makes_nothing_is_keyed_as_before() -> None:
    assert without_later({"create": None, "seed": 1}, LATER_IN_STAGE) == {"seed": 1}
