"""The scores of an example's training dynamics, each from the trajectory over the epochs in which it was seen.

With p_e the softmax probability of the gold class in epoch e, E the number of seen epochs (source in brackets):

    confidence           mean_e p_e                                       [Swayamdipta et al. 2020]
    variability          std_e p_e, divisor E - ddof                      [ddof 0: Swayamdipta et al.; ddof 1: FTFT]
      with include_ci    sqrt(v + v^2 / (E-1)), v the population variance [Chang et al. 2017]
    correctness          number of epochs in which argmax = gold          [Swayamdipta et al. 2020]
    forgetting           number of correct -> incorrect transitions; 1000 if never correct   [Toneva et al. 2019]
    threshold_closeness  confidence * (1 - confidence)                    [Chang et al. 2017]
    entropy              mean_e of the predicted distribution's entropy in nats
    aum                  mean_e (gold logit - largest other logit)        [Pleiss et al. 2020]
    el2n                 ||softmax - one_hot||_2 in the last epoch        [Paul et al. 2021, who take an early epoch: choose it]
    dyn_unc              mean over windows of J epochs of the sample std of p              [He et al. 2024]
    dual                 mean over windows of sample std * (1 - window mean) of p          [Cho et al. 2025]
    loss                 mean_e -ln p_e
    random               uniform in [0, 1), from the id and the seed alone

Definitions of forgetting and correctness follow allenai/cartography (counts, not shares; 1000 stands for never learned).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftft.dynamics import score_names
from ftft.dynamics.idhash import uniform_of_ids
from ftft.dynamics.table import Dynamics
from ftft.dynamics.trajectories import PHRASES, Trajectories, quantities
from ftft.errors import UserError, did_you_mean

CHUNK = 16_384  # examples at a time, at most
CHUNK_VALUES = 1 << 17  # and with several values each: so many, so that temporary arrays stay in the processor's cache
SMALL = 4  # up to so many chunks are not worth threads
NEVER_CORRECT = 1000.0


@dataclass(frozen=True)
class Options:
    """What a score may be told: ``ddof`` of the variability, the ``window`` J of dyn_unc and dual, ``include_ci``."""

    ddof: int
    window: int
    include_ci: bool


@dataclass(frozen=True)
class Score:
    """``direction``: which end marks the examples one looks for (uncertain, hard or mislabelled ones). ``needs``: a
    quantity the dynamics must hold (a key of ``trajectories.PHRASES``), None for none. ``min_epochs``: fewest epochs."""

    name: str
    meaning: str
    direction: Literal["highest", "lowest"]
    needs: str | None
    function: Callable[[Trajectories, Options], np.ndarray] | None
    min_epochs: int


def _confidence(t: Trajectories, options: Options) -> np.ndarray:
    return t.mean(t.probability)


def _variability(t: Trajectories, options: Options) -> np.ndarray:
    deviation = t.probability - t.mean(t.probability)
    squares = deviation * deviation
    enough = t.count >= 2  # one observation has no spread under either convention
    if not options.include_ci:
        variance = t.mean(squares, t.count - options.ddof)
        return np.sqrt(variance, out=np.full(len(variance), np.nan), where=enough)
    v = t.mean(squares)
    out = np.full(len(v), np.nan)
    out[enough] = np.sqrt(v[enough] + v[enough] ** 2 / (t.count[enough] - 1))
    return out


def _correctness(t: Trajectories, options: Options) -> np.ndarray:
    return np.where(t.count > 0, (t.prediction & t.valid).sum(axis=0), np.nan)


def _forgetting(t: Trajectories, options: Options) -> np.ndarray:
    correct = t.prediction & t.valid
    transitions = (correct[:-1] & ~correct[1:] & t.valid[1:]).sum(axis=0).astype(np.float64)
    return np.where(t.count > 0, np.where(correct.any(axis=0), transitions, NEVER_CORRECT), np.nan)


def _threshold_closeness(t: Trajectories, options: Options) -> np.ndarray:
    confidence = t.mean(t.probability)
    return confidence * (1.0 - confidence)


def _el2n(t: Trajectories, options: Options) -> np.ndarray:
    return np.where(t.count > 0, t.last_error(), np.nan)


def _over_windows(t: Trajectories, window: int, value: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The mean of ``value(sample std, mean)`` over each example's windows of consecutive seen epochs; NaN without one."""
    total = np.zeros(len(t.count))
    for start, (std, mean) in enumerate(t.windows(window)):
        total += np.where(start + window <= t.count, value(std, mean), 0.0)
    windows = t.count - window + 1
    return np.divide(total, windows, out=np.full(len(total), np.nan), where=windows > 0)


