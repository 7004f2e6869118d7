"""The bill: whole, in one unit, charged as it ran, and estimated exactly where it is estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ftft.data.loading import load_data
from ftft.engine.ledger import Ledger
from ftft.engine.settings import TrainSettings
from ftft.methods import registry
from ftft.models.loading import load_classifier
from ftft.models.settings import ModelSettings
from ftft.run.costs import erm_cost, estimate_erm_flops, given_dynamics, padded_lengths, upstream, whole_cost
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe

CHOOSE = {"name": "top", "score": "variability", "count": 32}
NO_RESAMPLES = {"name": "classification", "resamples": 0}
# Dataset cartography: the reference is the main model, trained as ERM is; the main run has as many steps as ERM.
CARTOGRAPHY: dict[str, Any] = {
    "erm": {"evaluate": NO_RESAMPLES},
    "reference": {"dynamics": {"mode": "online"}, "evaluate": NO_RESAMPLES},
    "main": {"use_dynamics_of": "reference", "select": CHOOSE, "evaluate": NO_RESAMPLES},
}


@pytest.fixture(scope="module")
def cartography(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> tuple[Recipe, dict[str, Any]]:
    recipe = tiny_recipe(tmp_path_factory.mktemp("costs"), tiny_bert_folder, CARTOGRAPHY, baseline="erm", main="main")
    return recipe, read_result(run_recipe(recipe))


def test_dataset_cartography_with_equal_models_is_200_per_cent_of_erm(cartography: tuple[Recipe, dict[str, Any]]) -> None:
    _, result = cartography
    costs = {name: stage["cost"] for name, stage in result["stages"].items()}
    assert costs["main"]["fraction_of_erm"] == pytest.approx(2.0, abs=1e-9)
    assert costs["erm"]["fraction_of_erm"] == costs["reference"]["fraction_of_erm"] == 1.0
    assert costs["main"]["uses"] == ["reference"] and costs["main"]["erm_source"] == "measured: stage erm"
    assert set(costs["main"]["ledger"]["effective"]) == {"reference", "training"}
    assert costs["main"]["seconds"] == pytest.approx(
        sum(result["stages"][name]["ledger"]["effective"]["training"]["seconds"] for name in ("reference", "main"))
    )


def test_a_stage_from_the_store_is_charged_as_it_ran_and_without_a_baseline_the_estimate_is_what_was_measured(
    cartography: tuple[Recipe, dict[str, Any]],
) -> None:
    recipe, first = cartography
    # The same recipe, without the ERM stage: all that it names is in the store.
    stages = {name: stage for name, stage in recipe.stages.items() if name != "erm"}
    result = read_result(run_recipe(dataclasses.replace(recipe, stages=stages, baseline=None, name="without")))
    main, before = result["stages"]["main"]["cost"], first["stages"]["main"]["cost"]
    assert main["reused"] == ["reference", "main"] and before["reused"] == []
    assert result["stages"]["reference"]["ledger"]["reused"] and not first["stages"]["reference"]["ledger"]["reused"]
    for book in ("effective", "repeated"):
        assert main["ledger"][book] == before["ledger"][book]
    assert main["erm_flops"] == before["erm_flops"] and main["fraction_of_erm"] == pytest.approx(2.0, abs=1e-9)
    assert main["erm_source"] == "estimated from the counted batches of stage main, as 24 steps over all 96 examples"
    # One unit for all stages of the run, also for the one that is plain fine-tuning of the reference.
    assert result["stages"]["reference"]["cost"]["fraction_of_erm"] == pytest.approx(1.0, abs=1e-9)


def test_the_estimate_of_batches_of_many_lengths_is_what_erm_cost(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], tiny_sentences: Callable[..., Path]
) -> None:
    tiny_sentences(tmp_path / "train.csv", 90, seed=0, words=(3, 26))
    train = {"epochs": 2, "batch_size": 8, "micro_batch_size": 4, "precision": "fp32"}
    stages: dict[str, Any] = {name: {"train": train, "evaluate": NO_RESAMPLES} for name in ("erm", "random")}
    stages["random"]["select"] = {"name": "random", "fraction": 0.6}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm", main="random")
    recipe = dataclasses.replace(recipe, task={**recipe.task, "max_length": 21})  # no multiple of 8
    measured = read_result(run_recipe(recipe))["stages"]["random"]["cost"]
    alone = dataclasses.replace(recipe, stages={"random": recipe.stages["random"]}, baseline=None)
    estimated = read_result(run_recipe(alone))["stages"]["random"]["cost"]
    assert estimated["erm_source"].startswith("estimated") and measured["erm_source"].startswith("measured")
    assert estimated["erm_flops"] == pytest.approx(measured["erm_flops"], rel=1e-9)


def test_steps_spent_waiting_are_charged(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    train = {"steps": 24, "batch_size": 8, "precision": "fp32", "shuffle": "plain", "evaluate_every": 2}
    optimize = {"name": "adamw", "learning_rate": 1e-9}  # nothing improves, so that patience runs out
    stop = {"patience": 3, "minimum_improvement": 0.5}
    stages: dict[str, Any] = {
        "erm": {"evaluate": NO_RESAMPLES},
        "main": {"train": train, "optimize": optimize, "stop": stop, "combine": {"name": "best"}, "evaluate": NO_RESAMPLES},
    }
    result = read_result(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm", main="main")))
    main, erm = result["stages"]["main"], result["stages"]["erm"]
    training = main["training"]
    assert training["stopped_early"] and (training["best_step"], training["steps"]) == (2, 8)
    assert main["artefact"]["step"] == 2
    ledger = main["ledger"]["effective"]
    assert ledger["training"]["steps"] == 8 and ledger["evaluation"]["flops"] > 0
    assert ledger["training"]["flops"] * 3 == erm["ledger"]["effective"]["training"]["flops"]
    whole = ledger["training"]["flops"] + ledger["evaluation"]["flops"]
    assert main["cost"]["flops"] == whole and main["cost"]["fraction_of_erm"] == whole / erm["cost"]["flops"]


def stage(**changes: Any) -> Any:
    found = {"use_dynamics_of": None, "select": {"name": "all"}, "train": TrainSettings(), "seed": None}
    given = {"create": None, "use_model_of": None, "use_models_of": [], "model": SimpleNamespace(stage=None), "trainer": None}
    found["search"] = None
    return SimpleNamespace(**{**given, **found, **changes})


def never() -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError("nothing is estimated here")


def ledger(flops: int) -> Ledger:
    made = Ledger()
    made.add("training", flops=flops, steps=1)
    return made


def test_a_chain_of_stages_is_charged_whole_and_each_once() -> None:
    stages = {"a": stage(), "b": stage(use_dynamics_of="a"), "c": stage(use_dynamics_of="b"), "d": stage()}
    assert upstream(stages, "c") == ["a", "b"] and upstream(stages, "d") == []
    whole = whole_cost({name: ledger(10**index) for index, name in enumerate(stages)}, stages, "c")
    assert whole.effective["reference"].flops == 11 and whole.effective["training"].flops == 100


def test_examples_that_several_stages_learn_from_are_charged_once_and_others_each() -> None:
    def made(flops: int) -> Ledger:
        book = ledger(flops)
        book.add("creation", flops=100, seconds=1.0)
        book.observe_memory("creation")
        return book

    stages = {"base": stage(), "reference": stage(use_model_of="base"), "main": stage(use_dynamics_of="reference")}
    stages["other"] = stage(use_models_of=["reference", "main"])
    ledgers = {"base": ledger(1000), "reference": made(10), "main": made(1), "other": ledger(5)}
    shared = whole_cost(ledgers, stages, "main", {"reference": "one", "main": "one"})
    assert {phase: cost.flops for phase, cost in shared.effective.items()} == {
        "creation": 100,
        "reference": 1010,
        "training": 1,
    }
    assert shared.total().seconds == 1.0
    apart = whole_cost(ledgers, stages, "main", {"reference": "one", "main": "another"})
    assert apart.effective["reference"].flops == 1110 and apart.effective["creation"].flops == 100
    used = whole_cost(ledgers, stages, "other", {"reference": "one", "main": "one"})
    assert used.effective["reference"].flops == 1000 + 10 + 100 + 1 and used.total().flops == 1116
    assert "creation" in ledgers["reference"].effective, "the stage's own bill stays as it is"


def test_dynamics_of_a_file_are_told_for_the_stages_that_use_them_at_second_hand() -> None:
    stages = {"a": stage(use_dynamics_of="some/dynamics.parquet"), "b": stage(use_dynamics_of="a"), "c": stage()}
    assert given_dynamics(stages, "b") == given_dynamics(stages, "a") == ["some/dynamics.parquet"]
    assert given_dynamics(stages, "c") == []


def test_the_unit_is_not_known_before_its_stage_is_finished() -> None:
    recipe = SimpleNamespace(baseline="erm", stages={"erm": stage(), "main": stage()}, seed=0)
    assert erm_cost(recipe, "main", {"main": ledger(5)}, {}, never).flops is None
    found = erm_cost(recipe, "main", {"main": ledger(5), "erm": ledger(9)}, {}, never)
    assert (found.flops, found.source) == (9, "measured: stage erm")
    alone = SimpleNamespace(baseline=None, stages={"reference": stage(), "main": stage()}, seed=0)
    assert erm_cost(alone, "main", {"reference": ledger(5)}, {}, never).source == "not yet"
    assert erm_cost(alone, "main", {"main": ledger(5)}, {}, never).source == "measured: stage main is plain fine-tuning"


def test_a_stage_that_paid_for_a_search_is_not_the_unit() -> None:
    searched = stage(search=SimpleNamespace(trials=5), train=TrainSettings(batch_size=4, epochs=1))
    recipe = SimpleNamespace(baseline=None, stages={"main": searched}, seed=0, task={"name": "text_classification"})
    lengths = np.full(8, 4, dtype=np.int32)
    found = erm_cost(
        recipe, "main", {"main": ledger(50)}, {"main": {"flops_by_shape": [["train", 4, 4, 3]]}}, lambda: (lengths, lengths)
    )
    assert (found.flops, found.source.partition(" ")[0]) == (6, "estimated")


def test_the_search_of_a_named_baseline_is_no_part_of_the_unit() -> None:
    searched = stage(search=SimpleNamespace(trials=5))
    recipe = SimpleNamespace(baseline="erm", stages={"erm": searched, "main": stage()}, seed=0)
    spent = ledger(9)
    spent.add("search", flops=40)
    found = erm_cost(recipe, "main", {"erm": spent, "main": ledger(5)}, {}, never)
    assert (found.flops, found.source) == (9, "measured: stage erm, its search aside")


def test_the_unit_of_a_trainers_stage_is_the_plain_fine_tuning_it_goes_on_from() -> None:
    after = {"trainer": {"name": "dpo"}}
    stages = {
        "sft": stage(),
        "dpo": stage(**after, model=SimpleNamespace(stage="sft")),
        "grpo": stage(**after, model=SimpleNamespace(stage="dpo")),
        "alone": stage(**after),
    }
    recipe = SimpleNamespace(baseline=None, stages=stages, seed=0)
    found = erm_cost(recipe, "grpo", {"sft": ledger(5)}, {}, never)
    assert (found.flops, found.source) == (5, "measured: stage sft is plain fine-tuning")
    assert upstream(stages, "grpo") == ["sft", "dpo"]
    assert erm_cost(recipe, "alone", {"alone": ledger(7)}, {}, never).flops is None


def test_an_estimate_without_counted_batches_is_not_a_number() -> None:
    assert np.isnan(estimate_erm_flops([], np.full(20, 8, dtype=np.int32), TrainSettings(), seed=0))


def test_padded_lengths_are_the_widths_of_batches(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], tiny_sentences: Callable[..., Path]
) -> None:
    tiny_sentences(tmp_path / "train.csv", 60, seed=0, words=(2, 24))
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    task = registry.build_task({**recipe.task, "max_length": 21})
    train = load_data(recipe.data).train
    loaded = load_classifier(ModelSettings(path=str(tiny_bert_folder)), train.label_names)
    prepared = task.prepare(train, loaded.processor)
    lengths = padded_lengths(task, prepared)
    assert lengths.shape == (60,) and set(lengths) == {8, 16, 21}
    for rows in (np.arange(10), np.array([3, 40]), np.arange(60)):
        assert task.collate(prepared, rows).inputs["input_ids"].shape[1] == lengths[rows].max()
