"""Which examples form which step: seeded, resumable from the step number alone, bucketed by length.

Bucketing: a seeded permutation is cut into windows of ``WINDOW`` batches, each window is sorted by length and cut
into batches, and the batches are shuffled. Every example occurs exactly once an epoch, batches stay random, and
padding is small because a batch holds neighbours in length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW = 50  # batches sorted together: large enough to remove most padding, small enough to keep batches random


def plan_epoch(
    lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int, shuffle: Literal["bucketed", "plain"] = "bucketed"
) -> list[np.ndarray]:
    """The batches of one epoch: positions (int64) into ``lengths`` [K], each position in exactly one batch.

    All batches have ``batch_size`` positions but one, which holds the rest. Depends on ``seed`` and ``epoch`` only.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    order = generator.permutation(len(lengths))
    if shuffle == "plain":
        return _cut(order, batch_size)
    window = WINDOW * batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        batches += _cut(part[np.argsort(lengths[part], kind="stable")], batch_size)
    return [batches[index] for index in generator.permutation(len(batches))]


def _cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class BatchSchedule:
    """All steps of a training run, as a pure function of the step number, so that resuming needs no sampler state.

    ``rows``: int64 [K], the row of each position (a row may stand several times: upsampled copies). ``lengths``:
    int32 [K]. ``explicit``: the rows of every step instead, for replaying somebody else's batches.
    """

    rows: np.ndarray
    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int
    shuffle: Literal["bucketed", "plain"] = "bucketed"
    explicit: tuple[np.ndarray, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that step number ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch."""
        if self.explicit is not None:
            return list(self.explicit[epoch * self.steps_per_epoch : (epoch + 1) * self.steps_per_epoch])
        positions = plan_epoch(self.lengths, self.batch_size, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        return [self.rows[batch] for batch in positions]


def planned_steps(examples: int, batch_size: int, *, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps of a run: ``steps`` where given, else ``epochs`` passes (the last may be partial), at least 1."""
    if steps is not None:
        return steps
    assert epochs is not None
    # The small subtraction keeps 0.1 * 30 batches at 3 steps, not 4, despite binary fractions.
    return max(1, math.ceil(epochs * math.ceil(examples / batch_size) - 1e-9))


def share_of_process(rows: np.ndarray, weights: np.ndarray, process: int, processes: int) -> tuple[np.ndarray, np.ndarray]:
    """This process' share of a step's rows [B], equally long on every process.

    Where B does not divide, a share is filled up with a repeated row of weight 0: it takes part in the forward pass,
    so that all processes stay in step, and counts nothing.
    """
    if processes == 1:
        return rows, weights
    share = math.ceil(len(rows) / processes)
    mine = slice(process * share, (process + 1) * share)
    own_rows, own_weights = rows[mine], weights[mine]
    missing = share - len(own_rows)
    if missing:
        own_rows = np.concatenate([own_rows, np.repeat(rows[:1], missing)])
        own_weights = np.concatenate([own_weights, np.zeros(missing, dtype=own_weights.dtype)])
    return own_rows, own_weights
