"""Percentile bootstrap intervals over examples, or over clusters of examples that stand or fall together.

A resample is a row of multiplicities (how often each example was drawn), so one draw serves every metric, and two
models measured on the same set with the same seed are measured on the same resamples: their differences are paired.
Efron and Tibshirani 1993, chapters 13 (percentiles) and 8 (resampling units).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from ftft.tasks.metrics import mean_f1

BLOCK_ELEMENTS = 2**20  # multiplicities held at a time: 8 MiB as float64
DRAWN_TOGETHER = 2**14  # units drawn in one call, which small sets spend their time on; more would leave the cache

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
        together = max(1, DRAWN_TOGETHER // max(units, 1))
        for first in range(0, len(block), together):
            part = block[first : first + together]
            drawn = _units_drawn(units, len(part), generator)
            part[:] = drawn if member is None else drawn[:, member]
        yield block


def _units_drawn(units: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """int64 [resamples, units]: how often each unit is drawn; the same as resample by resample."""
    if not units:
        return np.zeros((resamples, 0), dtype=np.int64)
    drawn = generator.integers(units, size=(resamples, units))
    drawn += np.arange(resamples)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units)


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


def paired_draws(
    labels: np.ndarray, predictions: np.ndarray, *, clusters: np.ndarray | None, resamples: int, seed: Seed
) -> dict[str, np.ndarray]:
    """Accuracy and macro-F1 of S models on one set and on the same resamples of it.

    ``labels`` int [N] and ``predictions`` int [S, N] are classes. Gives ``accuracy`` and ``macro_f1``, each float64
    [1 + resamples, S]: row 0 is the set itself, so that whatever is done to all rows (a mean over sets, a difference of two
    models) is done to the value and to its resamples alike. With the same seed these are the resamples of
    :func:`bootstrap_intervals`. Both metrics are functions of counts per class, and units with equal counts (examples
    with the same label and predictions) are told apart by nothing: a resample is a count of each kind of unit.
    """
    counts, kind = _units(labels, predictions, clusters)
    draws = _kinds_drawn(kind, len(counts), resamples, np.random.default_rng(seed))
    sums = np.concatenate([np.bincount(kind, minlength=len(counts))[None, :] @ counts, *(drawn @ counts for drawn in draws)])
    models = len(predictions)
    gold, *others = np.split(sums, 1 + 2 * models, axis=1)
    n = gold.sum(axis=1)
    n[n == 0] = np.nan
    return {
        "accuracy": np.stack([right.sum(axis=1) / n for right in others[models:]], axis=1),
        "macro_f1": np.stack([mean_f1(r, gold, g) for g, r in zip(others[:models], others[models:])], axis=1),
    }


def paired_measures(
    measure: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray | float]],
    predictions: Sequence[np.ndarray],
    *,
    clusters: np.ndarray | None,
    resamples: int,
    seed: Seed,
) -> dict[str, np.ndarray]:
    """As :func:`paired_draws`, of any measure of what S models predict of N examples.

    ``measure``: from predictions [N, K] and multiplicities float64 [B, N] to B values by name. Every name of it, float64
    [1 + resamples, S].
    """
    n = len(predictions[0])
    found: dict[str, list[np.ndarray]] = {}
    blocks = multiplicity_blocks(n, clusters, resamples, seed)
    for counts in (np.ones((1, n)), *(block.astype(np.float64) for block in blocks)):
        of_models = [measure(one, counts) for one in predictions]
        for name in of_models[0]:
            found.setdefault(name, []).append(np.stack([np.asarray(one[name]) for one in of_models], axis=1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval_of(draws: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """``value``, ``low`` and ``high`` of one column of :func:`paired_draws` [1 + R], or of what was computed from them."""
    low, high = percentile_interval(draws[1:], level)
    return {"value": float(draws[0]), "low": low, "high": high}


def mean_of_sets(draws: Sequence[np.ndarray]) -> np.ndarray:
    """The unweighted mean over sets, which are sampled independently of each other: [1 + R, S] of each -> [1 + R, S]."""
    return np.mean(np.stack(draws), axis=0)


def _units(labels: np.ndarray, predictions: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """What can be drawn: (counts float64 [D, K + 2 S K] of each distinct unit, kind int64 [U] of every unit).

    A unit is an example, or a cluster of them; its counts are those of the gold classes, then for each model those of the
    predicted classes, then for each model those of the right ones.
    """
    rows = np.concatenate([np.asarray(labels)[None, :], np.asarray(predictions)]).astype(np.int64)
    classes, coded = np.unique(rows, return_inverse=True)
    cells, kind = np.unique(coded.reshape(rows.shape), axis=1, return_inverse=True)
    one_hot = np.eye(len(classes))
    gold, guessed = one_hot[cells[0]], [one_hot[row] for row in cells[1:]]
    counts = np.concatenate([gold, *guessed, *(gold * guess for guess in guessed)], axis=1)
    kind = kind.reshape(-1)
    if clusters is None:
        return counts, kind
    distinct, member = np.unique(clusters, return_inverse=True)
    holds = np.bincount(member.reshape(-1) * len(cells[0]) + kind, minlength=len(distinct) * len(cells[0]))
    found, kind = np.unique(holds.reshape(len(distinct), -1) @ counts, axis=0, return_inverse=True)
    return found, kind.reshape(-1)


def _kinds_drawn(kind: np.ndarray, kinds: int, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each kind of unit is drawn, in blocks int64 [B, kinds]; the units of :func:`multiplicity_blocks`."""
    units = len(kind)
    height = max(1, BLOCK_ELEMENTS // max(units, kinds, 1))
    for start in range(0, resamples if units else 0, height):
        size = min(height, resamples - start)
        drawn = kind[generator.integers(units, size=(size, units))] + np.arange(size)[:, None] * kinds
        yield np.bincount(drawn.reshape(-1), minlength=size * kinds).reshape(size, kinds)
