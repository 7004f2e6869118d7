"""The validation sets that steer a stage: how good a model is on them while it trains, and how good weights are that
``combine`` puts together afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftft.data.examples import EvaluationSet
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.precision import Precision
from ftft.engine.predict import predict, to_device
from ftft.engine.processes import ALONE, Processes
from ftft.engine.settings import StopSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import UserError
from ftft.run.recipe import Stage
from ftft.tasks import metrics
from ftft.tasks.contract import Batch, Prepared, Task

Scores = dict[str, dict[str, float]]  # validation set -> metric -> value


def sets_that_steer(stage: Stage, sets: Mapping[str, EvaluationSet], where: str) -> dict[str, EvaluationSet]:
    """The validation sets whose scores decide when a stage stops and which checkpoint is best; UserError, led by ``where``, for
    a test set."""
    named = stage.stop.on if stage.stop else []
    for name in named:
        if sets[name].split == "test":
            raise UserError(f"{where}.stop.on: {name} is a test set, and test sets are only reported; stop on others")
    if named:
        return {name: sets[name] for name in named}
    return {name: one for name, one in sets.items() if one.role == "id" and one.split == "validation"}


@dataclass
class SteeringSets:
    """``sets`` and their ``prepared`` examples, by name. What is predicted is counted in ``flops`` and in the ledger that
    ``books`` gives: a training that resumes takes up another one."""

    task: Task
    sets: Mapping[str, EvaluationSet]
    prepared: Mapping[str, Prepared]
    settings: StopSettings
    precision: Precision
    flops: FlopCounter
    books: Callable[[], Ledger]

    def scores(self, model: torch.nn.Module, processes: Processes = ALONE) -> Scores:
        """Every metric of the model on every set. The time and the operations are the caller's to charge."""
        found = {}
        for name, one in self.sets.items():
            data = self.prepared[name]
            predictions = predict(model, self.task, data, precision=self.precision, flops=self.flops, processes=processes)
            self.books().add("evaluation", examples=len(data), tokens=int(data.lengths.sum()))
            found[name] = steering_scores(self.task, one, predictions)
        return found

    def mean(self, scores: Mapping[str, Mapping[str, float]]) -> float:
        """The mean over the sets of the metric that steers."""
        assert self.settings.metric is not None, "a recipe that was read names the metric"
        return float(np.mean([one[self.settings.metric] for one in scores.values()]))


@dataclass
class WeightsOnValidation:
    """Implements :class:`ftft.methods.contract.Validation` for one process: weights put into ``model``, which is the stage's
    plain model in memory of its own. Everything is charged to the phase `evaluation`."""

    steering: SteeringSets
    model: torch.nn.Module

    def score(self, state: Mapping[str, torch.Tensor]) -> float:
        """How good the weights are: higher is better, whatever the metric, and minus infinity where it is no number."""
        with self._charged():
            self.model.load_state_dict(state)
            score = self.steering.mean(self.steering.scores(self.model))
            return -math.inf if math.isnan(score) else EarlyStopping(self.steering.settings).goodness(score)

    def batches(self, size: int, *, seed: int) -> Iterator[Batch]:
        """All examples of the sets once, in batches of ``size`` in a seeded order; a set with merged classes is left out."""
        generator = np.random.default_rng(seed)
        parts = [
            (data, rows)
            for name, data in self.steering.prepared.items()
            if self.steering.sets[name].merge is None
            for rows in np.array_split(generator.permutation(len(data)), -(-len(data) // size))
        ]
        for index in generator.permutation(len(parts)):
            data, rows = parts[index]
            self.steering.books().add("evaluation", examples=len(rows), tokens=int(data.lengths[rows].sum()))
            yield to_device(self.steering.task.collate(data, rows), next(self.model.parameters()).device)

    def outputs(self, state: Mapping[str, torch.Tensor], batch: Batch) -> Any:
        """The task's outputs under these weights, in evaluation mode, with gradients to ``state``'s tensors; the backward pass,
        which the caller makes, is charged at twice the forward pass."""
        with self._charged(times=3), self.steering.flops.count("functional", *batch.shape):
            return self.steering.task.forward(With(self.model.eval(), state), batch)

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch."""
        return self.steering.task.per_example_loss(outputs, batch).mean()

    @contextmanager
    def _charged(self, times: int = 1) -> Iterator[None]:
        started, before = time.perf_counter(), self.steering.flops.spent
        yield
        spent = times * (self.steering.flops.spent - before)
        self.steering.books().add("evaluation", flops=spent, seconds=time.perf_counter() - started)


class With(torch.nn.Module):
    """A model that computes with other weights than its own."""

    def __init__(self, model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.state = [model], dict(state)  # in a list: not a submodule, whose weights would count as ours
        self.dtype = next(value.dtype for value in state.values() if value.is_floating_point())

    def forward(self, *args: Any, **inputs: Any) -> Any:
        return torch.func.functional_call(self.inner[0], self.state, args, inputs)


def steering_scores(task: Task, one: EvaluationSet, predictions: np.ndarray) -> dict[str, float]:
    """The scores a stage can be steered by, of predictions [N, K] (of a classifier: over the model's classes). All NaN where
    a prediction is not finite: the largest of such probabilities would be a class all the same, and often the right one."""
    own = predictions.astype(np.float64)
    if not np.isfinite(own).all():
        return dict.fromkeys(task.steering, math.nan)
    if one.merge is not None:
        own = metrics.merge_probabilities(own, one.merge)
    found = task.measure(one.examples.labels, own)
    return {name: float(found[name]) for name in task.steering}
