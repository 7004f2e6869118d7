"""What is predicted of a recipe's cost is what its run counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.engine import predicting
from ftft.engine.ledger import Cost, Ledger
from ftft.methods.registry import build_task
from ftft.run.checking import check_models_and_data
from ftft.run.predicted_costs import PredictedCosts, PredictedStage, predict_costs
from ftft.run.reading import recipe_from_dict
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
