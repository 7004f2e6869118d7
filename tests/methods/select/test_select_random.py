"""Random: seeded, independent of row order, nested, with the class shares asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.select.random import Random
from ftft.methods.selection import ExamplesOfDynamics, select

View = Callable[[Dynamics], ExamplesOfDynamics]


def test_the_choice_depends_on_ids_and_seed_alone(
    imbalanced: Dynamics, view: View, permuted: Callable[[Dynamics, int], Dynamics]
) -> None:
    for prior in ("none", "pool", "class"):
        method = Random(fraction=0.3, prior=prior)  # type: ignore[arg-type]
        first = method.select(view(imbalanced), None, seed=5)
        assert first.ids.to_pylist() == method.select(view(permuted(imbalanced, 1)), None, seed=5).ids.to_pylist()
        assert first.ids.to_pylist() != method.select(view(imbalanced), None, seed=6).ids.to_pylist()
        assert len(set(first.ids.to_pylist())) == 60 and first.scores is None
        assert first.rule["seed"] == 5


def test_a_smaller_subset_of_the_same_seed_lies_in_a_larger_one(imbalanced: Dynamics, view: View) -> None:
    small, large = (Random(count=count).select(view(imbalanced), None, seed=1).ids.to_pylist() for count in (20, 90))
    assert large[:20] == small


def test_it_chooses_what_top_by_the_random_score_chooses(imbalanced: Dynamics, view: View) -> None:
    chosen = Random(fraction=0.3).select(view(imbalanced), None, seed=3)
    assert chosen.ids.equals(select(imbalanced, score="random", fraction=0.3, seed=3).ids)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [("pool", [42, 15, 3]), ("class", [25, 25, 10]), ({"common": 0.5, "rare": 0.4, "rarest": 0.1}, [30, 24, 6])],
)
def test_class_shares(imbalanced: Dynamics, view: View, prior: Any, expected: list[int]) -> None:
    counts = Random(fraction=0.3, prior=prior).select(view(imbalanced), None, seed=0).counts
    assert [numbers["selected"] for numbers in counts["classes"].values()] == expected


def test_every_example_is_equally_likely(imbalanced: Dynamics, view: View) -> None:
    examples = view(imbalanced)
    times = dict.fromkeys(examples.ids.to_pylist(), 0)
    for seed in range(200):
        for id_ in Random(fraction=0.25).select(examples, None, seed=seed).ids.to_pylist():
            times[id_] += 1
    # 200 draws at 0.25: mean 50, standard deviation 6.1; five of them on either side
    assert all(19 <= number <= 81 for number in times.values())


def test_suspects_are_dropped_when_dynamics_are_given(fixture_a: Dynamics, view: View) -> None:
    method = Random(count=8, drop_suspects=0.2)
    assert sorted(method.select(view(fixture_a), fixture_a, seed=0).ids.to_pylist()) == list("acdefgij")
    with pytest.raises(UserError, match="drop_suspects needs training dynamics"):
        method.select(view(fixture_a), None, seed=0)


def test_compat_takes_the_released_size(fixture_a: Dynamics, view: View) -> None:
    assert len(Random(fraction=0.39, compat="ftft").select(view(fixture_a), None, seed=0)) == 3
    with pytest.raises(UserError, match="selects none of 10"):
        Random(fraction=0.05, compat="ftft").select(view(fixture_a), None, seed=0)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match='did you mean "pool"'):
        Random(fraction=0.3, prior="pol")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="neither"):
        Random()
