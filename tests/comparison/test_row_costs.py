"""Costs over seeds: an interval of a cost does not reach below nothing, however few the seeds."""

from __future__ import annotations

import pytest

from ftft.comparison.costs import _over_seeds


def test_two_seeds_far_apart_have_an_interval_that_begins_at_zero() -> None:
    found = _over_seeds([1.0, 1.6], 0.95)
    assert found["value"] == pytest.approx(1.3) and found["low"] == 0.0
    assert found["high"] is not None and found["high"] > 3.0, "Student's t with one degree of freedom"


def test_seeds_that_agree_have_a_narrow_one_and_one_seed_has_none() -> None:
    found = _over_seeds([1.0, 1.01, 0.99], 0.95)
    assert found["low"] is not None and 0.9 < found["low"] < 1.0
    assert _over_seeds([1.0], 0.95) == {"value": 1.0, "low": None, "high": None}
    assert _over_seeds([], 0.95)["value"] is None
