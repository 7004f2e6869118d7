"""Decision rules tuned on in-distribution validation data: a threshold (two classes) or offsets (more).

Both maximise macro-F1 exactly along one line at a time: sort the examples by the value at which their prediction flips,
and cumulative counts give the score of every possible cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftft.tasks.metrics import macro_f1, mean_f1

PROBABILITY_FLOOR = 1e-12  # keeps log-probabilities, and with them the offsets, finite
TIE = 1e-12  # macro-F1 values closer than this are equal


def tune(labels: np.ndarray, probabilities: np.ndarray, *, sweeps: int = 10) -> dict[str, Any] | None:
    """The decision rule that maximises macro-F1 on a validation set (labels int64 [M], probabilities [M, K]).

    Two classes: {"threshold": t}, class 1 being predicted where p(class 1) > t; of equally good cuts the one closest to
    .5. More classes: {"offsets": [b_c]}, predicting argmax_c ln p_c + b_c; found by coordinate search from 0: classes in
    order, each offset set to its best value given the others (of equals the one closest to 0, and only where macro-F1
    rises), until a sweep changes nothing or ``sweeps`` are done; a local optimum. Both also say ``macro_f1`` on the
    validation set and its ``n``. None where the set has fewer than two classes, for then nothing can be tuned.
    """
    if len(np.unique(labels)) < 2:
        return None
    rule: dict[str, Any]
    if probabilities.shape[1] == 2:
        rule = {"threshold": _best_threshold(labels, probabilities[:, 1])}
    else:
        rule = {"offsets": _best_offsets(labels, _logarithm(probabilities), sweeps)}
    reached = macro_f1(labels, apply(rule, probabilities))
    return {**rule, "macro_f1": float(reached), "n": len(labels)}


def apply(rule: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """The classes int64 [N] that a rule of :func:`tune` predicts from probabilities [N, K]."""
    if "threshold" in rule:
        return (probabilities[:, 1] > rule["threshold"]).astype(np.int64)
    return (_logarithm(probabilities) + np.asarray(rule["offsets"])).argmax(axis=1)


def _logarithm(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, PROBABILITY_FLOOR))


def _best_threshold(labels: np.ndarray, p: np.ndarray) -> float:
    values = np.unique(np.concatenate([[0.0], p, [1.0]]))
    cuts = np.unique(np.append(_between(values), [0.5, 1.0]))
    scores = _scores_of_cuts(labels, p, cuts, below=np.zeros_like(labels), above=1, k=2)
    return _closest(cuts, scores, 0.5)


def _best_offsets(labels: np.ndarray, log_p: np.ndarray, sweeps: int) -> list[float]:
    k = log_p.shape[1]
    offsets = np.zeros(k)
    best = float(macro_f1(labels, log_p.argmax(axis=1)))
    for _ in range(sweeps):
        before = offsets.copy()
        for c in range(k):
            others = log_p + offsets
            others[:, c] = -np.inf
            # Class c is predicted where its offset exceeds the gap to the best of the others.
            gap = others.max(axis=1) - log_p[:, c]
            values = np.unique(gap)
            cuts = np.concatenate([[values[0] - 1.0], _between(values), [values[-1] + 1.0]])
            scores = _scores_of_cuts(labels, -gap, -cuts, below=others.argmax(axis=1), above=c, k=k)
            if scores.max() > best + TIE:
                best, offsets[c] = float(scores.max()), _closest(cuts, scores, 0.0)
        if np.array_equal(before, offsets):
            break
    return [float(b) for b in offsets]


def _between(values: np.ndarray) -> np.ndarray:
    """A cut between each two neighbours of ascending distinct values: the middle, or the lower one where rounding would
    put the middle on the upper."""
    low, high = values[:-1], values[1:]
    middle = low + 0.5 * (high - low)
    return np.where(middle < high, middle, low)


def _scores_of_cuts(
    labels: np.ndarray, values: np.ndarray, cuts: np.ndarray, *, below: np.ndarray, above: int, k: int
) -> np.ndarray:
    """Macro-F1 of every cut [G]: an example is predicted ``above`` where its value exceeds the cut, else its ``below``."""
    order = np.argsort(values, kind="stable")
    lower = np.searchsorted(values[order], cuts, side="right")
    gold, low = labels[order], below[order]
    classes = np.arange(k)
    guessed = _first_sums(low[:, None] == classes, lower)
    right = _first_sums((low == gold)[:, None] & (gold[:, None] == classes), lower)
    hits = gold == above
    guessed[:, above] += len(labels) - lower
    right[:, above] += hits.sum() - _first_sums(hits[:, None], lower)[:, 0]
    totals = np.broadcast_to(np.bincount(labels, minlength=k).astype(np.float64), guessed.shape)
    return mean_f1(right, totals, guessed)


def _first_sums(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of the first ``lengths`` [G] rows of ``flags`` [M, K]: float64 [G, K]."""
    sums = np.zeros((len(flags) + 1, flags.shape[1]))
    np.cumsum(flags, axis=0, out=sums[1:])
    return sums[lengths]


def _closest(cuts: np.ndarray, scores: np.ndarray, centre: float) -> float:
    """Of the cuts with the highest score the one closest to ``centre``, the lower of two equally close."""
    best = np.sort(cuts[scores >= scores.max() - TIE])
    return float(best[np.argmin(np.abs(best - centre))])
