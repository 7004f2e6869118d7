"""Entropic optimal transport between two point clouds with uniform weights, and its gradient with respect to the weights.

    OT_e(a, b) = min_P <P, C> + e KL(P | a b^T)    over P >= 0 with row sums a [N] and column sums b [M]

with C_ij the Euclidean distance. Sinkhorn's iterations on the dual potentials, in the log domain and float64:

    f_i = -e log sum_j b_j exp((g_j - C_ij) / e)      g_j = -e log sum_i a_i exp((f_i - C_ij) / e)

(Cuturi 2013, arXiv 1306.0895; Feydy et al. 2019, arXiv 1810.08278). e is lowered in steps from the
largest distance, which takes far fewer iterations than starting with a small one. f is the gradient of OT_e with respect to a
up to a constant, which the calibrated gradient does without. C is computed in blocks of rows and never held as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK = 2**22  # elements of C at a time: 32 MiB
STEP = 0.5  # e is lowered by this factor


@dataclass(frozen=True)
class Potentials:
    """``source`` float64 [N] (f) and ``target`` float64 [M] (g); ``epsilon`` they belong to; ``error``: the L1 distance of the
    plan's row sums from a before the last iteration (its column sums are b); ``iterations`` it took."""

    source: torch.Tensor
    target: torch.Tensor
    epsilon: float
    error: float
    iterations: int


def sinkhorn(
    source: torch.Tensor, target: torch.Tensor, *, regularisation: float, iterations: int = 1000, tolerance: float = 1e-6
) -> Potentials:
    """The potentials between ``source`` [N, H] and ``target`` [M, H], with e = ``regularisation`` times the mean distance.

    Ends when the row sums are right within ``tolerance``, or after so many ``iterations`` at the last e. ValueError for an
    empty cloud or points that are not finite.
    """
    source, target = source.double(), target.double()
    if not len(source) or not len(target):
        raise ValueError("optimal transport needs points on both sides")
    if not (torch.isfinite(source).all() and torch.isfinite(target).all()):
        raise ValueError("the points to transport are not finite")
    total, largest = 0.0, 0.0
    for _, cost in _blocks(source, target):
        total, largest = total + float(cost.sum()), max(largest, float(cost.max()))
    epsilon = regularisation * total / (len(source) * len(target))
    f, g = source.new_zeros(len(source)), target.new_zeros(len(target))
    if largest == 0.0:  # all points are one: every plan costs nothing
        return Potentials(f, g, 0.0, 0.0, 0)
    count, present = 0, max(largest, epsilon)
    while present > epsilon:
        f, g = _iterate(source, target, g, present)
        count, present = count + 1, max(epsilon, present * STEP)
    error = math.inf
    for _ in range(iterations):
        before = f
        f, g = _iterate(source, target, g, epsilon)
        count += 1
        # With the potentials before this round the plan's row sums were a_i exp((before_i - f_i) / e).
        error = float((torch.exp((before - f) / epsilon) - 1.0).abs().mean())
        if error <= tolerance:
            break
    return Potentials(f, g, epsilon, error, count)


def calibrated_gradient(potentials: torch.Tensor) -> torch.Tensor:
    """What OT_e changes by per unit of weight that is moved to point i and taken from all others alike: f_i minus the mean of
    the other f, float64 [N]; sums to 0, and a constant added to f changes nothing. Zeros for a single point.

    Just et al. 2023, arXiv 2305.00054 (LAVA), equation 5.
    """
    n = len(potentials)
    if n < 2:
        return torch.zeros_like(potentials)
    return (potentials - potentials.mean()) * (n / (n - 1))


def _iterate(source: torch.Tensor, target: torch.Tensor, g: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One round: f from g, then g from f, over the blocks of C once."""
    log_a, log_b = -math.log(len(source)), -math.log(len(target))
    f = torch.empty(len(source), dtype=torch.float64)
    sums = torch.full((len(target),), -math.inf, dtype=torch.float64)
    for rows, cost in _blocks(source, target):
        f[rows] = -epsilon * torch.logsumexp(log_b + (g[None, :] - cost) / epsilon, dim=1)
        own = torch.logsumexp(log_a + (f[rows][:, None] - cost) / epsilon, dim=0)
        sums = torch.logaddexp(sums, own)
    return f, -epsilon * sums


def _blocks(source: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    height = max(1, BLOCK // len(target))
    for start in range(0, len(source), height):
        rows = slice(start, start + height)
        yield rows, torch.cdist(source[rows], target, compute_mode="donot_use_mm_for_euclid_dist")
