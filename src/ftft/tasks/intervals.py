"""Percentile bootstrap intervals over examples, or over clusters of examples that stand or fall together.

A resample is a row of multiplicities (how often each example was drawn), so one draw serves every metric, and two
models measured on the same set with the same seed are measured on the same resamples: their differences are paired.
Efron and Tibshirani 1993, chapters 13 (percentiles) and 8 (resampling units).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa

BLOCK_ELEMENTS = 2**20  # multiplicities held at a time: 8 MiB as float64

Seed = int | np.random.SeedSequence
Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def seed_for(seed: int, name: str) -> np.random.SeedSequence:
    """A seed of its own for every (seed, name of the evaluation set), the same on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.SeedSequence([seed % 2**64, *words])


def codes(column: pa.Array | np.ndarray) -> np.ndarray:
    """A column of cluster names as int64 [N] codes from 0; every missing name is a cluster of its own."""
    array = column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    found = array.dictionary_encode()
    result = found.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    missing = result < 0
    result[missing] = len(found.dictionary) + np.arange(missing.sum())
    return result


def multiplicity_blocks(n: int, clusters: np.ndarray | None, resamples: int, seed: Seed) -> Iterator[np.ndarray]:
    """The rows of :func:`bootstrap_multiplicities` in blocks int32 [B, n] of bounded memory."""
    generator = np.random.default_rng(seed)
    units, member = n, None
    if clusters is not None:
        distinct, member = np.unique(clusters, return_inverse=True)
        units = len(distinct)
    height = max(1, BLOCK_ELEMENTS // max(n, 1))
    for start in range(0, resamples, height):
        block = np.empty((min(height, resamples - start), n), dtype=np.int32)
        for row in block:
            drawn = np.bincount(generator.integers(units, size=units), minlength=units) if units else np.zeros(0)
            row[:] = drawn if member is None else drawn[member]
        yield block


def bootstrap_multiplicities(n: int, clusters: np.ndarray | None, resamples: int, seed: Seed) -> np.ndarray:
    """int32 [resamples, n]: how often each of n examples is drawn.

    Without ``clusters`` n examples are drawn with replacement. With them (codes, any integers or strings [n]) as many
    clusters as there are, each bringing all of its examples, so that a resample's size varies.
    """
    blocks = list(multiplicity_blocks(n, clusters, resamples, seed))
    return np.concatenate(blocks) if blocks else np.empty((0, n), dtype=np.int32)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central ``level`` of ``values`` [R], by linear interpolation; resamples where the metric is undefined (NaN)
    are left out, and (NaN, NaN) is returned where none is left."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def bootstrap_intervals(
    measure: Measure, n: int, *, clusters: np.ndarray | None, resamples: int, seed: Seed, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of everything ``measure`` gives for a block of multiplicities (float64 [B, n] -> name: [B])."""
    collected: dict[str, list[np.ndarray]] = {}
    for block in multiplicity_blocks(n, clusters, resamples, seed):
        for name, values in measure(block.astype(np.float64)).items():
            collected.setdefault(name, []).append(values)
    return {name: percentile_interval(np.concatenate(parts), level) for name, parts in collected.items()}
