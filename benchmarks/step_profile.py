"""Where the time of a training step goes in our loop: how much lies outside what the model, clipping and the optimizer take.

    python benchmarks/step_profile.py [--pairs 9] [--steps 12] [--threads N] [--out FILE]

Every step is timed from the end of the one before. ``parts`` are the median shares of a step that are spent in the forward pass
(with the loss), the backward pass, clipping and the optimizer; ``outside`` is the rest: batches, books, counts, hooks, events
and the recorder. The FLOPs of every shape are counted before. ``operators``: the operators of torch by the processor time that
a profile of one more turn shows for them, as shares of all operators.
Target: at most 5 % outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import common
import numpy as np
import torch
from common import Job

from ftft.engine import step as engine_step
from ftft.engine.training import Training
from ftft.methods.contract import Models

TARGET = 0.05
PARTS = ("forward", "backward", "clipping", "optimizer")
MOST_OPERATORS = 15


class Watch:
    """Sums the seconds of each part of a step; ``steps`` has those of the steps that ended, [{part: seconds}]."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._running = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self._running[part] += time.perf_counter() - started

        return call

    def step_ended(self) -> None:
        self.steps.append(self._running)
        self._running = dict.fromkeys(PARTS, 0.0)

    def attach(self, training: Training) -> None:
        """Time the objective and the optimizer of a training."""
        optimizer, notify = training.optimizer, training.notify
        training.objective = _Timed(self, training.objective)
        optimizer.step = self.timed("optimizer", optimizer.step)  # type: ignore[method-assign]
        optimizer.zero_grad = self.timed("optimizer", optimizer.zero_grad)  # type: ignore[method-assign]

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                self.step_ended()
            notify(event)

        training.notify = tell

    @contextmanager
    def everywhere(self) -> Any:
        """Time the backward passes and the clipping."""
        with ExitStack() as stack:
            backward, clip = torch.Tensor.backward, engine_step.clip_gradient
            stack.enter_context(patch.object(torch.Tensor, "backward", self.timed("backward", backward)))
            stack.enter_context(patch.object(engine_step, "clip_gradient", self.timed("clipping", clip)))
            yield


class _Timed:
    """An objective whose loss is timed as the forward pass."""

    def __init__(self, watch: Watch, objective: Any) -> None:
        self._watch, self._objective = watch, objective

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def start(self, models: Models, task: Any) -> Callable[..., Any]:
        return self._watch.timed("forward", self._objective.start(models, task))


def shares(job: Job) -> dict[str, Any]:
    """The shares of a recorded step by part and what is outside, with an interval over the turns."""
    watch = Watch()
    with watch.everywhere():
        timing = common.run_loop(replace(job, recorded=True), lambda: None, prepare=watch.attach)
    parts = {part: np.array([step[part] for step in watch.steps])[job.warmup :].reshape(timing.wall.shape) for part in PARTS}
    outside = 1 - sum(parts.values()) / timing.wall
    return {
        "outside": common.median_with_interval(list(outside)),
        "parts": {part: round(float(np.median(seconds / timing.wall)), 5) for part, seconds in parts.items()},
        "step_ms": round(1000 * float(np.median(timing.wall)), 2),
        "outside_ms": round(1000 * float(np.median(outside * timing.wall)), 3),
    }


def operators(job: Job) -> list[dict[str, Any]]:
    """The operators that took most processor time in a profile of one turn."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    common.run_loop(replace(job, turns=1, recorded=True), profiler.start)
    profiler.stop()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return [
        {
            "operator": row.key,
            "share": round(row.self_cpu_time_total / total, 5),
            "calls_per_step": round(row.count / job.steps, 2),
        }
        for row in rows[:MOST_OPERATORS]
    ]


def main() -> None:
    arguments = common.parser(__doc__, pairs=9, steps=12).parse_args()
    job = common.job_of(arguments)
    results = {
        "realistic_lengths": shares(job),
        "32_tokens": shares(replace(job, tokens=32)),
        "operators": operators(job),
        "target": TARGET,
    }
    common.report("step_profile", arguments, job, results)


if __name__ == "__main__":
    main()
