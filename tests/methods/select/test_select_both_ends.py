"""Both ends: which end is hard, the sizes of each, and cartography's own sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.select.both_ends import BothEnds
from ftft.methods.selection import ExamplesOfDynamics

View = Callable[[Dynamics], ExamplesOfDynamics]


def test_the_hard_end_of_confidence_is_the_low_one(fixture_a: Dynamics, view: View) -> None:
    selection = BothEnds(score="confidence", count=5).select(view(fixture_a), fixture_a, seed=0)
    assert selection.ids.to_pylist()[:3] == ["b", "h", "f"]
    assert selection.ids.to_pylist()[4] == "i" and len(set(selection.ids.to_pylist())) == 5
    assert [part["selected"] for part in selection.counts["parts"]] == [4, 1]
    assert selection.rule["hard_is_large"] is False
    turned = BothEnds(score="confidence", hard_is_large=True, count=5).select(view(fixture_a), fixture_a, seed=0)
    assert turned.ids.to_pylist()[:3] == ["i", "a", "g"]


def test_both_ends_of_everything_is_everything_once(fixture_a: Dynamics, view: View) -> None:
    selection = BothEnds(fraction=1.0).select(view(fixture_a), fixture_a, seed=0)
    assert sorted(selection.ids.to_pylist()) == list("abcdefghij")


@pytest.mark.parametrize(("fraction", "hard", "easy"), [(0.33, ["c", "f"], 1), (0.5, ["c", "f", "d"], 2), (0.2, ["c"], 1)])
def test_compat_cartography_takes_its_sizes(
    fixture_a: Dynamics, view: View, fraction: float, hard: list[str], easy: int
) -> None:
    selection = BothEnds(fraction=fraction, compat="cartography").select(view(fixture_a), fixture_a, seed=0)
    ids = selection.ids.to_pylist()
    assert ids[: len(hard)] == hard and len(ids) == len(hard) + easy
    assert set(ids[len(hard) :]) <= {"e", "g"}  # both have a variability of 0


def test_settings_that_leave_one_end_are_refused() -> None:
    with pytest.raises(UserError, match="use top"):
        BothEnds(fraction=0.3, hard_share=1.0)
    with pytest.raises(UserError, match="cartography"):
        BothEnds(fraction=0.3, compat="ftft")  # type: ignore[arg-type]