def _dyn_unc(t: Trajectories, options: Options) -> np.ndarray:
    return _over_windows(t, options.window, lambda std, mean: std)


def _dual(t: Trajectories, options: Options) -> np.ndarray:
    return _over_windows(t, options.window, lambda std, mean: std * (1.0 - mean))


def _score(
    name: str,
    direction: Literal["highest", "lowest"],
    needs: str | None,
    function: Callable[[Trajectories, Options], np.ndarray] | None,
) -> Score:
    return Score(name, score_names.SCORES[name], direction, needs, function, score_names.MINIMUM_EPOCHS.get(name, 1))


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        _score("confidence", "lowest", "probability", _confidence),
        _score("variability", "highest", "probability", _variability),
        _score("correctness", "lowest", "prediction", _correctness),
        _score("forgetting", "highest", "prediction", _forgetting),
        _score("threshold_closeness", "highest", "probability", _threshold_closeness),
        _score("entropy", "highest", "entropy", lambda t, _: t.mean(t.entropy)),
        _score("aum", "lowest", "margin", lambda t, _: t.mean(t.margin)),
        _score("el2n", "highest", "error", _el2n),
        _score("dyn_unc", "highest", "probability", _dyn_unc),
        _score("dual", "highest", "probability", _dual),
        _score("loss", "highest", "loss", lambda t, _: t.mean(t.loss)),
        _score("random", "highest", None, None),
    )
}


def choose_epochs(
    dynamics: Dynamics,
    *,
    drop_first: int = 0,
    first: int | None = None,
    last: int | None = None,
    only: Sequence[int] | None = None,
) -> list[int]:
    """Which epochs to score, as epoch numbers: ``only`` these; else without the first ``drop_first`` recorded ones, and of
    what remains the ``first`` (cartography's burn_out, early-only) or the ``last`` so many. UserError where none is left."""
    recorded = list(dynamics.epochs)
    if only is not None:
        missing = sorted(set(only) - set(recorded))
        if missing or not only:
            raise UserError(f"epochs {missing or list(only)} are not in these dynamics; they hold {recorded}")
        return sorted(set(only))
    if first is not None and last is not None:
        raise UserError("give either the first or the last so many epochs to score, not both")
    for name, number in (("drop_first", drop_first), ("first", first), ("last", last)):
        if number is not None and number < (0 if name == "drop_first" else 1):
            raise UserError(f"{name} is {number}, and must be a number of epochs, at least {0 if name == 'drop_first' else 1}")
    chosen = recorded[drop_first:]
    chosen = chosen[:first] if first is not None else chosen[-last:] if last is not None else chosen
    if not chosen:
        raise UserError(f"no epoch is left to score: these dynamics hold {recorded}, and the first {drop_first} were dropped")
    return chosen


def available_scores(dynamics: Dynamics, *, num_epochs: int | None = None) -> list[str]:
    """The names of the scores that these dynamics allow, over ``num_epochs`` epochs (by default all recorded)."""
    held = quantities(dynamics)
    count = len(dynamics.epochs) if num_epochs is None else num_epochs
    return [s.name for s in SCORES.values() if count >= s.min_epochs and (s.needs is None or s.needs in held)]


def describe_left_out(dynamics: Dynamics, *, num_epochs: int | None = None) -> str:
    """Which scores these dynamics do not allow over ``num_epochs`` epochs and why, as one clause; "" where they allow all."""
    held = quantities(dynamics)
    count = len(dynamics.epochs) if num_epochs is None else num_epochs
    without: dict[str, list[str]] = {}
    for score in SCORES.values():
        if score.needs is not None and score.needs not in held:
            why = f"{PHRASES[score.needs]}, which these dynamics do not hold"
        elif count < score.min_epochs:
            why = _too_few(score, count)
        else:
            continue
        without.setdefault(why, []).append(score.name)
    return "; ".join(f"{', '.join(names)} need{'s' * (len(names) == 1)} {why}" for why, names in without.items())


