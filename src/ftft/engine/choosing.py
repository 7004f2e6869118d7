"""The schedule of a method that chooses while training: a sampler says before every epoch what is learned from in it.

With E planned epochs of S / E planned steps each, epoch e runs from the planned step e * S / E to (e + 1) * S / E, whatever
number of examples the sampler chose for it. Where the recipe gives steps and not epochs, every batch is one planned step and
there are as many epochs as it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ftft.engine.batches import BatchSchedule, Epoch, Schedule, fill_short, plan_epoch, planned_steps
from ftft.engine.processes import ALONE, Processes
from ftft.engine.settings import TrainSettings
from ftft.methods.contract import Choice, Sampler


@dataclass
class ChoosingSchedule:
    """Implements :class:`ftft.engine.batches.Schedule` and :class:`ftft.engine.batches.Learning` over a ``sampler``.

    ``rows``: int64 [K], the row of each example of the sampler's selection, each once. ``lengths``: int32 [K]. ``steps``:
    planned steps. ``by_epochs``: whether an epoch stands for ``steps_per_epoch`` of them, or each batch for one.
    """

    sampler: Sampler
    rows: np.ndarray
    lengths: np.ndarray
    batch_size: int
    steps: int
    seed: int
    by_epochs: bool = True
    shuffle: Literal["bucketed", "plain"] = "bucketed"
    processes: Processes = ALONE
    fill: bool = False  # an epoch's short batch is filled up with others of the epoch
    counts: list[dict[str, int]] = field(default_factory=list)  # of each epoch begun: its examples and its steps

    def __post_init__(self) -> None:
        if len(np.unique(self.rows)) < len(self.rows):
            raise ValueError("a sampler chooses among examples that stand in its selection once each")
        self._position_of = {int(row): position for position, row in enumerate(self.rows)}
        self._epoch: Epoch | None = None
        self._choice: Choice | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def epoch_at(self, step: int) -> Epoch:
        """The present epoch, or the next one, which the sampler chooses when its first step is asked for."""
        epoch = self._epoch
        if epoch is not None and epoch.holds(step):
            return epoch
        number, begin = (0, 0.0) if epoch is None else (epoch.number + 1, epoch.begin + epoch.length)
        # One choice for all processes: the last digits of what another machine computes may differ.
        self._choice = self.processes.from_first(self.sampler.choose(number, begin / self.steps))
        _check(self._choice, len(self.rows))
        self._epoch = self._plan(number, step, begin, self._choice)
        self.counts.append({"examples": len(self._choice.positions), "steps": len(self._epoch.batches)})
        return self._epoch

    def observe(self, rows: np.ndarray, losses: np.ndarray) -> None:
        """Hand the sampler the losses of a step's examples."""
        positions = np.array([self._position_of[int(row)] for row in rows], dtype=np.int64)
        self.sampler.observe(positions, losses)

    def state(self) -> dict[str, Any]:
        """The sampler's own, and the present epoch's choice, from which its batches follow."""
        present = None
        if self._epoch is not None and self._choice is not None:
            present = {
                "number": self._epoch.number,
                "first": self._epoch.first,
                "begin": float(self._epoch.begin),
                "positions": self._choice.positions,
                "weights": self._choice.weights,
            }
        return {"sampler": self.sampler.state(), "present": present, "counts": [dict(one) for one in self.counts]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sampler.load_state(state["sampler"])
        self.counts = [dict(one) for one in state["counts"]]
        present = state["present"]
        self._epoch = self._choice = None
        if present is not None:
            weights = present["weights"]
            self._choice = Choice(np.asarray(present["positions"]), None if weights is None else np.asarray(weights))
            self._epoch = self._plan(int(present["number"]), int(present["first"]), float(present["begin"]), self._choice)

    def _plan(self, number: int, first: int, begin: float, choice: Choice) -> Epoch:
        positions, weights = choice.positions, choice.weights
        plan = plan_epoch(self.lengths[positions], self.batch_size, seed=self.seed, epoch=number, shuffle=self.shuffle)
        if self.fill:
            plan = fill_short(plan, self.rows[positions], self.batch_size, seed=self.seed, epoch=number)
        return Epoch(
            number,
            first,
            [self.rows[positions[batch]] for batch in plan],
            begin=begin,
            length=self.steps_per_epoch if self.by_epochs else len(plan),
            weights=None if weights is None else [weights[batch] for batch in plan],
        )


def schedule_for(
    train: TrainSettings,
    rows: np.ndarray,
    lengths: np.ndarray,
    *,
    seed: int,
    sampler: Sampler | None,
    processes: Processes,
    fill: bool = False,
) -> Schedule:
    """The schedule of a stage that learns from ``rows`` (int64 [K], ``lengths`` int32 [K]), or from what ``sampler`` chooses
    of them. ``fill``: an epoch's short batch is filled up."""
    steps = planned_steps(len(rows), train.batch_size, epochs=train.epochs, steps=train.steps)
    if sampler is None:
        return BatchSchedule(rows, lengths, train.batch_size, steps, seed, train.shuffle, fill=fill)
    return ChoosingSchedule(
        sampler,
        rows,
        lengths,
        train.batch_size,
        steps,
        seed,
        by_epochs=train.steps is None,
        shuffle=train.shuffle,
        processes=processes,
        fill=fill,
    )


def _check(choice: Choice, examples: int) -> None:
    """ValueError for a choice that no epoch can be made of."""
    positions, weights = choice.positions, choice.weights
    if len(positions) == 0 or len(np.unique(positions)) < len(positions):
        raise ValueError(f"a sampler chose {len(positions)} examples; it must choose one at least, and each once")
    if positions.min() < 0 or positions.max() >= examples:
        raise ValueError(f"a sampler chose positions outside 0..{examples - 1}")
    if weights is not None and (weights.shape != positions.shape or not np.isfinite(weights).all() or weights.min() <= 0):
        raise ValueError("a sampler's weights must be finite and above 0, one for each example it chose")
