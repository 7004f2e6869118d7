"""Sizes, ranks, quotas and the released quantile rule, on plain arrays."""

from __future__ import annotations

import gzip
import json
import math
import os
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.dynamics.choosing import (
    above_quantile,
    allocate,
    by_id,
    choose,
    largest_remainder,
    quantile_float32,
    rank,
    subset_size,
    whole_part,
)


def ids_of(n: int) -> pa.Array:
    return pa.array([f"{index:07d}" for index in range(n)])


@pytest.mark.parametrize(
    ("fraction", "n", "size"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (0.33, 10, 3),
        (0.33, 392_702, 129_591),
        (0.001, 10, 1),
        (1.0, 7, 7),
        (1 / 3, 3_000_000, 1_000_000),
    ],
)
def test_the_size_is_the_floor_of_the_decimal_product_and_at_least_one(fraction: float, n: int, size: int) -> None:
    assert subset_size(fraction, n) == size


@settings(deadline=None)
@given(thousandths=st.integers(1, 1000), n=st.integers(1, 10_000_000))
def test_the_size_is_exact_for_every_fraction_of_three_decimals(thousandths: int, n: int) -> None:
    assert whole_part(thousandths / 1000, n) == thousandths * n // 1000


@pytest.mark.parametrize(
    ("n", "ftft", "plain", "cartography"),
    [
        (392_702, 129_592, 129_591, 130_338),
        (12_960, 4_277, 4_276, 4_302),
        (13_584, 4_483, 4_482, 4_509),
        (40_398, 13_332, 13_331, 13_409),
        (100, 33, 33, 34),
        (10, 3, 3, 4),
    ],
)
def test_counts_on_a_strictly_increasing_score(n: int, ftft: int, plain: int, cartography: int) -> None:
    mask, _ = above_quantile(np.arange(n) / n, 0.33)
    assert mask.sum() == ftft
    assert subset_size(0.33, n) == plain
    assert int(0.3319 * n) + 1 == cartography


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000, 12_960, 40_398])
def test_the_quantile_rule_takes_the_rows_torch_takes(n: int) -> None:
    rng = np.random.default_rng(n)
    for trial in range(30):
        values = rng.random(n).astype(np.float32) if trial % 2 else np.round(rng.normal(size=n), 1).astype(np.float32)
        q = float(rng.random()) if trial % 3 else 1 - float(rng.choice([0.33, 0.2, 0.5, 0.1, 0.25]))
        reference = torch.quantile(torch.from_numpy(values), q).item()
        ours = quantile_float32(values, q)
        assert ours == pytest.approx(reference, rel=3e-7, abs=1e-12)  # the last bit depends on fused multiplication
        assert np.array_equal(values > ours, values > np.float32(reference))


def test_the_quantile_of_more_rows_than_torch_takes_is_exact_to_the_row() -> None:
    n = 20_000_003  # the position 0.67 * (n - 1) = 13,400,001.34 would be 13,400,002 in float32
    below = 67 * (n - 1) // 100
    values = np.zeros(n, dtype=np.float32)
    values[: n - 1 - below] = 1.0
    mask, threshold = above_quantile(values, 0.33)
    assert threshold == pytest.approx(0.34, abs=1e-6) and mask.sum() == n - 1 - below
    values[n - 1 - below] = 1.0  # now the threshold lies inside the tied block, which is left out whole
    mask, threshold = above_quantile(values, 0.33)
    assert threshold == 1.0 and mask.sum() == 0


def test_rank_is_descending_with_ties_by_id_and_leaves_nan_out() -> None:
    ids = pa.array(["d", "10", "9", "a", "c", "b"])
    values = np.array([1.0, 2.0, 2.0, np.nan, 1.0, 3.0])
    assert ids.take(pa.array(rank(values, ids))).to_pylist() == ["b", "10", "9", "c", "d"]
    assert ids.take(pa.array(rank(-values, ids))).to_pylist() == ["c", "d", "10", "9", "b"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, float("nan")]), min_size=1, max_size=40), st.randoms())
