"""Without suspects: the lowest confidences or margins go, everything else stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.select.without_suspects import WithoutSuspects
from ftft.methods.selection import ExamplesOfDynamics

View = Callable[[Dynamics], ExamplesOfDynamics]


@pytest.mark.parametrize(("score", "dropped"), [("confidence", "bh"), ("aum", "bh")])
def test_the_lowest_go_and_the_rest_stay_by_id(fixture_a: Dynamics, view: View, score: str, dropped: str) -> None:
    method = WithoutSuspects(drop_suspects=0.29, suspect_score=score)  # type: ignore[arg-type]
    selection = method.select(view(fixture_a), fixture_a, seed=0)
    assert selection.ids.to_pylist() == [id_ for id_ in "abcdefghij" if id_ not in dropped]
    assert selection.counts["suspects_dropped"] == 2  # floor of 2.9
    assert selection.counts["threshold_score"] == pytest.approx({"confidence": 0.375, "aum": -0.490415}[score], abs=1e-6)


def test_examples_never_seen_are_no_suspects(make_dynamics: Callable[..., Dynamics], view: View) -> None:
    seen = np.ones((2, 4), dtype=bool)
    seen[:, 0] = False
    dynamics = make_dynamics(list("abcd"), np.full((2, 4), 0.5), np.zeros(4, dtype=int), seen=seen)
    selection = WithoutSuspects(drop_suspects=0.25).select(view(dynamics), dynamics, seed=0)
    assert selection.ids.to_pylist() == ["a", "c", "d"]  # of the three that tie, the first by id goes


def test_planted_wrong_labels_are_the_ones_dropped(make_dynamics: Callable[..., Dynamics], view: View) -> None:
    rng = np.random.default_rng(0)
    wrong = np.arange(400) < 20
    probability = np.where(wrong, rng.uniform(0.02, 0.3, (4, 400)), rng.uniform(0.4, 0.98, (4, 400)))
    dynamics = make_dynamics([f"{i:03d}" for i in range(400)], probability, rng.integers(0, 2, 400))
    kept = WithoutSuspects(drop_suspects=0.05).select(view(dynamics), dynamics, seed=0)
    assert kept.ids.to_pylist() == [f"{i:03d}" for i in range(20, 400)]


def test_dynamics_are_needed(fixture_a: Dynamics, view: View) -> None:
    with pytest.raises(UserError, match="needs training dynamics"):
        WithoutSuspects().select(view(fixture_a), None, seed=0)
