"""Intervals and tests for a grid of seeds x examples: crossed random effects, few seeds, many examples.

A statistic (a metric, a difference of two rows, a mean over sets) is known for each of S seeds on the same examples.
Its uncertainty has two sources: other seeds, and other examples (or clusters of them), with their interaction,

    d_s = delta + a_s + b + c_s        Var(mean_s d_s) = sigma_a^2 / S + sigma_b^2 + sigma_c^2 / S

where b is what the drawn examples do to all seeds alike and c_s what they do to one. The bootstrap over examples, the
same resamples for every seed, gives Var(b + c_s) for each seed and Var(b + mean c_s) for the mean, and from the two b's
own part; the variance between seeds gives (sigma_a^2 + sigma_c^2) / S. Resampling seeds and examples in one go would
count the interaction more than once (Owen 2007, The pigeonhole bootstrap), so the parts are estimated apart and added.

With three seeds a percentile of resampled seeds covers far too little, and Satterthwaite's degrees of freedom still
reject a true null in up to 8 % where 5 % was meant, because the same few seeds that understate a variance overstate its
degrees of freedom. :func:`critical_values` therefore solves for the critical value as a function of the *observed* share
of the seeds' variance that makes the coverage exact for every *true* share (the problem of Welch 1947 and Aspin 1948,
with one variance known; solved numerically, and kept monotone).

A table asks for thousands of quantiles one by one: scipy.special gives them without the arrays that scipy.stats makes of each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats
from scipy.interpolate import PchipInterpolator

KNOTS = 9  # of the critical value as a function of the observed share
SHARES = 25  # true shares at which the coverage is made exact
QUANTILES = 400  # of the chi-square distribution, for its expectation
SMOOTH = 0.003  # weight of unequal steps between knots, against errors of the coverage in per cent
EXACT_UP_TO = 15  # degrees of freedom; above, Satterthwaite's approximation is within 0.1 % of the level


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. ``error``: its standard error. ``p``: two-sided against 0. ``seed_share``: the share of
    the variance that comes from the seeds (NaN with one seed: then the interval is over examples alone)."""

    value: float
    low: float
    high: float
    error: float
    p: float
    seeds: int
    seed_share: float

    def one_sided_p(self, above: float, level: float = 0.95) -> float:
        """P-value of the claim that the true value is above ``above``."""
        return _one_sided(self.value - above, self.error, self.seeds, self.seed_share, level)

    @property
    def sign(self) -> str:
        """ "+" or "-" where the interval leaves zero out, else "0"."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "0"
        return "+" if self.low > 0 else "-" if self.high < 0 else "0"


def crossed(values: np.ndarray, draws: np.ndarray, *, level: float = 0.95) -> Estimate:
    """The mean over seeds of a statistic, with its interval.

    ``values`` float [S]: of each seed on all examples. ``draws`` float [R, S]: on R resamples of the examples, the same
    for every seed; resamples where it is undefined (NaN) are left out. Without any, the examples count as fixed.
    """
    seeds = len(values)
    mean = float(np.mean(values))
    draws = draws[~np.isnan(draws).any(axis=1)]
    if len(draws) > 1:
        of_mean = float(draws.mean(axis=1).var(ddof=1))
        of_one = float(draws.var(axis=0, ddof=1).mean())
    else:
        of_mean = of_one = 0.0
    if seeds == 1:
        between, examples = 0.0, of_one
    else:
        interaction = max(0.0, (of_one - of_mean) * seeds / (seeds - 1))
        between = float(np.var(values, ddof=1)) / seeds
        examples = max(0.0, of_mean - interaction / seeds)
    variance = between + examples
    share = math.nan if seeds == 1 else between / variance if variance > 0 else 0.0
    error = math.sqrt(variance)
    if math.isnan(mean) or (seeds == 1 and len(draws) < 2):
        return Estimate(mean, math.nan, math.nan, math.nan, math.nan, seeds, share)
    half = critical_value(seeds - 1, share, level) * error
    return Estimate(mean, mean - half, mean + half, error, _two_sided(mean, error, seeds, share, level), seeds, share)


def critical_value(freedom: int, share: float, level: float = 0.95) -> float:
    """How many standard errors an interval reaches to each side, when the seeds' variance (``freedom`` degrees of freedom)
    is ``share`` of the estimated variance and the rest is known. NaN or 0 freedom: the normal quantile."""
    if freedom < 1 or math.isnan(share):
        return float(special.ndtri((1 + level) / 2))
    if freedom > EXACT_UP_TO:
        return float(special.stdtrit(freedom / max(share, 1e-9) ** 2, (1 + level) / 2))
    return float(critical_values(freedom, level)(share))


@functools.cache
def critical_values(freedom: int, level: float = 0.95) -> Callable[[float | np.ndarray], np.ndarray]:
    """The critical value as a monotone function of the observed share, from the normal quantile at 0 to Student's at 1.

    For a true share r the seeds' estimated variance is r chi^2_f / f and the rest 1 - r, so an interval of c(u) standard
    errors misses with the probability E[2 Phi(-c(u) sqrt(r chi^2_f / f + 1 - r))] with u the observed share. The knots
    of c are chosen so that this is 1 - level for all r.
    """
    least, most = stats.norm.ppf((1 + level) / 2), stats.t.ppf((1 + level) / 2, freedom)
    scaled = stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom
    true = 1 - (1 - np.linspace(0, 1, SHARES + 2)[1:-1]) ** 1.5  # closer together near 1, where c changes most
    of_seeds = true[:, None] * scaled
    total = of_seeds + (1 - true)[:, None]
    observed, errors = of_seeds / total, np.sqrt(total)
    knots = np.linspace(0, 1, KNOTS)

    def curve(steps: np.ndarray) -> PchipInterpolator:
        parts = np.exp(steps - steps.max())
        return PchipInterpolator(knots, least + (most - least) * np.concatenate([[0.0], np.cumsum(parts / parts.sum())]))

    def misses(steps: np.ndarray) -> np.ndarray:
        missed = (2 * stats.norm.sf(curve(steps)(observed) * errors)).mean(axis=1)
        return np.concatenate([(missed - (1 - level)) * 100, SMOOTH * np.diff(steps)])

    start = np.log(np.diff(knots**2) + 1e-3)
    found = optimize.least_squares(misses, start, max_nfev=60)
    return curve(found.x)


def _freedom(seeds: int, share: float, level: float) -> float:
    """Degrees of freedom of the Student distribution that has the critical value at this level: for p-values."""
    if seeds < 2 or math.isnan(share):
        return math.inf
    critical = critical_value(seeds - 1, share, level)
    quantile = (1 + level) / 2
    if critical <= special.ndtri(quantile) * (1 + 1e-9):
        return math.inf
    low, high = float(seeds - 1) * 0.999, 1e9
    if critical >= special.stdtrit(low, quantile):
        return low
    return float(optimize.brentq(lambda df: float(special.stdtrit(df, quantile)) - critical, low, high))


def _two_sided(value: float, error: float, seeds: int, share: float, level: float) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * special.stdtr(_freedom(seeds, share, level), -abs(value) / error))


def _one_sided(value: float, error: float, seeds: int, share: float, level: float) -> float:
    if math.isnan(error):
        return math.nan
    if error == 0:
        return 0.0 if value > 0 else 1.0
    return float(special.stdtr(_freedom(seeds, share, level), -value / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): the family-wise error stays below the level. NaN stays NaN and
    counts, as a question that was asked."""
    order = sorted(range(len(p_values)), key=lambda index: (math.isnan(p_values[index]), p_values[index]))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for place, index in enumerate(order):
        if not math.isnan(p_values[index]):
            largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
            corrected[index] = largest
    return corrected
