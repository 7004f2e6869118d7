"""Where a training is in its schedule, and what follows from it: the learning rate, when to evaluate, when to end.

Two counts run side by side. ``step`` counts the optimizer steps taken. ``position`` says how far the training is in planned
steps: the two are the same unless a sampler makes an epoch longer or shorter than planned, and then an epoch still moves the
position by a whole epoch. What is fitted to the length of the training goes by the position, so that it ends where it was
planned to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftft.engine.batches import Epoch, Schedule
from ftft.engine.schedule import ending_step, rate_factor, warmup_steps
from ftft.engine.settings import TrainSettings

ROUNDING = 1e-9  # a share of an epoch is a binary fraction


class Walk:
    """The steps of one training run, in order. ``end``: the planned step after which it ends. ``most_steps``: as many are taken
    at most, whatever was planned."""

    def __init__(self, schedule: Schedule, settings: TrainSettings) -> None:
        self.schedule, self.settings = schedule, settings
        self.step = 0
        self.position = 0.0
        self.end = ending_step(schedule.steps, settings.end_at)
        self.most_steps = math.inf
        self.warmup = warmup_steps(schedule.steps, settings.warmup)
        self._before = 0.0  # the position before the last step
        self._epoch: Epoch | None = None

    @property
    def ended(self) -> bool:
        return self.position >= self.end - ROUNDING or self.step >= self.most_steps

    def epoch(self) -> Epoch:
        """The epoch of the step that comes next."""
        if self._epoch is None or not self._epoch.holds(self.step):
            self._epoch = self.schedule.epoch_at(self.step)
        return self._epoch

    def weights(self) -> np.ndarray | None:
        """What the losses of the step that comes next are multiplied with, float64 [B]; None for ones."""
        epoch = self.epoch()
        return None if epoch.weights is None else epoch.weights[self.step - epoch.first]

    def advance(self) -> bool:
        """One step has been taken; whether it was the last of its epoch."""
        epoch = self.epoch()
        self.step += 1
        self._before, self.position = self.position, epoch.position(self.step)
        return self.step == epoch.end

    def rate_factor(self) -> float:
        """What the base learning rate is multiplied with in the step that comes next."""
        return rate_factor(self.position, steps=self.schedule.steps, warmup=self.warmup, schedule=self.settings.schedule)

    def steps_until(self, planned: int) -> int:
        """The number of steps taken by the planned step ``planned``: the same number, or where epochs differ in length as
        many as the training so far lets expect, never fewer than were taken or are about to be."""
        if self.position == self.step:
            return planned
        return max(self.step + (not self.ended), round(self.step * planned / self.position))

    def evaluation_interval(self) -> int:
        """Between evaluations: steps as set, else planned ones (a share of the plan if set below 1, by default an epoch)."""
        every = self.settings.evaluate_every
        if every is None:
            return min(self.schedule.steps_per_epoch, self.schedule.steps)
        return max(1, round(every * self.schedule.steps)) if every < 1 else int(every)

    def evaluation_is_due(self) -> bool:
        """Whether the last step completed an interval, counted in steps where it is set in steps, else in planned ones."""
        interval, every = self.evaluation_interval(), self.settings.evaluate_every
        if every is not None and every >= 1:
            return self.step % interval == 0 or self.ended
        passed, before = ((at + ROUNDING) // interval for at in (self.position, self._before))
        return passed > before or self.ended

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "position": float(self.position)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; a checkpoint without a position is of a time when it was the step."""
        self.step = int(state["step"])
        self.position = self._before = float(state.get("position", self.step))
        self._epoch = None
