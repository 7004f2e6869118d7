"""Top: the fixture's selections, the released rules, balance, the ways to apply, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import Selection, Selector
from ftft.methods.select.top import Top
from ftft.methods.selection import ExamplesOfDynamics, select


def chosen(selection: Selection) -> list[str]:
    return selection.ids.to_pylist()


@pytest.mark.parametrize(
    ("q", "ambiguous", "threshold", "hard", "hard_threshold"),
    [
        (0.33, "cdf", 0.116374, "bfh", -0.496250),
        (0.20, "cf", 0.305514, "bh", -0.367500),
        (0.50, "cdfhi", 0.063867, "bfh", -0.500000),
        (0.10, "c", 0.351827, "b", -0.312000),
    ],
)
def test_compat_ftft_is_strictly_above_the_interpolated_quantile(
    fixture_a: Dynamics, q: float, ambiguous: str, threshold: float, hard: str, hard_threshold: float
) -> None:
    by_variability = select(fixture_a, fraction=q, compat="ftft")
    assert sorted(chosen(by_variability)) == list(ambiguous)
    assert by_variability.counts["threshold_score"] == pytest.approx(threshold, abs=1e-6)
    by_confidence = select(fixture_a, score="confidence", largest=False, fraction=q, compat="ftft")
    assert sorted(chosen(by_confidence)) == list(hard)
    assert -by_confidence.counts["threshold_score"] == pytest.approx(hard_threshold, abs=1e-6)


def test_compat_cartography_takes_one_more_than_it_says(fixture_a: Dynamics) -> None:
    assert chosen(select(fixture_a, fraction=0.33, compat="cartography")) == ["c", "f", "d", "h"]
    assert len(select(fixture_a, fraction=1.0, compat="cartography")) == 10


def test_our_rule_gives_the_exact_number_with_ties_by_id(fixture_a: Dynamics) -> None:
    assert chosen(select(fixture_a, fraction=0.33)) == ["c", "f", "d"]
    # d, e and j tie at a confidence of 0.5 in float32; the first five by confidence are exactly five
    assert len(select(fixture_a, score="confidence", largest=False, fraction=0.5)) == 5
    assert chosen(select(fixture_a, score="correctness", largest=False, count=3)) == ["b", "h", "f"]
    assert chosen(select(fixture_a, score="correctness", count=5)) == ["a", "e", "g", "i", "c"]


def test_compat_ftft_equals_the_released_computation_in_torch(make_dynamics: Callable[..., Dynamics]) -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 4001)
    dynamics = make_dynamics([f"{i}" for i in range(4001)], rng.uniform(0.02, 0.98, (4, 4001)), gold, classes=3)
    assert dynamics.logits is not None
    probability = torch.softmax(torch.from_numpy(dynamics.logits), dim=-1)[:, torch.arange(4001), torch.from_numpy(gold)]
    for score, values in (("variability", probability.std(dim=0)), ("confidence", -probability.mean(dim=0))):
        mask = values > torch.quantile(values, 1 - 0.33)
        selection = select(dynamics, score=score, largest=score == "variability", fraction=0.33, compat="ftft")
        assert set(chosen(selection)) == {str(row) for row in torch.nonzero(mask)[:, 0].tolist()}


@pytest.mark.parametrize(
    ("balance", "compat"),
    [
        ("none", None),
        ("class", None),
        ("prior", None),
        ({"0": 0.25, "1": 0.75}, None),
        ("none", "ftft"),
        ("none", "cartography"),
    ],
)
def test_the_order_of_the_rows_plays_no_part(
    fixture_a: Dynamics, permuted: Callable[[Dynamics, int], Dynamics], balance: Any, compat: Any
) -> None:
    for score in ("variability", "correctness", "random"):
        straight = select(fixture_a, score=score, fraction=0.4, balance=balance, compat=compat)
        for seed in range(4):
            other = select(permuted(fixture_a, seed), score=score, fraction=0.4, balance=balance, compat=compat)
            assert chosen(other) == chosen(straight)
            assert other.counts == straight.counts and other.rule == straight.rule


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 60), st.booleans(), st.integers(0, 99))
def test_a_smaller_selection_is_the_beginning_of_a_larger_one(a: int, b: int, n: int, largest: bool, seed: int) -> None:
    small, large = sorted((min(a, n), min(b, n)))
    rng = np.random.default_rng(seed)
    probability = rng.choice([0.25, 0.5, 0.75], size=(3, n))  # coarse, so that many scores tie
    logits = np.stack([np.log(probability), np.log(1 - probability)], axis=-1).astype(np.float32)
    dynamics = Dynamics(
        ids=numbered(rng.permutation(n)),
        epochs=(0, 1, 2),
        seen=np.ones((3, n), dtype=bool),
        gold=np.zeros(n, dtype=np.int32),
        logits=logits,
    )
    first, second = (chosen(select(dynamics, count=k, largest=largest)) for k in (small, large))
    assert (len(first), len(second)) == (small, large)
    assert second[: len(first)] == first
    by_share = [set(chosen(select(dynamics, fraction=k / n, largest=largest))) for k in (small, large)]
    assert by_share[0] <= by_share[1] and [len(ids) for ids in by_share] == [small, large]


def numbered(numbers: np.ndarray) -> pa.Array:
    return pa.array([f"x{number}" for number in numbers])


def test_variability_shifts_the_class_prior_and_balance_prior_keeps_it(imbalanced: Dynamics) -> None:
    free = select(imbalanced, fraction=0.33)
    kept = select(imbalanced, fraction=0.33, balance="prior")
    assert len(free) == len(kept) == 66
    assert free.counts["class_prior_shift"] > 0.2
    pool = {name: numbers["pool"] for name, numbers in kept.counts["classes"].items()}
    assert pool == {"common": 140, "rare": 50, "rarest": 10}
    for name, numbers in kept.counts["classes"].items():
        assert abs(numbers["selected"] - 66 * pool[name] / 200) < 1
    assert kept.counts["class_prior_shift"] < 0.01


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_prior_is_kept_within_one_row_for_any_size(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=4))
    n = sum(sizes)
    k = data.draw(st.integers(1, n))
    gold = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(n * 100 + k)
    dynamics = Dynamics(
        ids=numbered(np.arange(n)),
        epochs=(0, 1),
        seen=np.ones((2, n), dtype=bool),
        gold=gold.astype(np.int32),
        logits=rng.normal(size=(2, n, len(sizes))).astype(np.float32),
    )
    selection = select(dynamics, count=k, balance="prior")
    assert len(set(chosen(selection))) == k
    for size, numbers in zip(sizes, selection.counts["classes"].values()):
        assert abs(numbers["selected"] - k * size / n) < 1


def test_balance_class_is_equal_as_far_as_classes_have_rows(imbalanced: Dynamics) -> None:
    counts = select(imbalanced, count=60, balance="class").counts["classes"]
    assert [numbers["selected"] for numbers in counts.values()] == [25, 25, 10]


def test_shares_by_label_are_kept_or_refused(imbalanced: Dynamics) -> None:
    counts = select(imbalanced, count=20, balance={"common": 0.5, "rarest": 0.5}).counts["classes"]
    assert [numbers["selected"] for numbers in counts.values()] == [10, 0, 10]
    with pytest.raises(UserError, match='"rarest" asks for 20 of 40 examples, and only 10'):
        select(imbalanced, count=40, balance={"common": 0.5, "rarest": 0.5})
    with pytest.raises(UserError, match='no label "comon".*did you mean "common"'):
        select(imbalanced, count=4, balance={"comon": 1.0})
    with pytest.raises(UserError, match="sum to 1.2"):
        select(imbalanced, count=4, balance={"common": 0.6, "rare": 0.6})


def test_apply_copies_appends_the_chosen_to_all(fixture_a: Dynamics) -> None:
    selection = select(fixture_a, fraction=0.33, apply="copies", copies=2)
    assert chosen(selection) == [*"abcdefghij", "c", "f", "d", "c", "f", "d"]
    assert (selection.weights == 1).all()
    assert (selection.counts["selected"], selection.counts["rows"]) == (3, 16)


def test_apply_weights_keeps_all_with_mean_one(fixture_a: Dynamics) -> None:
    selection = select(fixture_a, fraction=0.33, apply="weights", weight=4.0)
    assert chosen(selection) == list("abcdefghij")
    assert selection.weights.mean() == pytest.approx(1.0, abs=1e-12)
    ratio = selection.weights / selection.weights.min()
    assert [id_ for id_, value in zip(chosen(selection), ratio) if value == pytest.approx(4.0)] == ["c", "d", "f"]


def test_suspects_are_dropped_before_choosing_and_from_copies(fixture_a: Dynamics) -> None:
    hard = select(fixture_a, score="confidence", largest=False, count=2, drop_suspects=0.2)
    assert chosen(hard)[0] == "f"  # b and h, the two lowest confidences, are the suspects
    assert hard.counts["suspects_dropped"] == 2
    copies = select(fixture_a, count=1, drop_suspects=0.2, apply="copies")
    assert chosen(copies) == [*"acdefgij", "c"]
    assert len(select(fixture_a, fraction=0.5, drop_suspects=0.2)) == 5  # a share of the whole pool
    with pytest.raises(UserError, match="cannot choose 9 of 10 examples: only 8 .* 2 dropped as suspects"):
        select(fixture_a, count=9, drop_suspects=0.2)


def test_chosen_epochs_change_the_score(fixture_a: Dynamics) -> None:
    assert chosen(select(fixture_a, count=1, epochs=[0, 1])) == ["d"]
    assert chosen(select(fixture_a, count=1, drop_first_epochs=2)) == ["f"]
    with pytest.raises(UserError, match=r"epochs \[7\]"):
        select(fixture_a, count=1, epochs=[0, 7])
    with pytest.raises(UserError, match="no epoch is left"):
        select(fixture_a, count=1, drop_first_epochs=4)
    with pytest.raises(UserError, match="not both"):
        select(fixture_a, count=1, drop_first_epochs=1, epochs=[1])


def test_examples_never_seen_are_never_chosen(make_dynamics: Callable[..., Dynamics]) -> None:
    seen = np.ones((3, 5), dtype=bool)
    seen[:, 4] = False
    seen[1:, 3] = False  # one epoch gives no variability
    probability = np.random.default_rng(1).uniform(0.1, 0.9, (3, 5))
    dynamics = make_dynamics(list("abcde"), probability, np.zeros(5, dtype=int), seen=seen)
    assert sorted(chosen(select(dynamics, count=3))) == ["a", "b", "c"]
    assert select(dynamics, count=3).counts["without_score"] == 2
    with pytest.raises(UserError, match="cannot choose 4 of 5 examples: only 3 are left after 2 without a score"):
        select(dynamics, count=4)
    with pytest.raises(UserError, match="compat: ftft needs a score for every example, and 2 of 5 have no variability"):
        select(dynamics, fraction=0.5, compat="ftft")


def test_variability_of_one_epoch_is_refused(fixture_a: Dynamics) -> None:
    with pytest.raises(UserError, match="at least 2 epochs"):
        select(fixture_a.only_epochs([1]), fraction=0.33)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({}, "neither is given"),
        ({"fraction": 0.3, "count": 2}, "both are given"),
        ({"fraction": 0.0}, "above 0 and at most 1"),
        ({"fraction": 1.01}, "above 0 and at most 1"),
        ({"fraction": float("nan")}, "above 0 and at most 1"),
        ({"count": 0}, "at least 1"),
        ({"count": 11}, "only 10 examples"),
        ({"fraction": 0.3, "score": "variablity"}, 'did you mean "variability"'),
        ({"fraction": 0.3, "balance": "prio"}, 'did you mean "prior"'),
        ({"fraction": 0.3, "apply": "copy"}, "copies"),
        ({"fraction": 0.3, "suspect_score": "loss"}, "suspect_score"),
        ({"fraction": 0.3, "compat": "carto"}, "cartography"),
        ({"count": 3, "compat": "ftft"}, "fraction instead of count"),
        ({"fraction": 0.3, "compat": "ftft", "balance": "prior"}, "balancing over classes"),
        ({"fraction": 0.3, "compat": "ftft", "drop_suspects": 0.1}, "drop_suspects"),
        ({"fraction": 0.3, "drop_suspects": 1.0}, "drop_suspects"),
        ({"fraction": 0.3, "copies": 0}, "copies"),
        ({"fraction": 0.3, "weight": -1.0}, "weight"),
    ],
)
def test_settings_out_of_range_are_one_sentence(fixture_a: Dynamics, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        select(fixture_a, **wrong)


def test_the_rule_and_the_dynamics_determine_the_selection(
    imbalanced: Dynamics, view: Callable[..., ExamplesOfDynamics]
) -> None:
    first = select(imbalanced, score="random", fraction=0.2, balance="prior", drop_suspects=0.05, seed=7)
    rule = dict(first.rule)
    assert rule.pop("name") == "top" and rule["seed"] == 7
    seed = rule.pop("seed")
    again = Top(**rule).select(view(imbalanced), imbalanced, seed=seed)
    assert chosen(again) == chosen(first) and again.rule == first.rule
    assert again.dynamics_fingerprint == first.dynamics_fingerprint is not None
    assert "seed" not in select(imbalanced, fraction=0.2).rule


def test_the_recipe_builds_it(fixture_a: Dynamics, view: Callable[..., ExamplesOfDynamics]) -> None:
    method = registry.build("select", {"name": "top", "fraction": 0.33, "balance": {"0": 0.5, "1": 0.5}}, "select")
    assert isinstance(method, Top) and isinstance(method, Selector)
    assert len(method.select(view(fixture_a), fixture_a, seed=0)) == 3
