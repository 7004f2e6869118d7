"""Which examples form which step: seeded, resumable from the step number alone, bucketed by length.

A :class:`Schedule` gives the epochs of a training one after the other. Those of :class:`BatchSchedule` follow from the
step number alone; those of :class:`ftft.engine.choosing.ChoosingSchedule` from what the steps before have shown.

Bucketing: a seeded permutation is cut into windows of ``WINDOW`` batches, each window is sorted by length and cut
into batches, and the batches are shuffled. Every example occurs exactly once an epoch, batches stay random, and
padding is small because a batch holds neighbours in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

WINDOW = 50  # batches sorted together: large enough to remove most padding, small enough to keep batches random
FILLING = 0xF111  # of the random numbers that fill up a batch, apart from those that plan the epoch


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


def fill_short(batches: list[np.ndarray], rows: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of :func:`plan_epoch`, the one that holds the rest filled up with other positions of the epoch, so that every
    example stands among as many others. ``rows``: int64 [K], the row at each position; none comes twice into the batch. Where
    no other row is left, it stays short."""
    found = list(batches)
    for place, batch in enumerate(batches):
        missing = batch_size - len(batch)
        if missing > 0:
            _, first = np.unique(rows, return_index=True)
            others = first[~np.isin(rows[first], rows[batch])]
            generator = np.random.default_rng(np.random.SeedSequence([seed, epoch, FILLING]))
            found[place] = np.concatenate([batch, generator.permutation(others)[:missing]])
    return found


def _cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Epoch:
    """One pass over the examples, or over those chosen for it: ``number`` (from 0), the step it begins with (``first``),
    and the rows of each of its ``batches``.

    A training is planned in steps; an epoch begins at the planned step ``begin`` and stands for ``length`` of them, however
    many batches it has. ``weights``: what each batch's losses are multiplied with, float64 like its rows; None for ones.
    """

    number: int
    first: int
    batches: Sequence[np.ndarray]
    begin: float
    length: float
    weights: Sequence[np.ndarray] | None = None

    @property
    def end(self) -> int:
        """The step after its last one."""
        return self.first + len(self.batches)

    def holds(self, step: int) -> bool:
        """Whether step number ``step`` (from 0) is one of its."""
        return self.first <= step < self.end

    def position(self, steps: int) -> float:
        """The planned step at which the training is after ``steps`` steps, from this epoch's first to its last."""
        return self.begin + (steps - self.first) * self.length / len(self.batches)


class Schedule(Protocol):
    """The steps of a training run.

    ``rows``: int64 [K], every row that may be learned from. ``steps``: those planned, which learning rate, warm-up and the
    end go by. ``steps_per_epoch``: planned steps of a pass over all of ``rows``.
    """

    @property
    def rows(self) -> np.ndarray: ...

    @property
    def steps(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch_at(self, step: int) -> Epoch:
        """The epoch of step number ``step`` (from 0); asked for in the order of the steps."""
        ...


@runtime_checkable
class Learning(Protocol):
    """What a schedule is beside, whose later epochs depend on what the steps before have shown: it sees the loss of every
    example of a step (``rows`` int64 [B], each once, ``losses`` float64 [B], the same in every process) and is part of the
    checkpoint."""

    def observe(self, rows: np.ndarray, losses: np.ndarray) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class BatchSchedule:
    """All steps of a training run, as a pure function of the step number, so that resuming needs no sampler state.

    ``rows``: int64 [K], the row of each position (a row may stand several times: upsampled copies). ``lengths``:
    int32 [K]. ``explicit``: the rows of every step instead, for replaying somebody else's batches. ``fill``: whether an
    epoch's short batch is filled up (:func:`fill_short`), for tasks whose losses depend on the batch.
    """

    rows: np.ndarray
    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int
    shuffle: Literal["bucketed", "plain"] = "bucketed"
    explicit: tuple[np.ndarray, ...] | None = None
    fill: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that step number ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def epoch_at(self, step: int) -> Epoch:
        """The epoch of ``step``: it stands for as many planned steps as it has batches."""
        number = self.epoch_of(step)
        first = number * self.steps_per_epoch
        batches = self.plan(number)
        return Epoch(number, first, batches, begin=first, length=len(batches))

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch."""
        if self.explicit is not None:
            return list(self.explicit[epoch * self.steps_per_epoch : (epoch + 1) * self.steps_per_epoch])
        positions = plan_epoch(self.lengths, self.batch_size, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        if self.fill:
            positions = fill_short(positions, self.rows, self.batch_size, seed=self.seed, epoch=epoch)
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
