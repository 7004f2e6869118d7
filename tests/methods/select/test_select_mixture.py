"""Mixture: parts in order, without overlap, exact sizes, and what its parts may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.select.mixture import Mixture
from ftft.methods.selection import ExamplesOfDynamics

View = Callable[[Dynamics], ExamplesOfDynamics]
EASY_AND_AMBIGUOUS: list[dict[str, Any]] = [{"score": "confidence", "share": 0.3}, {"score": "variability", "share": 0.7}]


def test_thirty_percent_easiest_with_seventy_percent_most_ambiguous(fixture_a: Dynamics, view: View) -> None:
    selection = Mixture(parts=EASY_AND_AMBIGUOUS, count=10, fraction=None).select(view(fixture_a), fixture_a, seed=0)
    assert selection.ids.to_pylist()[:3] == ["i", "a", "g"]
    assert sorted(selection.ids.to_pylist()) == list("abcdefghij")
    half = Mixture(parts=EASY_AND_AMBIGUOUS, fraction=0.5).select(view(fixture_a), fixture_a, seed=0)
    assert half.ids.to_pylist() == ["i", "a", "c", "f", "d"]  # 1.5 and 3.5: the seat left over goes to the first part
    assert [part["selected"] for part in half.counts["parts"]] == [2, 3]
    assert half.scores is not None and half.scores[0] == pytest.approx(0.955, abs=1e-6)
    assert half.scores[2] == pytest.approx(0.318934, abs=1e-6)


def test_a_later_part_takes_what_the_earlier_ones_left(fixture_a: Dynamics, view: View) -> None:
    parts = [{"score": "variability", "share": 0.5}, {"score": "variability", "share": 0.5}]
    selection = Mixture(parts=parts, count=4).select(view(fixture_a), fixture_a, seed=0)
    assert selection.ids.to_pylist() == ["c", "f", "d", "h"]


def test_balance_splits_over_the_classes_first(
    imbalanced: Dynamics, view: View, permuted: Callable[[Dynamics, int], Dynamics]
) -> None:
    method = Mixture(parts=EASY_AND_AMBIGUOUS, fraction=0.3, balance="prior")
    selection = method.select(view(imbalanced), imbalanced, seed=0)
    assert [numbers["selected"] for numbers in selection.counts["classes"].values()] == [42, 15, 3]
    assert len(set(selection.ids.to_pylist())) == 60
    other = permuted(imbalanced, 2)
    assert method.select(view(other), other, seed=0).ids.equals(selection.ids)


def test_the_recipe_builds_it(fixture_a: Dynamics, view: View) -> None:
    section = {"name": "mixture", "parts": [{"score": "confidence", "largest": False, "share": 1}], "count": 2}
    method = registry.build("select", section, "stages.main.select")
    selection = method.select(view(fixture_a), fixture_a, seed=0)
    assert selection.ids.to_pylist() == ["b", "h"]
    assert selection.rule["parts"] == section["parts"]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "needs parts"),
        ([{"score": "confidence", "share": 0.5}], "sum to 0.5"),
        ([{"score": "confidence", "share": -0.5}, {"share": 1.5}], "above 0"),
        ([{"score": "confidence"}], "share: number"),
        ([{"score": "confidence", "share": "all"}], "share: number"),
        ([{"score": "confidence", "share": 1, "largset": True}], 'did you mean "largest"'),
        ([{"score": "confidense", "share": 1}], 'did you mean "confidence"'),
    ],
)
def test_wrong_parts_are_one_sentence(parts: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Mixture(parts=parts, fraction=0.3)
