"""Per-example trajectories over the epochs that were seen: what the scores are computed from, a chunk at a time.

For an example with logits z_e in [C] and gold class y, epoch e: p_e = softmax(z_e)[y]. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError

FEW_CLASSES = 16  # up to so many, passes over all classes are quicker than picking single entries

PHRASES = {
    "probability": "the probability of the gold class",
    "loss": "the loss",
    "prediction": "whether the gold class was predicted",
    "margin": "the logit of the gold class and the largest other logit",
    "entropy": "the probabilities of all classes",
    "error": "the probabilities of all classes and the gold labels",
}


def quantities(dynamics: Dynamics) -> frozenset[str]:
    """Which quantities (the keys of ``PHRASES``) these dynamics hold or determine."""
    if dynamics.logits is not None:
        with_gold = {"probability", "loss", "prediction", "margin", "error"} if dynamics.gold is not None else set()
        return frozenset({"entropy"} | with_gold)
    found: set[str] = set()
    if dynamics.pair_logits is not None:
        found |= {"margin", "prediction"}
    if dynamics.pair_probability is not None:
        found |= {"probability", "loss"}
        # With two classes the gold probability is the whole distribution.
        if dynamics.metadata.get("num_classes") == 2:
            found |= {"prediction", "entropy", "error"}
    if "probability" in dynamics.statistics or "mean_log_probability" in dynamics.statistics:
        found |= {"probability", "loss"}
    if "entropy" in dynamics.statistics:
        found |= {"entropy"}
    return frozenset(found)


class Trajectories:
    """n examples (``rows`` of the dynamics) over the E chosen epochs (``epoch_rows``: positions among the recorded ones).

    The seen epochs of each example are moved to the front, in their order, so that every quantity is float64 or bool
    [E, n] whose entry [k, i] is example i's k-th seen epoch; ``count`` (int64 [n]) says how many there are and ``valid``
    (bool [E, n]) marks them. Entries that are not valid hold arbitrary finite numbers.
    """

    def __init__(self, dynamics: Dynamics, rows: slice, epoch_rows: Sequence[int]) -> None:
        self._dynamics, self._rows, self._epoch_rows = dynamics, rows, list(epoch_rows)
        seen = np.stack([dynamics.seen[row, rows] for row in self._epoch_rows])
        self._seen = seen
        self.count = seen.sum(axis=0, dtype=np.int64)
        self._order = None if seen.all() else np.argsort(~seen, axis=0, kind="stable")
        self.valid = np.arange(len(seen))[:, None] < self.count
        self.gold = None if dynamics.gold is None else dynamics.gold[rows]
        self._windows: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def mean(self, values: np.ndarray, count: np.ndarray | None = None) -> np.ndarray:
        """The mean of ``values`` [E, n] over each example's seen epochs; NaN where there is none. ``count`` [n]: another
        divisor than the number of seen epochs."""
        if self._order is None and count is None:
            return values.sum(axis=0) / len(values)
        count = self.count if count is None else count
        total = np.where(self.valid, values, 0.0).sum(axis=0) if self._order is not None else values.sum(axis=0)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    def _gather(self, values: np.ndarray, what: str) -> np.ndarray:
        """[E, N] of the dynamics as float64 [E, n], seen epochs first; UserError where a seen value is not finite."""
        taken = np.stack([values[row, self._rows] for row in self._epoch_rows]).astype(np.float64)
        return self._finite_and_packed(taken, what)

    def _finite_and_packed(self, taken: np.ndarray, what: str) -> np.ndarray:
        """Check ``taken`` ([..., E, n]) and move the seen epochs to the front."""
        if not np.isfinite(taken.sum()):  # one pass without temporaries; a finite sum has finite terms
            bad = ~np.isfinite(taken)
            per_epoch = bad.reshape(-1, *bad.shape[-2:]).any(axis=0) & self._seen
            if per_epoch.any():
                position, example = (int(index[0]) for index in np.nonzero(per_epoch))
                name = self._dynamics.ids[(self._rows.start or 0) + example].as_py()
                epoch = self._dynamics.epochs[self._epoch_rows[position]]
                raise UserError(
                    f'the {what} of example "{name}" in epoch {epoch} is not a finite number, so nothing can be scored; '
                    "the training diverged there: choose earlier epochs, or record again with a lower learning rate"
                )
            taken = np.where(bad, 0.0, taken)
        if self._order is None:
            return taken
        order = self._order if taken.ndim == 2 else self._order[None]
        return np.take_along_axis(taken, order, axis=taken.ndim - 2)

    @cached_property
    def _logits(self) -> np.ndarray:
        """Logits minus their largest, [C, E, n]: classes in front, so that sums over them run over whole rows."""
        logits = self._dynamics.logits
        assert logits is not None
        out = np.empty((logits.shape[2], len(self._epoch_rows), len(self.count)))
        for position, row in enumerate(self._epoch_rows):
            out[:, position] = logits[row, self._rows].T
        out = self._finite_and_packed(out, "logit")
        out -= out.max(axis=0)
        return out

    @cached_property
    def _exponentials(self) -> np.ndarray:
        return np.exp(self._logits)

    @cached_property
    def _total(self) -> np.ndarray:
        return self._exponentials.sum(axis=0)

    @cached_property
    def _log_total(self) -> np.ndarray:
        return np.log(self._total)

    @cached_property
    def probability(self) -> np.ndarray:
        """p_e, the probability of the gold class (of sequences: the geometric mean over the target tokens)."""
        dynamics = self._dynamics
        if dynamics.logits is not None:
            return np.exp(self._gold_logit) / self._total
        if dynamics.pair_probability is not None:
            return self._gather(dynamics.pair_probability, "probability")
        if "probability" in dynamics.statistics:
            return self._gather(dynamics.statistics["probability"], "probability")
        return np.exp(self._gather(dynamics.statistics["mean_log_probability"], "mean log-probability"))

    @cached_property
    def loss(self) -> np.ndarray:
        """-ln p_e. Where only p is stored, a p of 0 counts as the smallest normal float32."""
        dynamics = self._dynamics
        if dynamics.logits is not None:
            return self._log_total - self._gold_logit
        if dynamics.pair_probability is None and "mean_log_probability" in dynamics.statistics:
            return -self._gather(dynamics.statistics["mean_log_probability"], "mean log-probability")
        return -np.log(np.maximum(self.probability, np.finfo(np.float32).tiny))

    @cached_property
    def _gold_logit(self) -> np.ndarray:
        assert self.gold is not None
        if len(self._logits) > FEW_CLASSES:
            return np.take_along_axis(self._logits, self.gold[None, None, :].astype(np.int64), axis=0)[0]
        out = np.zeros(self.valid.shape)
        for index, values in enumerate(self._logits):
            out += values * (self.gold == index)
        return out

    @cached_property
    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        """The gold logit and the largest other logit, each [E, n]."""
        pair = self._dynamics.pair_logits
        if pair is not None:
            return self._gather(pair[:, :, 0], "logit"), self._gather(pair[:, :, 1], "logit")
        other = np.full(self.valid.shape, -np.inf)
        for index, values in enumerate(self._logits):
            np.maximum(other, values + np.where(self.gold == index, -np.inf, 0.0), out=other)
        return self._gold_logit, other

    @cached_property
    def margin(self) -> np.ndarray:
        """The gold logit minus the largest other logit."""
        gold, other = self._pair
        return gold - other

    @cached_property
    def prediction(self) -> np.ndarray:
        """Whether the gold class is the argmax, bool [E, n]; of tied classes the first wins. The stored pair does not say
        which class the other logit belongs to: a tie there counts as correct only for gold class 0."""
        dynamics = self._dynamics
        if dynamics.logits is None and dynamics.pair_logits is None:
            correct, tied = self.probability > 0.5, self.probability == 0.5
        else:
            correct, tied = self.margin > 0, self.margin == 0
        if not tied.any():
            return correct
        if dynamics.logits is not None:
            return correct | (tied & (self._logits.argmax(axis=0) == self.gold))
        return correct | (tied & (self.gold == 0)) if self.gold is not None else correct

    @cached_property
    def entropy(self) -> np.ndarray:
        """-sum_c p_c ln p_c of the predicted distribution, in nats (of sequences: as recorded)."""
        dynamics = self._dynamics
        if dynamics.logits is not None:
            # ln S - sum_c z_c e^{z_c} / S, with S the sum of e^{z_c}
            weighted = np.einsum("cen,cen->en", self._exponentials, self._logits)
            return self._log_total - weighted / self._total
        if "entropy" in dynamics.statistics:
            return self._gather(dynamics.statistics["entropy"], "entropy")
        tiny = np.finfo(np.float64).tiny
        p, rest = self.probability, 1.0 - self.probability
        return -(p * np.log(np.maximum(p, tiny)) + rest * np.log(np.maximum(rest, tiny)))

    def last_error(self) -> np.ndarray:
        """||softmax(z_e) - one_hot(y)||_2 in each example's last seen epoch, [n]; arbitrary where none was seen."""
        p = self._last(self.probability)
        if self._dynamics.logits is None:
            return np.sqrt(2.0) * (1.0 - p)
        # The gold class has the error 1 - p, every other class its own probability.
        squares = (self._last(self._exponentials) / self._last(self._total)) ** 2
        assert self.gold is not None
        np.put_along_axis(squares, self.gold[None].astype(np.int64), ((1.0 - p) ** 2)[None], axis=0)
        return np.sqrt(squares.sum(axis=0))

    def _last(self, values: np.ndarray) -> np.ndarray:
        """Each example's last seen epoch of ``values`` [..., E, n]: [..., n]."""
        if self._order is None:
            return values[..., -1, :]
        last = np.maximum(self.count - 1, 0)
        return values[..., last, np.arange(len(last))]

    def windows(self, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The sample standard deviation and the mean, each [n], of p over every window of ``length`` consecutive epochs;
        arbitrary where the window reaches beyond an example's seen epochs."""
        if length not in self._windows:
            parts = [self.probability[start : start + length] for start in range(len(self.probability) - length + 1)]
            means = [part.mean(axis=0) for part in parts]
            sums = [((part - mean) ** 2).sum(axis=0) for part, mean in zip(parts, means)]
            self._windows[length] = [(np.sqrt(total / (length - 1)), mean) for total, mean in zip(sums, means)]
        return self._windows[length]
