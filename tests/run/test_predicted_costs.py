"""What is predicted of a recipe's cost is what its run counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.engine import predicting
from ftft.engine.ledger import Ledger
from ftft.methods.registry import build_task
from ftft.run.checking import check_models_and_data
from ftft.run.predicted_costs import PredictedCosts, predict_costs
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe

COUNTS = ("flops", "examples", "tokens", "steps")


def predicted(recipe: Recipe) -> PredictedCosts:
    lines = check_models_and_data(recipe)
    while True:
        try:
            next(lines)
        except StopIteration as end:
            return predict_costs(recipe, build_task(recipe.task), end.value.data, end.value.plans)


def counts(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Everything in the books but time, by phase."""
    whole = {phase: {name: getattr(cost, name) for name in COUNTS} for phase, cost in ledger.effective.items()}
    return {phase: found for phase, found in whole.items() if any(found.values())}


def require_as_counted(recipe: Recipe) -> tuple[PredictedCosts, dict[str, Any]]:
    """Run what was predicted; every phase of every stage, the whole costs, the shares and the evaluations are equal."""
    found = predicted(recipe)
    result = read_result(run_recipe(recipe))
    assert list(found.stages) == list(result["stages"])
    for name, one in found.stages.items():
        run = result["stages"][name]
        assert one.unknown == []
        assert counts(one.ledger) == counts(Ledger.from_json(run["ledger"]))
        assert one.reporting == Ledger.from_json(run["reporting_ledger"]).total().flops
        assert found.whole(name) == run["cost"]["flops"]
        assert found.fraction(name) == run["cost"]["fraction_of_erm"]
        assert found.erm.source == run["cost"]["erm_source"]
    return found, result


ONE = [
    {},
    {"adapt": {"name": "linear_probe"}},
    {"adapt": {"name": "lora", "rank": 2}},
    {"adapt": {"name": "probe_then_full"}},
    {"optimize": {"name": "sam"}},
    {"optimize": {"name": "lisa", "layers": 1, "interval": 5}},
    {"objective": {"name": "asft"}},
    {"objective": {"name": "mixup"}},
    {"objective": {"name": "dr_tune"}},
]


