"""What cells keep of the evaluators that look at models, by the figures' types alone, and its means over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftft.comparison.cells import Cell, CellFolder
from ftft.comparison.making import cell_recipe
from ftft.comparison.model_figures import kept_figures, measured_means
from ftft.comparison.reading import read_suite
from ftft.comparison.running import stand
from ftft.files import read_json
from ftft.run.recipe import evaluators

ESTIMATE = {"value": 0.8, "low": 0.7, "high": None}
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "value",
    [3, 0.25, None, True, "accuracy", ESTIMATE, {"value": 1.0}, {"accuracy": {"now": ESTIMATE, "before": ESTIMATE}}],
    ids=str,
)
def test_numbers_names_and_estimates_are_kept_as_they_are(value: Any) -> None:
    assert kept_figures({"one": value}) == {"one": value}


@pytest.mark.parametrize(
    "value",
    [
        "a charming film",
        "x" * 61,
        [1, 2],
        {},
        {"layer.0": {"count": 1, "lowest_cosine": 0.2}},
        {"layer.0": 0.5},
        {"set": {"n": 40, "accuracy": ESTIMATE}},
        {"value": "a charming film"},
        {"value": 0.5, "a charming film": 1},
        {"a charming film": ESTIMATE},
        {"mean": {"a charming film": ESTIMATE}},
        {str(row): ESTIMATE for row in range(21)},
    ],
    ids=lambda value: str(value)[:40],
)
def test_texts_and_details_by_layer_or_example_are_not(value: Any) -> None:
    assert kept_figures({"one": value, "two": 2}) == {"two": 2}


def test_the_sentence_is_kept_and_no_name_is_a_text() -> None:
    assert kept_figures({"sentence": "3 intruder dimensions", "a charming film": 1}) == {"sentence": "3 intruder dimensions"}
    assert kept_figures({"sentence": "x" * 301, "n": 1}) == {"n": 1} == kept_figures({"sentence": ["a", "b"], "n": 1})


def cell(**document: Any) -> Cell:
    return Cell(document, Path("cell.json"), "key")


def test_means_are_over_the_cells_that_have_a_figure() -> None:
    first = {"count": 12, "found": True, "unit": "points", "sentence": "12 were found", "mean": {"f1": {"now": ESTIMATE}}}
    second = {"count": 15, "found": False, "unit": "points", "sentence": "15 were found", "late": None}
    found = measured_means([cell(measured={"one": first}), cell(), cell(measured={"one": second, "other": {"n": 4}})])
    assert found == {
        "one": {
            "count": {"mean": 13.5, "seeds": [12, None, 15]},
            "found": {"mean": 0.5, "seeds": [True, None, False]},
            "mean.f1.now": {"mean": 0.8, "seeds": [0.8, None, None]},
            "late": {"mean": None, "seeds": [None, None, None]},
        },
        "other": {"n": {"mean": 4.0, "seeds": [None, None, 4]}},
    }
    assert measured_means([cell(), cell()]) == measured_means([]) == {}


EVALUATE = [{"name": "classification", "resamples": 20}, "intruder_dimensions", {"name": "forgetting", "resamples": 20}]


@pytest.fixture
def with_evaluators(tiny_suite: Callable[..., Path], tmp_path: Path, tiny_folder: Callable[..., Path]) -> Callable[..., Path]:
    """``with_evaluators(**changes)``: a suite of a plain row and of one whose models are measured too. The task has a set of
    earlier knowledge, and its model a head that may have some."""
    names = {0: "negative", 1: "positive"}
    model = tiny_folder("bert", id2label=names, label2id={name: label for label, name in names.items()})

    def make(**changes: Any) -> Path:
        fast = {"name": "adamw", "learning_rate": 3e-3}
        rows = {
            "erm": {"change": {"stages.main.optimize": fast}},
            "looked_at": {"like": "erm", "change": {"stages.main.evaluate": EVALUATE}},
        }
        path = tiny_suite(rows, **changes)
        recipe = yaml.safe_load((tmp_path / "task.yaml").read_text())
        recipe["stages"]["main"] |= {"model": {"path": str(model)}, "train": {"steps": 6, "batch_size": 8, "precision": "fp32"}}
        earlier = recipe["data"]["evaluation"]["ood_validation"]
        recipe["data"]["evaluation"]["old"] = {**earlier, "role": "forget"}
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        return path

    return make


@pytest.mark.slow
def test_a_comparison_shows_what_the_evaluators_of_its_rows_measured(
    with_evaluators: Callable[..., Path], run_here: Callable[..., Any], tmp_path: Path
) -> None:
    path = with_evaluators()
    table, _ = run_here(path)
    rows = table["tasks"]["feelings"]["rows"]
    assert rows["erm"]["measured"] == {}
    measured = rows["looked_at"]["measured"]
    assert list(measured) == ["intruder_dimensions", "forgetting"]

    documents = [read_json(one, kind="cell") for one in sorted((tmp_path / "results" / "suite" / "cells").iterdir())]
    by_seed = {one["seed"]: one["measured"] for one in documents if one["row"] == "looked_at"}
    assert len(documents) == 4 and sorted(by_seed) == [0, 1]
    assert not any("measured" in one for one in documents if one["row"] == "erm")
    for seed, kept in by_seed.items():
        result = json.loads((tmp_path / "runs" / f"suite-feelings-looked_at-{seed}" / "result.json").read_text())
        whole = result["stages"]["main"]["measured"]
        intruders, forgotten = whole["intruder_dimensions"], whole["forgetting"]
        assert "by_layer" in intruders and "sets" in forgotten
        assert kept == {
            "intruder_dimensions": {name: value for name, value in intruders.items() if name != "by_layer"},
            "forgetting": {name: forgotten[name] for name in ("mean", "sentence")},
        }
    assert set(measured["intruder_dimensions"]) == {"count", "looked_at", "random", "changed", "layers"}
    for name, figure in measured["intruder_dimensions"].items():
        values = [by_seed[seed]["intruder_dimensions"][name] for seed in (0, 1)]
        assert figure == {"mean": sum(values) / 2, "seeds": values}
    lost = [by_seed[seed]["forgetting"]["mean"]["accuracy"]["difference"]["value"] for seed in (0, 1)]
    assert measured["forgetting"]["mean.accuracy.difference"] == {"mean": pytest.approx(sum(lost) / 2), "seeds": lost}

    for cell_path in (tmp_path / "results" / "suite" / "cells").iterdir():  # as cells were written before
        document = json.loads(cell_path.read_text())
        document.pop("measured", None)
        cell_path.write_text(json.dumps(document))
    again, _ = run_here(path)
    assert again["cells"]["finished"] == 4 and again["tasks"]["feelings"]["rows"]["looked_at"]["measured"] == {}


def test_a_trial_is_not_measured_by_what_looks_at_models(with_evaluators: Callable[..., Path]) -> None:
    suite = read_suite(with_evaluators(search={"factor": 2.0}))

    def named(trial: bool) -> list[str]:
        recipe = cell_recipe(suite, "feelings", "looked_at", 0, value=1e-3, trial=trial)
        return [section["name"] for section in evaluators(recipe.stages["main"])]

    assert named(trial=False) == ["classification", "intruder_dimensions", "forgetting"]
    assert named(trial=True) == ["classification"]


@pytest.mark.parametrize("evaluate", ["intruder_dimensions", {"name": "intruder_dimensions"}, ["intruder_dimensions"]], ids=str)
def test_a_trial_falls_back_to_the_tasks_own_evaluator(evaluate: Any, tiny_suite: Callable[..., Path]) -> None:
    rows = {"erm": {"change": {"stages.main.evaluate": evaluate}}}
    suite = read_suite(tiny_suite(rows, search={"factor": 2.0}))
    recipe = cell_recipe(suite, "feelings", "erm", 0, value=1e-3, trial=True)
    assert [section["name"] for section in evaluators(recipe.stages["main"])] == ["classification"]


def test_a_trial_of_predictions_alone_keeps_its_key(tiny_suite: Callable[..., Path]) -> None:
    """Its evaluator stays as it is written, settings included, so that the cells of before are found."""
    rows = {"erm": {}, "other": {"change": {"stages.main.evaluate": {"resamples": 7}}}}
    suite = read_suite(tiny_suite(rows, search={"factor": 2.0}))
    recipe = cell_recipe(suite, "feelings", "other", 0, value=1e-3, trial=True)
    assert isinstance(recipe.stages["main"].evaluate, dict) and recipe.stages["main"].evaluate["resamples"] == 7


def test_the_committed_cells_of_the_standing_suite_are_found_and_complete() -> None:
    suite = read_suite(ROOT / "recipes" / "suites" / "standing.yaml")
    folder = CellFolder(ROOT / "results" / "standing")
    plan = stand(suite, folder)
    assert plan.finished == 18 and plan.ready == [] and plan.blocked == 0
    assert measured_means(list(folder.read().values())) == {}