def test_rank_equals_a_plain_sort_in_any_row_order(values: list[float], random: Random) -> None:
    names = [f"é{index}" if index % 3 else f"{index}" for index in range(len(values))]
    known = [(-value, name) for value, name in zip(values, names) if not math.isnan(value)]
    expected = [name for _, name in sorted(known)]
    order = list(range(len(values)))
    random.shuffle(order)
    ids = pa.array([names[index] for index in order])
    ranked = rank(np.array([values[index] for index in order]), ids)
    assert ids.take(pa.array(ranked, type=pa.int64())).to_pylist() == expected
    for first in range(len(values) + 1):
        assert rank(np.array([values[index] for index in order]), ids, first=first).tolist() == ranked[:first].tolist()


def test_by_id_sorts_the_given_rows() -> None:
    ids = pa.array(["b", "c", "a", "10", "9"])
    assert by_id(ids).tolist() == [3, 4, 2, 0, 1]
    assert by_id(ids, np.array([0, 1, 2])).tolist() == [2, 0, 1]


def test_largest_remainder_breaks_ties_by_index_and_reads_decimals_exactly() -> None:
    assert largest_remainder(1, [1, 1, 1]).tolist() == [1, 0, 0]
    assert largest_remainder(5, [0.7, 0.3]).tolist() == [4, 1]  # 3.5 and 1.5: the first of the equal remainders
    assert largest_remainder(10, [0.1, 0.2, 0.7]).tolist() == [1, 2, 7]
    with pytest.raises(ValueError, match="positive"):
        largest_remainder(3, [0, 0])


@settings(deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(sum))
def test_largest_remainder_is_within_one_of_the_exact_share(k: int, shares: list[int]) -> None:
    seats = largest_remainder(k, shares)
    assert seats.sum() == k
    assert all(abs(Fraction(k * share, sum(shares)) - int(seat)) < 1 for share, seat in zip(shares, seats))


def test_a_full_class_gives_its_seats_to_the_others() -> None:
    assert allocate(10, [1, 1, 1], np.array([2, 9, 9])).tolist() == [2, 4, 4]
    assert allocate(10, [1, 1, 1], np.array([0, 3, 9])).tolist() == [0, 3, 7]
    assert allocate(4, [1, 0], np.array([2, 5])).tolist() == [2, 2]
    with pytest.raises(ValueError, match="room"):
        allocate(10, [1, 1], np.array([4, 5]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=6), st.data())
def test_allocation_is_complete_and_never_over_the_room(classes: list[tuple[int, int]], data: st.DataObject) -> None:
    shares, room = [share for share, _ in classes], np.array([rows for _, rows in classes])
    k = data.draw(st.integers(0, int(room.sum())))
    quota = allocate(k, shares, room)
    assert quota.sum() == k and (quota <= room).all() and (quota >= 0).all()


def test_parts_take_in_order_without_overlap() -> None:
    ids = ids_of(10)
    first = np.arange(10.0)
    second = np.arange(10.0) % 5
    parts = choose([first, second], [0.4, 0.6], ids, [np.arange(10)], [5])
    assert parts[0].tolist() == [9, 8]
    assert parts[1].tolist() == [4, 3, 2]


def winogrande() -> Path:
    root = Path(os.environ.get("FTFT_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")
    found = sorted((root / "datamap_winogrande").glob("*.jsonl.gz")) if root.is_dir() else []
    if not found:
        pytest.skip("the published WinoGrande data map is not there; set FTFT_DATA to the folder that holds datamap_winogrande")
    return found[0]


def test_selections_on_the_published_winogrande_map() -> None:
    with gzip.open(winogrande(), "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    confidence = np.array([row["confidence"] for row in rows])
    variability = np.array([row["variability"] for row in rows])
    ids = pa.array([str(row["guid"]) for row in rows])
    k = subset_size(0.33, len(rows))
    assert (len(rows), k) == (40_398, 13_331)
    ambiguous, hard = rank(variability, ids)[:k], rank(-confidence, ids)[:k]
    assert variability[ambiguous[-1]] == pytest.approx(0.190621, abs=1e-6)
    assert len(np.intersect1d(ambiguous, hard)) / k == pytest.approx(0.710674, abs=1e-6)
    assert confidence[ambiguous].mean() == pytest.approx(0.809308, abs=1e-6)
    assert confidence[hard].mean() == pytest.approx(0.793679, abs=1e-6)
