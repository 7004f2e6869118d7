"""Stages that a trainer of TRL runs: SFT then DPO, KTO or GRPO, what they record, what they cost, and what is refused."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import re
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ftft.bridges.trainers.dpo import DPO
from ftft.bridges.trainers.grpo import GRPO
from ftft.bridges.trainers.kto import KTO
from ftft.data.examples import Examples
from ftft.dynamics.parquet import read_dynamics
from ftft.engine.checkpoint import CheckpointFolder
from ftft.errors import Interrupted, UserError
from ftft.report.learning import learned
from ftft.report.parts import load_parts
from ftft.report.writing import write_report
from ftft.run.checking import check_models_and_data
from ftft.run.reading import recipe_from_dict
from ftft.run.runner import read_result, run_recipe
from ftft.run.verifying import verify_run
from ftft.tasks.causal_language_modelling import CausalLanguageModelling

pytest.importorskip("trl")

WORDS = ["good", "great", "happy", "bad", "terrible", "boring", "film", "movie", "plot", "acting", "food", "place"]
TRAIN = {"steps": 6, "batch_size": 8, "precision": "fp32"}
SGD = {"name": "adamw", "learning_rate": 3e-3}
MET = [{"role": "user", "content": "Good day"}, {"role": "assistant", "content": "Good day"}]
TASK = {"name": "causal_language_modelling", "max_length": 24, "answer": "text", "answer_tokens": 3}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_rows(folder: Path) -> None:
    source = random.Random(0)
    pairs = source.sample([(one, other) for one in WORDS for other in WORDS if one != other], 80)
    prompts = [f"{one} {other}" for one, other in pairs]

    def rows(first: int, last: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
        made = range(first, last)
        return [{"id": row, "prompt": prompts[row], **{name: of(row) for name, of in columns.items()}} for row in made]

    def right(row: int) -> str:
        return pairs[row][1]

    for name, first, last in (("train", 0, 24), ("validation", 24, 32), ("test", 32, 40)):
        write(folder / f"{name}.jsonl", rows(first, last, completion=right))
    write(folder / "pairs.jsonl", rows(40, 64, chosen=right, rejected=lambda row: f"{pairs[row][0]} film"))
    marked = rows(40, 64, completion=lambda row: pairs[row][row % 2], label=lambda row: row % 2 == 1)
    write(folder / "marked.jsonl", marked)
    write(folder / "asked.jsonl", rows(40, 64, answer=right))


def own(folder: Path, file: str) -> dict[str, Any]:
    return {"path": str(folder / file), "columns": {"id": "id"}}


def recipe_of(folder: Path, model: Path, stages: dict[str, Any], sft: Any = MappingProxyType({}), **changes: Any) -> Any:
    if not (folder / "train.jsonl").exists():
        write_rows(folder)
    sets = {
        "validation": {"path": str(folder / "validation.jsonl"), "role": "id", "split": "validation"},
        "test": {"path": str(folder / "test.jsonl"), "role": "id"},
    }
    usual = {"train": TRAIN, "optimize": SGD, "evaluate": {"name": "language_modelling", "resamples": 20}}
    raw = {
        "task": TASK,
        "data": {"train": {"path": str(folder / "train.jsonl")}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {
            "sft": {**usual, "model": {"path": str(model)}, **sft},
            **{name: {**usual, "model": {"stage": "sft"}, **stage} for name, stage in stages.items()},
        },
        "output": str(folder / "runs"),
    }
    return recipe_from_dict({**raw, **changes}, default_name="tiny")


def dpo(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"trainer": "dpo", "data": own(folder, "pairs.jsonl"), "dynamics": {"mode": "online"}, **changes}


def log_probability(model: Any, tokenizer: Any, prompt: str, completion: str) -> float:
    first, last = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    last = [*last, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([first + last])).logits[0, len(first) - 1 : -1].double()
    return -float(torch.nn.functional.cross_entropy(logits, torch.tensor(last), reduction="sum"))


def models_of(result: dict[str, Any], folder: Path, *stages: str) -> list[Any]:
    from transformers import AutoModelForCausalLM

    store = folder / "runs" / ".store"
    return [AutoModelForCausalLM.from_pretrained(store / result["stages"][one]["key"][:20] / "model") for one in stages]


def test_sft_then_dpo_end_to_end(tmp_path: Path, tiny_llama_folder: Path) -> None:
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path)})
    lines = list(check_models_and_data(recipe))
    assert "stage dpo: 24 rows for its trainer" in lines and lines[-1] == "the recipe is sound"
    folder = run_recipe(recipe)
    result = read_result(folder)
    stage = result["stages"]["dpo"]
    assert stage["training"]["steps"] == 6 and stage["training"]["steps_per_epoch"] == 3
    assert stage["training"]["losses"][0] == pytest.approx(math.log(2), abs=1e-6)
    dynamics = read_dynamics(folder / "stages/dpo/dynamics.parquet")
    assert list(dynamics.statistics) == ["margin"] and dynamics.seen.all() and dynamics.epochs == (0, 1)
    assert dynamics.statistics["margin"][1].mean() > dynamics.statistics["margin"][0].mean() > 0
    assert stage["ledger"]["effective"]["training"]["flops"] > 0
    assert set(stage["evaluation"]) == {"validation", "test"}
    assert result["stages"]["dpo"]["cost"]["uses"] == ["sft"]


COURSE = {"batch_size": 24, "precision": "fp32", "schedule": "constant", "warmup": 0.0, "clip": None}


def test_a_recorded_margin_is_that_of_the_model_before_the_step(tmp_path: Path, tiny_llama_folder: Path) -> None:
    from transformers import AutoTokenizer

    stages = {
        "one": dpo(tmp_path, train={**COURSE, "steps": 1}, trainer={"name": "dpo", "beta": 0.3}),
        "two": dpo(tmp_path, train={**COURSE, "steps": 2}, trainer={"name": "dpo", "beta": 0.3}),
    }
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, stages))
    model, reference = models_of(read_result(folder), tmp_path, "one", "sft")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    dynamics = read_dynamics(folder / "stages/two/dynamics.parquet")
    recorded = dict(zip(dynamics.ids.to_pylist(), dynamics.statistics["margin"].T.tolist()))
    for line in (tmp_path / "pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        ratio = {
            name: log_probability(model, tokenizer, row["prompt"], row[name])
            - log_probability(reference, tokenizer, row["prompt"], row[name])
            for name in ("chosen", "rejected")
        }
        assert recorded[str(row["id"])] == pytest.approx([0.0, 0.3 * (ratio["chosen"] - ratio["rejected"])], abs=1e-4)


class Killed(Exception):
    pass


ABLE = {"train": {**TRAIN, "steps": 40, "schedule": "constant"}, "optimize": {"name": "adamw", "learning_rate": 1e-2}}


def run_killed_at(recipe: Any, stage: str, step: int) -> Path:
    """Run, with an exception after that step as a kill, and again to the end."""

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["stage"] == stage and event["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        run_recipe(recipe, notify=kill)
    resumed = []
    folder = run_recipe(recipe, notify=lambda event: resumed.append(event) if event["event"] == "resumed" else None)
    assert [event["step"] for event in resumed] == [step - 1]
    return folder


def grpo(folder: Path, **changes: Any) -> dict[str, Any]:
    trainer = {"name": "grpo", "generations": 4}
    return {"trainer": trainer, "data": own(folder, "asked.jsonl"), "dynamics": {"mode": "online"}, **changes}


def kto(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"trainer": "kto", "data": own(folder, "marked.jsonl"), "dynamics": {"mode": "online"}, **changes}


MAKERS = {"dpo": dpo, "kto": kto, "grpo": grpo}
LORA = {"name": "lora", "rank": 2, "dropout": 0.1}
DORA = {"name": "peft", "type": "lora", "options": {"r": 2, "use_dora": True}}
IA3 = {"name": "peft", "type": "ia3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adapt", "micro", "step"),  # after step 3 an epoch has ended
    [
        ("dpo", "full", None, 4),
        ("dpo", LORA, 4, 5),
        ("kto", "full", None, 5),
        ("kto", LORA, None, 4),
        ("kto", "linear_probe", None, 3),
        ("kto", "s2ft", None, 5),
        ("kto", DORA, None, 5),
        ("kto", IA3, None, 5),
        ("grpo", LORA, 4, 4),
        ("grpo", "full", None, 5),
        ("grpo", "linear_probe", None, 5),
        ("grpo", "s2ft", None, 5),
        ("grpo", DORA, None, 5),
        ("grpo", IA3, None, 5),
    ],
)
def test_resumed_is_undisturbed_bit_for_bit(
    tmp_path: Path, tiny_llama_folder: Path, name: str, adapt: Any, micro: int | None, step: int
) -> None:
    train = {**TRAIN, "checkpoint_seconds": 1e-9, "micro_batch_size": micro}
    stage = MAKERS[name](tmp_path, train=train, adapt=adapt)
    recipes = [
        recipe_of(tmp_path, tiny_llama_folder, {"it": stage}, ABLE, output=str(tmp_path / one))
        for one in ("straight", "killed")
    ]
    straight, resumed = run_recipe(recipes[0]), run_killed_at(recipes[1], "it", step)
    assert (straight / "model/model.safetensors").read_bytes() == (resumed / "model/model.safetensors").read_bytes()
    one, other = (read_result(folder)["stages"]["it"] for folder in (straight, resumed))
    assert one["training"]["losses"] == other["training"]["losses"] and len(one["training"]["losses"]) == 6
    books = [stage["ledger"]["effective"]["training"] for stage in (one, other)]
    for count in ("flops", "examples", "tokens", "steps"):
        assert books[0][count] == books[1][count] > 0
    tables = [read_dynamics(folder / "stages/it/dynamics.parquet") for folder in (straight, resumed)]
    assert np.array_equal(tables[0].seen, tables[1].seen) and tables[0].seen.all()
    for statistic, values in tables[0].statistics.items():
        assert np.ptp(values) > 0 and np.array_equal(values, tables[1].statistics[statistic])


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 6)])
def test_a_stage_that_is_asked_to_stop_saves_the_step_in_hand_and_resumes(
    tmp_path: Path, tiny_llama_folder: Path, number: signal.Signals, step: int
) -> None:
    straight, stopped = (
        recipe_of(tmp_path, tiny_llama_folder, {"it": dpo(tmp_path)}, output=str(tmp_path / one)) for one in ("one", "other")
    )
    told: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        told.append(event)
        if event["event"] == "step" and event["stage"] == "it" and event["step"] == step:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"^interrupted at step {step} of 6, which is saved; run the same command again"):
        run_recipe(stopped, notify=stop)
    assert told[-1]["step"] == step and signal.getsignal(number) is before
    resumed: list[dict[str, Any]] = []
    folders = run_recipe(straight), run_recipe(stopped, notify=resumed.append)
    steps = [event["step"] for event in resumed if event["event"] in ("resumed", "step") and event["stage"] == "it"]
    assert steps == list(range(step, 7)), "taken up behind the last step, and none is repeated"
    one, other = (read_result(folder)["stages"]["it"] for folder in folders)
    assert one["training"]["losses"] == other["training"]["losses"]
    assert other["ledger"]["repeated"].get("training", {"steps": 0})["steps"] == 0
    models = [(folder / "model/model.safetensors").read_bytes() for folder in folders]
    assert models[0] == models[1]


def test_a_checkpoint_is_let_go_before_the_first_step_after_it(
    tmp_path: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[Any]] = []
    held: list[bool] = []
    real = CheckpointFolder.newest_valid

    def newest_valid(self: Any, **given: Any) -> Any:
        found = real(self, **given)
        kept.extend([] if found is None else [weakref.ref(found)])
        return found

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["stage"] == "it":
            gc.collect()
            held.extend(one() is not None for one in kept)
            if not kept and event["step"] == 2:
                raise Killed

    monkeypatch.setattr(CheckpointFolder, "newest_valid", newest_valid)
    train = {**TRAIN, "steps": 3, "checkpoint_seconds": 1e-9}
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"it": dpo(tmp_path, train=train)})
    with pytest.raises(Killed):
        run_recipe(recipe, notify=kill)
    run_recipe(recipe, notify=kill)
    assert held == [False, False]


def test_each_stage_computes_in_its_own_precision(tmp_path: Path, tiny_llama_folder: Path) -> None:
    half = {**TRAIN, "precision": "bf16"}
    stages = {"full": dpo(tmp_path), "half": dpo(tmp_path, train=half), "again": dpo(tmp_path, seed=1)}
    results = [
        read_result(run_recipe(recipe_of(tmp_path, tiny_llama_folder, chosen, output=str(tmp_path / place))))
        for place, chosen in (("one", stages), ("other", {"again": stages["again"]}))
    ]
    losses = {name: results[0]["stages"][name]["training"]["losses"] for name in stages}
    assert losses["half"] != losses["full"] and losses["half"] == pytest.approx(losses["full"], abs=0.05)
    assert losses["again"] == results[1]["stages"]["again"]["training"]["losses"] != losses["full"]


def test_the_bill_holds_the_forward_passes_of_the_reference(tmp_path: Path, tiny_llama_folder: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path, train={**TRAIN, "steps": 3})}))
    spent = read_result(folder)["stages"]["dpo"]["ledger"]["effective"]["training"]
    model, batch = (
        AutoModelForCausalLM.from_pretrained(tiny_llama_folder),
        torch.zeros(16, 8, dtype=torch.int64),
    )  # both answers, padded
    with FlopCounterMode(display=False) as plain:
        model.model(batch).last_hidden_state.sum().backward()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.model(batch)
    head = 2 * 16 * 7 * model.config.hidden_size * model.config.vocab_size  # of the seven tokens that are predicted
    assert (spent["examples"], spent["steps"]) == (24, 3)
    assert spent["flops"] / 3 == pytest.approx(plain.get_total_flops() + forward.get_total_flops() + 4 * head, rel=0.02)


def test_an_adapter_is_merged_into_plain_weights(tmp_path: Path, tiny_llama_folder: Path) -> None:
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path, adapt={"name": "lora", "rank": 2})}))
    before, after = (one.state_dict() for one in models_of(read_result(folder), tmp_path, "sft", "dpo"))
    assert before.keys() == after.keys()
    changed = {name.rpartition(".weight")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.endswith("_proj") or name == "lm_head" for name in changed)
    assert all(torch.linalg.matrix_rank(after[f"{one}.weight"] - before[f"{one}.weight"]) <= 2 for one in changed - {"lm_head"})


PEFT = {
    "dora": {"type": "lora", "options": {"r": 2, "use_dora": True}},
    "vera": {"type": "vera", "options": {"r": 4}},
    "ia3": {"type": "ia3"},
    "loha": {"type": "loha", "options": {"r": 2}},
    "oft": {"type": "oft", "options": {"oft_block_size": 4}},
}


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["full", "lora", "linear_probe", "s2ft", *PEFT])
def test_every_adapter_starts_at_the_reference_resumes_and_is_merged(
    tmp_path: Path, tiny_llama_folder: Path, adapt: str
) -> None:
    train = {**COURSE, "steps": 3, "checkpoint_seconds": 1e-9}
    section = {"name": "peft", **PEFT[adapt]} if adapt in PEFT else adapt
    stages = {"it": dpo(tmp_path, train=train, adapt=section)}
    recipes = [recipe_of(tmp_path, tiny_llama_folder, stages, output=str(tmp_path / one)) for one in ("straight", "runs")]
    straight, resumed = run_recipe(recipes[0]), run_killed_at(recipes[1], "it", 2)
    assert (straight / "model/model.safetensors").read_bytes() == (resumed / "model/model.safetensors").read_bytes()
    margins = [read_dynamics(folder / "stages/it/dynamics.parquet").statistics["margin"] for folder in (straight, resumed)]
    assert np.array_equal(margins[0], margins[1]) and len(margins[0]) == 3
    assert not margins[0][0].any() and margins[0][1:].all(), (
        "the model is its own reference before the first step, and then not"
    )
    result = read_result(resumed)
    losses = result["stages"]["it"]["training"]["losses"]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-7) and losses[2] < losses[1] < losses[0]
    models = models_of(result, tmp_path, "sft", "it")
    before, after = (one.state_dict() for one in models)
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    # The last margin was recorded a step ago: the loaded model has gone on the same way.
    assert _mean_margin(tmp_path, tiny_llama_folder, *models) > margins[0][2].mean() > margins[0][1].mean() > 0


@pytest.mark.parametrize(
    ("adapt", "sentence"),
    [
        (
            "bias_only",
            "stages.it.adapt: bias_only needs bias terms, and .* LlamaForCausalLM has none; use full or linear_probe",
        ),
        ({"name": "peft", "type": "lily"}, "stages.it.adapt: peft's LILY cannot be merged .*; choose an adapter that can"),
        ({"name": "lora", "targets": ["fused"]}, 'stages.it.adapt.targets: LlamaForCausalLM has no projection "fused"'),
    ],
)
def test_an_adapter_that_the_model_cannot_have_is_refused_before_any_stage(
    tmp_path: Path, tiny_llama_folder: Path, adapt: Any, sentence: str
) -> None:
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"it": dpo(tmp_path, adapt=adapt)})
    for asked in (lambda: list(check_models_and_data(recipe)), lambda: run_recipe(recipe)):
        with pytest.raises(UserError, match=f"^{sentence}"):
            asked()
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_an_adapter_is_tried_on_the_models_shapes(
    tmp_path: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("the weights are read")

    monkeypatch.setattr("ftft.models.loading.load_model", never)
    for adapt in ("lora", "linear_probe", {"name": "peft", "type": "vera"}):
        recipe = recipe_of(tmp_path, tiny_llama_folder, {"it": dpo(tmp_path, adapt=adapt)})
        assert list(check_models_and_data(recipe))[-1] == "the recipe is sound"


def _mean_margin(folder: Path, tokens: Path, reference: Any, model: Any) -> float:
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(tokens), []
    for line in (folder / "pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        said = [
            [log_probability(one, tokenizer, row["prompt"], row[name]) for name in ("chosen", "rejected")]
            for one in (model, reference)
        ]
        found.append(0.1 * (said[0][0] - said[0][1] - said[1][0] + said[1][1]))
    return float(np.mean(found))


def test_kto_records_how_far_each_answer_went_the_way_of_its_label(tmp_path: Path, tiny_llama_folder: Path) -> None:
    from transformers import AutoTokenizer

    stages = {
        "one": kto(tmp_path, train={**COURSE, "steps": 1}, trainer={"name": "kto", "beta": 0.3}),
        "two": kto(tmp_path, train={**COURSE, "steps": 2}, trainer={"name": "kto", "beta": 0.3}),
    }
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, stages))
    result = read_result(folder)
    assert result["stages"]["two"]["training"]["losses"][0] == pytest.approx(0.5, abs=1e-6)  # r = z = 0
    model, reference = models_of(result, tmp_path, "one", "sft")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    dynamics = read_dynamics(folder / "stages/two/dynamics.parquet")
    recorded = dict(zip(dynamics.ids.to_pylist(), dynamics.statistics["margin"].T.tolist()))
    for line in (tmp_path / "marked.jsonl").read_text().splitlines():
        row = json.loads(line)
        ratio = log_probability(model, tokenizer, row["prompt"], row["completion"]) - log_probability(
            reference, tokenizer, row["prompt"], row["completion"]
        )
        assert recorded[str(row["id"])] == pytest.approx([0.0, 0.3 * (ratio if row["label"] else -ratio)], abs=1e-4)


def test_grpo_records_the_share_and_the_variance_of_right_answers(tmp_path: Path, tiny_llama_folder: Path) -> None:
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, {"grpo": grpo(tmp_path)}, ABLE))
    found = read_dynamics(folder / "stages/grpo/dynamics.parquet")
    rate = found.statistics["pass_rate"].astype(np.float64)
    assert set(np.unique(rate)) <= {0.0, 0.25, 0.5, 0.75, 1.0} and rate.max() > 0
    assert np.allclose(found.statistics["reward_variance"], rate * (1 - rate), atol=1e-7)
    spent = read_result(folder)["stages"]["grpo"]["ledger"]["effective"]["training"]
    assert spent["examples"] == 48 and 48 * 4 * 3 <= spent["tokens"] <= 48 * 4 * 5


@pytest.mark.slow
def test_grpo_learns_to_write_what_is_rewarded(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    write(tmp_path / "one_word.jsonl", [{**row, "answer": "film"} for row in rows])
    train = {"steps": 24, "batch_size": 8, "precision": "fp32", "schedule": "constant"}
    able = grpo(tmp_path, data=own(tmp_path, "one_word.jsonl"), train=train, optimize={"name": "adamw", "learning_rate": 5e-3})
    able["trainer"] = {"name": "grpo", "generations": 8}
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, {"grpo": able}, ABLE))
    rate = read_dynamics(folder / "stages/grpo/dynamics.parquet").statistics["pass_rate"].mean(axis=1)
    assert rate[-1] > rate[0] + 0.3


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path, tiny_llama_folder: Path) -> None:
    wild = {"name": "sgd", "learning_rate": 1e30}
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path, optimize=wild, train={**COURSE, "steps": 4})})
    with pytest.raises(UserError, match=r"^the loss became (nan|inf) at step \d of 4 and training stopped"):
        run_recipe(recipe)


def test_rows_whose_prompt_is_evaluated_are_told_or_left_out(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    tested = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])["prompt"]
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    write(tmp_path / "pairs.jsonl", [{**rows[0], "prompt": tested}, *rows[1:]])
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path)})
    told = [line for line in check_models_and_data(recipe) if "whose prompt is in" in line]
    assert told == [
        'warning: stages.dpo.data: rows whose prompt is in the evaluation set "test": 1, learned from all the same '
        "(data.drop_duplicates_of_evaluation leaves out such rows)"
    ]
    recipe = replace(recipe, data=replace(recipe.data, drop_duplicates_of_evaluation=True))
    assert "stage dpo: 23 rows for its trainer" in list(check_models_and_data(recipe))


def test_a_chat_of_an_evaluation_set_asks_its_last_question(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        asked = [[*MET, {"role": "user", "content": row["prompt"]}] for row in rows]
        chats = [[*turns, {"role": "assistant", "content": row["completion"]}] for turns, row in zip(asked, rows)]
        write(tmp_path / f"{name}.jsonl", [{"id": row["id"], "messages": chat} for row, chat in zip(rows, chats)])
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    tested = rows[0]["prompt"].upper()
    write(tmp_path / "pairs.jsonl", [{**pairs[0], "prompt": tested}, {**pairs[1], "prompt": "Good day"}, *pairs[2:]])
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"dpo": dpo(tmp_path)})
    told = [line for line in check_models_and_data(recipe) if "whose prompt is in" in line]
    assert len(told) == 1 and 'whose prompt is in the evaluation set "test": 1, learned from all the same' in told[0]
    recipe = replace(recipe, data=replace(recipe.data, drop_duplicates_of_evaluation=True))
    assert "stage dpo: 23 rows for its trainer" in list(check_models_and_data(recipe))


def test_what_is_noticed_of_a_trainers_rows_is_told(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    lines = ["prompt\tchosen\trejected", *(f'{one}\tgood\t"a ""{one}"" film"' for one in WORDS)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    stage = dpo(tmp_path, data={"path": str(tmp_path / "pairs.tsv")}, train={**TRAIN, "steps": 1, "batch_size": 4})
    recipe = recipe_of(tmp_path, tiny_llama_folder, {"dpo": stage})
    sentence = "pairs.tsv: 12 texts look as if written with quoting, which TSV files are read without"
    assert [line for line in check_models_and_data(recipe) if line.startswith("warning: ") and sentence in line]
    assert any(sentence in line for line in read_result(run_recipe(recipe))["warnings"])


def test_the_page_keeps_rows_of_another_file_apart(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    write(tmp_path / "pairs.jsonl", [{**row, "id": place} for place, row in enumerate(rows[:16])])  # ids of the training rows
    columns = {"id": "id", "group": "completion"}
    stages = {"dpo": dpo(tmp_path)}
    recipe = recipe_of(tmp_path, tiny_llama_folder, stages, {"dynamics": {"mode": "online"}}, report_texts=True)
    recipe = replace(recipe, data=replace(recipe.data, columns=replace(recipe.data.columns, **columns)))
    folder = run_recipe(recipe)
    result = read_result(folder)
    assert learned(result, "dpo") == replace(learned(result, "sft"), rows=16, examples=16, pool=16, selected=16)  # type: ignore[type-var]
    parts = load_parts(folder, result)
    assert parts.apart == {"dpo"} and set(parts.selections) == {"sft"} and set(parts.maps) == {"sft", "dpo"}
    block = re.search(r'<script[^>]*id="ftft-map-data"[^>]*>(.*?)</script>', write_report(folder).read_text(), re.DOTALL)
    assert block is not None
    shown = json.loads(block[1])
    assert [one["name"] for one in shown["maps"]] == ["of stage sft"] and shown["n"] == 24


def test_a_stage_of_the_engine_goes_on_from_another_stages_model(tmp_path: Path, tiny_llama_folder: Path) -> None:
    more = {"optimize": {"name": "sgd", "learning_rate": 1e-30, "momentum": 0.0}}
    stages = {"more": more, "cut": {**more, "model": {"stage": "sft", "keep_layers": 1}}, "dpo": dpo(tmp_path)}
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, stages, main="more"))
    result = read_result(folder)
    before, after, cut = (one.state_dict() for one in models_of(result, tmp_path, "sft", "more", "cut"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert cut.keys() < before.keys() and all(torch.equal(value, before[name]) for name, value in cut.items())
    assert result["stages"]["more"]["model"]["source"] == "stage sft"
    said = {one.stage: (one.mismatch, one.notes, one.left_out) for one in verify_run(folder, steps=2)}
    assert said == {name: (None, (), "a trainer of TRL ran it" if name == "dpo" else None) for name in ("sft", *stages)}


def test_grpo_can_learn_from_the_rows_of_the_recipe_and_nothing_is_sent(
    tmp_path: Path, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(*what: Any, **more: Any) -> None:
        raise AssertionError(f"{what} was sent")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", sent)
    stage = grpo(tmp_path, data=None, train={**TRAIN, "batch_size": 10, "epochs": 1, "steps": None})
    folder = run_recipe(recipe_of(tmp_path, tiny_llama_folder, {"grpo": stage}))
    assert read_result(folder)["stages"]["grpo"]["training"]["steps"] == 2  # of 24 rows, in whole batches
    found = read_dynamics(folder / "stages/grpo/dynamics.parquet")
    assert found.ids.to_pylist() == [str(row) for row in range(24)] and found.seen.sum() == 20


def test_a_prompt_that_is_too_long_is_cut_alike_before_both_answers(tiny_llama_folder: Path) -> None:
    from ftft.models.loading import load_saved

    _, tokenizer = load_saved(tiny_llama_folder, "causal_language_model")
    texts = {"prompt": "good bad " * 9, "chosen": "film", "rejected": "film plot food place"}
    rows = Examples(
        pa.array(["a"]), {name: pa.array([text]) for name, text in texts.items()}, np.zeros(1, dtype=np.int64), (), ""
    )
    task = CausalLanguageModelling(max_length=16)
    (length,) = DPO().lengths(rows, task, tokenizer)
    assert length == 2 * (16 - 5) + 2 + 5  # room for the longer answer and its end, whichever follows


@pytest.mark.parametrize("maker", [DPO, KTO, lambda: GRPO(reward="text")])
def test_an_answer_before_which_nothing_comes_is_refused(maker: Callable[[], Any], tiny_llama_folder: Path) -> None:
    from ftft.models.loading import load_saved

    _, tokenizer = load_saved(tiny_llama_folder, "causal_language_model")
    answers = {name: pa.array(["film", "film food"]) for name in ("chosen", "completion", "answer")}

    def rows(first: str) -> Examples:
        inputs = {"prompt": pa.array([first, "good"]), "rejected": pa.array(["film plot", "bad"]), **answers}
        return Examples(pa.array(["a", "b"]), inputs, np.zeros(2, dtype=np.int64), (), "")

    trainer, task = maker(), CausalLanguageModelling(max_length=16)
    assert len(trainer.lengths(rows("good"), task, tokenizer)) == 2
    with pytest.raises(UserError, match="^example a has an empty prompt, and the tokenizer begins no text with a token of"):
        trainer.lengths(rows(" "), task, tokenizer)  # a tokenizer may leave nothing of a prompt


def test_the_model_must_have_positions_for_what_grpo_writes(tmp_path: Path, tiny_llama_folder: Path) -> None:
    def recipe(max_length: int, stage: dict[str, Any]) -> Any:
        task = {"name": "causal_language_modelling", "max_length": max_length, "answer_tokens": 3}
        return recipe_of(tmp_path, tiny_llama_folder, {"it": stage}, task=task)

    own_reward = grpo(tmp_path, trainer={"name": "grpo", "generations": 4, "reward": "text"})
    for fits in (recipe(125, own_reward), recipe(128, dpo(tmp_path)), recipe(128, kto(tmp_path))):
        assert list(check_models_and_data(fits))[-1] == "the recipe is sound"
    for work in (lambda of: list(check_models_and_data(of)), run_recipe):
        with pytest.raises(UserError) as refused:
            work(recipe(126, own_reward))
        assert str(refused.value) == (
            "stages.it.model: the model has positions for 128 tokens, but task.max_length is 126 and task.answer_tokens is 3; "
            "give both together at most 128"
        )


def test_bad_rows_are_refused_in_one_sentence(tmp_path: Path, tiny_llama_folder: Path) -> None:
    write_rows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "marked.jsonl").read_text().splitlines()]
    write(tmp_path / "marked.jsonl", [{**row, "label": "yes" if row["label"] else "no"} for row in rows])
    for stage, sentence in (
        (kto(tmp_path), 'stages.it.data: the label "no" does not say whether an answer is desirable; write true or false'),
        (dpo(tmp_path, data=own(tmp_path, "test.jsonl")), "that stages.it.data reads too"),
        (dpo(tmp_path, data=own(tmp_path, "asked.jsonl")), "chosen"),
        (grpo(tmp_path, train={**TRAIN, "batch_size": 32}), "stages.it.train.batch_size: there are 24 prompts"),
        (kto(tmp_path, data=own(tmp_path, "few.jsonl")), "stages.it.train.batch_size: the last batch of 8 would hold a single"),
    ):
        write(tmp_path / "few.jsonl", [{**row, "label": row["label"]} for row in rows[:9]])
        with pytest.raises(UserError) as refused:
            list(check_models_and_data(recipe_of(tmp_path, tiny_llama_folder, {"it": stage})))
        assert sentence in str(refused.value) and "\n" not in str(refused.value)