def _too_few(score: Score, count: int) -> str:
    return f"at least {score.min_epochs} epochs, and there {'is' if count == 1 else 'are'} {count}"


def check_score(dynamics: Dynamics, name: str, *, num_epochs: int | None = None) -> Score:
    """The score of that name; UserError where there is none such, or these dynamics do not allow it."""
    if name not in SCORES:
        raise UserError(f'there is no score "{name}"{did_you_mean(name, SCORES)}')
    score = SCORES[name]
    count = len(dynamics.epochs) if num_epochs is None else num_epochs
    if score.needs is not None and score.needs not in quantities(dynamics):
        raise UserError(
            f'the score "{name}" needs {PHRASES[score.needs]}, which these dynamics do not hold; '
            f"they allow {', '.join(available_scores(dynamics, num_epochs=count))}"
        )
    if count < score.min_epochs:
        raise UserError(f'the score "{name}" needs {_too_few(score, count)}')
    return score


def _options(scores: Sequence[Score], epochs: int, ddof: int, window: int | None, include_ci: bool) -> Options:
    if ddof not in (0, 1):
        raise UserError(f"ddof is {ddof}, and must be 0 (population, as cartography) or 1 (sample, as FTFT)")
    if include_ci and ddof:
        raise UserError("include_ci is defined on the population variance; leave ddof at 0")
    if window is None:
        return Options(ddof, min(3, epochs - 1), include_ci)
    if any(score.function in (_dyn_unc, _dual) for score in scores) and not 2 <= window <= epochs:
        raise UserError(
            f"a window of {window} epochs does not fit: it must be at least 2 and at most {epochs}, the epochs scored"
        )
    return Options(ddof, window, include_ci)


def compute_scores(
    dynamics: Dynamics,
    names: Sequence[str] | None = None,
    *,
    ddof: int = 0,
    window: int | None = None,
    include_ci: bool = False,
    seed: int = 0,
    epochs: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """The named scores (by default all that the dynamics allow), each float64 [N], sharing one pass and its softmax.

    NaN where an example was never seen, or too few times for the score. ``window``: J of dyn_unc and dual, by default
    min(3, E - 1). ``seed``: of the random score. ``epochs``: epoch numbers to use (see :func:`choose_epochs`).
    Raises UserError for an unknown score, one that the dynamics do not allow, or values that are not finite.
    """
    chosen = choose_epochs(dynamics, only=epochs)
    if not chosen:
        raise UserError("these dynamics hold no epoch, so nothing can be scored")
    wanted = available_scores(dynamics, num_epochs=len(chosen)) if names is None else list(names)
    scores = [check_score(dynamics, name, num_epochs=len(chosen)) for name in wanted]
    options = _options(scores, len(chosen), ddof, window, include_ci)
    epoch_rows = [dynamics.epochs.index(epoch) for epoch in chosen]
    out = {score.name: np.empty(len(dynamics)) for score in scores}

    per_example = len(chosen) * (dynamics.num_classes or 1)
    chunk = max(1, min(CHUNK, CHUNK_VALUES // per_example))

    def score_chunk(start: int) -> None:
        rows = slice(start, min(start + chunk, len(dynamics)))
        trajectories = Trajectories(dynamics, rows, epoch_rows)
        for score in scores:
            if score.function is None:
                out[score.name][rows] = uniform_of_ids(dynamics.ids[rows], seed)
            else:
                out[score.name][rows] = score.function(trajectories, options)

    starts = range(0, len(dynamics), chunk)
    if len(dynamics) <= SMALL * CHUNK:
        for start in starts:
            score_chunk(start)
        return out
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy lets other threads run while it computes
        list(pool.map(score_chunk, starts))
    return out


def compute_score(
    dynamics: Dynamics,
    name: str,
    *,
    ddof: int = 0,
    window: int | None = None,
    include_ci: bool = False,
    seed: int = 0,
    epochs: Sequence[int] | None = None,
) -> np.ndarray:
    """One score of every example, float64 [N]; as :func:`compute_scores`."""
    scores = compute_scores(dynamics, [name], ddof=ddof, window=window, include_ci=include_ci, seed=seed, epochs=epochs)
    return scores[name]