@pytest.mark.parametrize("stage", ONE, ids=[json.dumps(stage) for stage in ONE])
def test_one_stage_costs_what_was_predicted(
    stage: dict[str, Any], tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    require_as_counted(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": stage}))


def test_ftft_costs_what_was_predicted_with_its_reference_and_its_evaluations(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    train = {"epochs": 2.5, "batch_size": 16, "micro_batch_size": 4, "precision": "fp32", "evaluate_every": 0.3}
    stages = {
        "erm": {"train": train},
        "reference": {
            "model": {"path": str(tiny_bert_folder), "keep_layers": 1},
            "train": train,
            "dynamics": {"mode": "epoch_end"},
        },
        "main": {
            "use_dynamics_of": "reference",
            "select": {"name": "top", "score": "variability", "fraction": 0.33},
            "adapt": {"name": "lora", "rank": 2},
            "stop": {"patience": 1000, "on": ["validation", "ood_validation"]},
            "combine": {"name": "best"},
        },
    }
    found, result = require_as_counted(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm"))
    reference, main = found.stages["reference"], found.stages["main"]
    assert {"training", "scoring", "evaluation"} <= set(reference.ledger.effective)
    assert main.examples == result["stages"]["main"]["selection"]["examples"]
    assert main.about == ["as many examples at random stand for those that dynamics will choose"]
    assert main.largest == ["early stopping"] and reference.largest == reference.about == []


def test_without_a_baseline_the_unit_is_estimated_as_the_run_does(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    stage = {"select": {"name": "random", "fraction": 0.5}}
    found, result = require_as_counted(tiny_recipe(tmp_path, tiny_bert_folder, {"main": stage}))
    assert "estimated" in found.erm.source and found.erm.flops == result["stages"]["main"]["cost"]["erm_flops"]


@pytest.mark.parametrize("pack", [False, True])
def test_a_language_model_costs_what_was_predicted(
    pack: bool, tmp_path: Path, tiny_llama_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    require_as_counted(language_recipe(tmp_path, tiny_llama_folder, tiny_recipe, {"train": {**LANGUAGE, "pack": pack}}))


LANGUAGE = {"epochs": 2, "batch_size": 8, "precision": "fp32"}


def language_recipe(folder: Path, model: Path, tiny_recipe: Callable[..., Any], stage: dict[str, Any], **task: Any) -> Recipe:
    """Prompts and completions of one to nine words."""
    for name, count in (("train", 40), ("validation", 10)):
        rows = [
            {"id": f"{name}{row}", "prompt": "good " * (1 + row % 4), "completion": "dog " * (1 + row % 5)}
            for row in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "train": {"path": str(folder / "train.jsonl")},
        "columns": {"id": "id"},
        "evaluation": {"validation": {"path": str(folder / "validation.jsonl"), "role": "id", "split": "validation"}},
    }
    tasks = {"name": "causal_language_modelling", "max_length": 32, "add_end": False, **task}
    usual = {"train": LANGUAGE, "evaluate": {"name": "language_modelling", "resamples": 20}}
    return tiny_recipe(folder, model, {"sft": {**usual, **stage}}, data=data, task=tasks)


def test_trials_of_a_search_are_predicted(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]) -> None:
    space = {"optimize.learning_rate": {"low": 1e-5, "high": 1e-4}}
    search = {"on": ["validation"], "trials": 3, "steps": 4, "sampler": "random", "space": space}
    found, _ = require_as_counted(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"search": search}}))
    assert found.stages["erm"].ledger.effective["search"].steps == 12
    assert found.stages["erm"].largest == ["trials that diverge"]


@pytest.fixture
def uneven(tmp_path: Path, tiny_sentences: Callable[..., Path]) -> Path:
    """A folder whose training rows are of very different lengths."""
    tiny_sentences(tmp_path / "train.csv", 96, seed=0, words=(2, 28))
    return tmp_path


def test_the_cost_of_more_lengths_than_are_counted_follows_from_that_of_others(
    uneven: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(uneven, tiny_bert_folder, {"erm": {"train": {"epochs": 2, "batch_size": 8, "precision": "fp32"}}})
    monkeypatch.setattr(predicting, "MOST_SHAPES", 3)
    found, _ = require_as_counted(recipe)
    assert found.stages["erm"].about == ["the cost of some lengths follows from that of others"]


def test_a_sample_stands_for_many_rows(
    uneven: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(uneven, tiny_bert_folder, {"erm": {"train": {"epochs": 4, "batch_size": 8, "precision": "fp32"}}})
    exact = predicted(recipe)
    monkeypatch.setattr(predicting, "READ_WHOLE", 90)
    monkeypatch.setattr(predicting, "SAMPLE", 48)
    about = predicted(recipe)
    assert about.stages["erm"].about == ["lengths are those of a sample"] and exact.stages["erm"].about == []
    assert about.stages["erm"].ledger.total().steps == exact.stages["erm"].ledger.total().steps
    assert 0 < abs(about.whole("erm") / exact.whole("erm") - 1) < 0.15


NOT_KNOWN = {
    "looks at examples first": {"adapt": {"name": "eva", "rank": 2}},
    "cannot do without numbers": {"adapt": {"name": "lift"}},
    "looks at is not counted": {"select": {"name": "got_d", "target": "validation", "fraction": 0.2}},
    "measures as many models": {"combine": {"name": "greedy_soup"}, "use_models_of": ["erm"]},
}


@pytest.mark.parametrize("reason", NOT_KNOWN)
def test_what_cannot_be_predicted_is_not_known_and_says_why(
    reason: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}, "main": NOT_KNOWN[reason]}, baseline="erm")
    found = predicted(recipe)
    assert len(found.stages["main"].unknown) == 1 and reason in found.stages["main"].unknown[0]
    assert found.whole("main") is None and found.fraction("main") is None
    assert found.fraction("erm") == 1.0


def test_a_stage_that_uses_one_of_unknown_cost_is_of_unknown_cost(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    later = {"model": {"stage": "first"}}
    found = predicted(tiny_recipe(tmp_path, tiny_bert_folder, {"first": {"adapt": {"name": "lift"}}, "second": later}))
    assert found.stages["second"].unknown == [] and found.whole("second") is None
    assert found.stages["second"].ledger.total().flops > 0


def test_a_sampler_is_predicted_at_its_largest(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]) -> None:
    train = {"epochs": 3, "batch_size": 8, "precision": "fp32"}
    stages = {"erm": {"train": train}, "main": {"train": train, "select": "infobatch"}}
    found = predicted(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm"))
    assert found.fraction("main") == 1.0
    assert found.stages["main"].largest == ["select infobatch, which leaves examples out"]


def test_what_a_model_writes_is_not_known(tmp_path: Path, tiny_llama_folder: Path, tiny_recipe: Callable[..., Any]) -> None:
    stage = {"train": {**LANGUAGE, "evaluate_every": 0.5}}
    one = predicted(language_recipe(tmp_path, tiny_llama_folder, tiny_recipe, stage, answer="text", answer_tokens=4)).stages[
        "sft"
    ]
    assert one.reporting is None and "how much the model writes" in one.unknown[0]


@pytest.mark.parametrize(("optimize", "states"), [("adamw", 2), ("sgd", 1), ("mezo", None)])
def test_memory_is_weights_gradients_and_the_state_of_the_optimizer(
    optimize: str, states: int | None, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    from transformers import AutoModelForSequenceClassification

    stages = {"full": {"optimize": {"name": optimize}}, "probe": {"optimize": {"name": optimize}, "adapt": "linear_probe"}}
    found = predicted(tiny_recipe(tmp_path, tiny_bert_folder, stages))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder)
    head = sum(one.numel() for one in model.classifier.parameters())
    every = sum(one.numel() for one in model.parameters())
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    for name, trained in (("full", every), ("probe", head)):
        tensors = len(list(model.parameters())) if name == "full" else 2
        kept = 0 if states is None else trained * (1 + states) + (tensors if optimize == "adamw" else 0)  # each one's steps
        assert found.stages[name].memory == buffers + 4 * (every + kept)
