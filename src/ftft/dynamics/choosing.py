"""How rows are chosen once every example has a number: sizes, ranks, quotas per class, and the two released rules.

Plain functions on arrays; nothing here knows a model, a recipe or a file. A row is a position in the pool.
Everything is deterministic and independent of the order of the rows: equal values are ordered by id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TORCH_QUANTILE_LIMIT = 16_000_000  # rows above which torch.quantile refuses its input (2**24 in its message)


def whole_part(fraction: float, n: int) -> int:
    """``floor(fraction * n)``, where a product that is whole but for rounding counts as whole (0.29 * 100 = 29)."""
    product = fraction * n
    nearest = round(product)
    # Rounding `fraction` to a double and then the product moves the result by at most 1.5 units in the last place.
    return nearest if abs(product - nearest) <= 2 * math.ulp(product) else math.floor(product)


def subset_size(fraction: float, n: int) -> int:
    """``max(1, floor(fraction * n))``, safe against binary rounding (see :func:`whole_part`)."""
    return max(1, whole_part(fraction, n))


def rank(values: np.ndarray, ids: pa.Array, rows: np.ndarray | None = None, first: int | None = None) -> np.ndarray:
    """Rows from the largest value to the smallest, equal values by ascending id; NaN is left out.

    ``values``: float [N]. ``ids``: N strings. ``rows``: int64, the rows to rank (all by default). ``first``: how many of
    the ranked rows to give (all by default).
    """
    rows = np.arange(len(values)) if rows is None else np.asarray(rows, dtype=np.int64)
    rows = rows[~np.isnan(values[rows])]
    keys = -values[rows]
    if first is not None and 0 < first < len(rows):
        reached = keys <= np.partition(keys, first - 1)[first - 1]
        rows, keys = rows[reached], keys[reached]
    order = np.argsort(keys, kind="stable")
    rows, keys = rows[order], keys[order]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    tied = np.zeros(len(rows), dtype=bool)
    tied[1:] = ~new[1:]
    tied[:-1] |= ~new[1:]
    at = np.flatnonzero(tied)
    if len(at):  # only the ties are sorted as strings: that is the slow part
        table = pa.table({"block": np.cumsum(new)[at], "id": ids.take(pa.array(rows[at]))})
        inner = pc.sort_indices(table, sort_keys=[("block", "ascending"), ("id", "ascending")]).to_numpy()
        rows[at] = rows[at][inner]
    return rows[:first]


def by_id(ids: pa.Array, rows: np.ndarray | None = None) -> np.ndarray:
    """``rows`` (all by default), ordered by ascending id."""
    if rows is None:
        return pc.sort_indices(ids).to_numpy().astype(np.int64)
    rows = np.asarray(rows, dtype=np.int64)
    return rows[pc.sort_indices(ids.take(pa.array(rows))).to_numpy()]


def largest_remainder(k: int, shares: Sequence[Any]) -> np.ndarray:
    """``k`` seats in proportion to ``shares``: whole parts first, then the largest remainders, ties by index.

    Exact: shares are integers, or floats read as the decimals they are written as. int64 [len(shares)], sum ``k``.
    """
    exact = [share if isinstance(share, Fraction) else Fraction(str(share)) for share in shares]
    total = sum(exact)
    if total <= 0:
        raise ValueError("the shares must have a positive sum")
    ideal = [k * share / total for share in exact]
    seats = [math.floor(value) for value in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda index: (seats[index] - ideal[index], index))
    for index in by_remainder[: k - sum(seats)]:
        seats[index] += 1
    return np.array(seats, dtype=np.int64)


def allocate(k: int, shares: Sequence[Any], room: np.ndarray) -> np.ndarray:
    """``k`` seats in proportion to ``shares``, at most ``room`` each; what a full class cannot take goes to the others.

    int64 [C], sum ``k``. Raises ValueError where there is less room than ``k``.
    """
    if k > room.sum():
        raise ValueError(f"{k} seats for room of {room.sum()}")
    exact = [Fraction(str(share)) for share in shares]
    unbounded = room > 0
    quota = np.zeros(len(room), dtype=np.int64)
    while k > 0:
        left = int(k - room[~unbounded].sum())
        wanted = [share if free else Fraction(0) for share, free in zip(exact, unbounded)]
        if not any(wanted):  # only classes with share 0 have room left
            wanted = [Fraction(int(free)) for free in unbounded]
        quota = room.astype(np.int64).copy()
        if any(wanted):
            quota[unbounded] = largest_remainder(left, wanted)[unbounded]
        over = unbounded & (quota > room)
        if not over.any():
            break
        unbounded = unbounded & ~over
    return quota


def choose(
    parts: Sequence[np.ndarray], shares: Sequence[float], ids: pa.Array, strata: Sequence[np.ndarray], quotas: Sequence[int]
) -> list[np.ndarray]:
    """In every stratum its quota, split over the parts by their shares; the parts take in order, without overlap.

    ``parts``: per part the values to rank by, float64 [N], larger is taken first. ``strata``: per stratum its rows.
    Gives per part the rows it took, best first. A stratum whose rows lack a part's value (NaN) may give fewer.
    """
    taken: list[list[np.ndarray]] = [[] for _ in parts]
    for rows, quota in zip(strata, quotas):
        free = np.asarray(rows, dtype=np.int64)
        for index, count in enumerate(largest_remainder(int(quota), shares)):
            if count == 0:
                continue
            chosen = rank(parts[index], ids, free, int(count))
            taken[index].append(chosen)
            if index < len(parts) - 1:
                free = np.setdiff1d(free, chosen, assume_unique=True)
    empty = np.empty(0, dtype=np.int64)
    return [rank(values, ids, np.concatenate([empty, *lists])) for values, lists in zip(parts, taken)]


def quantile_float32(values: np.ndarray, q: float) -> np.float32:
    """The linearly interpolated quantile in float32, to the bit as ``torch.quantile`` on a CPU up to 16 million rows.

    Above, where torch refuses, the position is computed in float64: in float32 it would be off by whole rows.
    """
    values = np.asarray(values, dtype=np.float32)
    last = len(values) - 1
    if len(values) <= TORCH_QUANTILE_LIMIT:
        position = np.float32(q) * np.float32(last)
        below = int(position)
        weight = np.float32(position - np.float32(below))
    else:
        below = int(q * last)
        weight = np.float32(q * last - below)
    below = min(below, last)
    above = min(below + 1, last)
    ordered = np.partition(values, [below, above])
    low, high = ordered[below], ordered[above]
    # As torch.lerp: from the nearer end, product and sum rounded once (a product of two float32 is exact in float64).
    base, factor = (low, weight) if weight < 0.5 else (high, weight - np.float32(1))
    return np.float32(np.float64(base) + np.float64(factor) * np.float64(high - low))


def above_quantile(values: np.ndarray, fraction: float) -> tuple[np.ndarray, float]:
    """The rule released with FTFT: rows whose value, in float32, is strictly above the quantile 1 - fraction.

    Source: nlpsoc/FTFT, selection of the data map. A block of values equal to the threshold is left out whole.
    Gives the mask (bool [N]) and the threshold.
    """
    values = np.asarray(values, dtype=np.float32)
    threshold = quantile_float32(values, 1 - fraction)
    return values > threshold, float(threshold)
