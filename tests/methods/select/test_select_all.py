"""All: every example once, in an order that the rows' order does not change."""

from __future__ import annotations

from collections.abc import Callable

from ftft.dynamics.table import Dynamics
from ftft.methods.select.all import All
from ftft.methods.selection import ExamplesOfDynamics


def test_every_example_once_by_id(
    imbalanced: Dynamics,
    view: Callable[[Dynamics], ExamplesOfDynamics],
    permuted: Callable[[Dynamics, int], Dynamics],
) -> None:
    selection = All().select(view(imbalanced), None, seed=0)
    assert selection.ids.to_pylist() == sorted(imbalanced.ids.to_pylist())
    assert (selection.weights == 1).all() and selection.scores is None
    assert selection.counts["class_prior_shift"] == 0 and selection.counts["selected"] == 200
    assert All().select(view(permuted(imbalanced, 1)), None, seed=1).ids.equals(selection.ids)
