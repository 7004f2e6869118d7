"""Is a reference model a good one? What its data map says before the main model is trained.

With A the fraction q of highest variability (ambiguous) and H the fraction q of lowest confidence (hard-to-learn), k
examples each, and o = |A and H| / k: union = 2q - q*o, easy = 1 - 2q + q*o. A reference that fits the hard examples
during training has a large overlap and a large easy part; a weak one never fits them, so that they leave A, and its
"ambiguous" part fills with easy examples. (Regions: Swayamdipta et al. 2020; the reading: FTFT, on reference models.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftft.dynamics.choosing import rank, subset_size
from ftft.errors import UserError


@dataclass(frozen=True)
class ReferenceDiagnostics:
    """``fraction`` q; ``examples`` N scored; ``selected`` k = max(1, floor(qN)); ``overlap`` o, share of k; ``union`` and
    ``easy``, shares of N; mean confidences of all, of A, of H and of the easy rest (NaN where it is empty); the smallest
    variability in A."""

    fraction: float
    examples: int
    selected: int
    overlap: float
    union: float
    easy: float
    mean_confidence: float
    mean_confidence_ambiguous: float
    mean_confidence_hard: float
    mean_confidence_easy: float
    smallest_variability: float


def reference_diagnostics(
    confidence: np.ndarray, variability: np.ndarray, ids: pa.Array | None = None, *, fraction: float = 0.33
) -> ReferenceDiagnostics:
    """The diagnostics of a data map: ``confidence`` and ``variability``, float [N], NaN where an example has no score.

    Equal scores are ordered by id (by row without ``ids``). Raises UserError for a fraction outside (0, 1] or a map
    without a scored example.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"the fraction is {fraction}, and must be above 0 and at most 1")
    scored = np.flatnonzero(~np.isnan(confidence) & ~np.isnan(variability))
    if len(scored) == 0:
        raise UserError("no example has both a confidence and a variability, so there is nothing to diagnose")
    n, k = len(scored), subset_size(fraction, len(scored))
    if ids is None:
        width = len(str(len(confidence)))
        ids = pa.array([f"{row:0{width}d}" for row in range(len(confidence))])
    ambiguous, hard = np.zeros(len(confidence), dtype=bool), np.zeros(len(confidence), dtype=bool)
    ambiguous[rank(variability, ids, scored)[:k]] = True
    hard[rank(-confidence, ids, scored)[:k]] = True
    either = ambiguous | hard
    rest = np.setdiff1d(scored, np.flatnonzero(either), assume_unique=True)
    return ReferenceDiagnostics(
        fraction=fraction,
        examples=n,
        selected=k,
        overlap=float((ambiguous & hard).sum() / k),
        union=float(either.sum() / n),
        easy=float(len(rest) / n),
        mean_confidence=float(confidence[scored].mean()),
        mean_confidence_ambiguous=float(confidence[ambiguous].mean()),
        mean_confidence_hard=float(confidence[hard].mean()),
        mean_confidence_easy=float(confidence[rest].mean()) if len(rest) else float("nan"),
        smallest_variability=float(variability[ambiguous].min()),
    )
