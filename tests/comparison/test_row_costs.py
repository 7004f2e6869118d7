"""Costs of rows: an interval over seeds does not reach below nothing, however few they are; what is shared is divided."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftft.comparison.cells import Cell
from ftft.comparison.costs import _over_seeds, row_costs, searches_of
from ftft.comparison.finishing import _stage_cost


def stage(key: str, made: str | None = None, **phases: int) -> dict[str, Any]:
    """What a result says of a stage that spent so much."""
    effective = {phase: {"flops": flops, "seconds": 1.0} for phase, flops in phases.items()}
    return {"key": key, "ledger": {"effective": effective}, **({} if made is None else {"creation": {"key": made}})}


def cell(whole: int, *stages: dict[str, Any]) -> Cell:
    cost = {"flops": whole, "phases": {}, "stages": {str(place): _stage_cost(one) for place, one in enumerate(stages)}}
    return Cell({"cost": cost}, Path("cell.json"), str(whole))


def test_examples_that_several_stages_learned_from_are_shared_between_the_cells_that_use_them() -> None:
    erm = cell(100, stage("erm", training=100))
    ftft = cell(161, stage("r", "made", creation=50, training=10), stage("f", "made", creation=50, training=101))
    s3ft = cell(150, stage("s", "made", creation=50, training=100))
    suite: Any = SimpleNamespace(baseline="erm", level=0.95)
    cells = {"erm": {0: erm}, "ftft": {0: ftft}, "s3ft": {0: s3ft}}
    state: Any = SimpleNamespace(cells={0: ftft}, trials={0: s3ft, 1: ftft, 2: cell(60, stage("t", "other", creation=40))})
    costs = row_costs(suite, state, "ftft", cells, 100.0)
    assert costs["amortised"]["value"] == pytest.approx((25 + 10 + 101) / 100)
    assert row_costs(suite, state, "s3ft", cells, 100.0)["amortised"]["value"] == pytest.approx(1.25)
    assert searches_of([state]) == 100 + 40, "what a final cell learned from too is no cost of the search"


def test_a_stage_that_made_examples_without_any_cost_is_a_stage_like_others() -> None:
    assert _stage_cost(stage("s", "made", training=7)) == {
        "key": "s",
        "flops": 7,
        "seconds": 1.0,
        "creation": {"key": "made", "flops": 0},
    }


def test_two_seeds_far_apart_have_an_interval_that_begins_at_zero() -> None:
    found = _over_seeds([1.0, 1.6], 0.95)
    assert found["value"] == pytest.approx(1.3) and found["low"] == 0.0
    assert found["high"] is not None and found["high"] > 3.0, "Student's t with one degree of freedom"


def test_seeds_that_agree_have_a_narrow_one_and_one_seed_has_none() -> None:
    found = _over_seeds([1.0, 1.01, 0.99], 0.95)
    assert found["low"] is not None and 0.9 < found["low"] < 1.0
    assert _over_seeds([1.0], 0.95) == {"value": 1.0, "low": None, "high": None}
    assert _over_seeds([], 0.95)["value"] is None
