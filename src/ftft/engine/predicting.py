"""What a training would cost, step by step, before there are weights to train.

The loop's own schedule is walked to its planned end, and the loop's own :class:`ftft.engine.step.Step` is taken once for every
shape of a micro-batch, on tensors without numbers (:mod:`ftft.engine.shapes_only`): what it counts there is what it counts in
the run. The examples give the shapes; of a large set those of a sample stand for all.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ftft.data.examples import Examples
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.predict import padded_lengths, predict_batches
from ftft.engine.processes import ALONE
from ftft.engine.shapes_only import with_numbers
from ftft.engine.step import Step
from ftft.engine.training import Training
from ftft.engine.walk import Walk
from ftft.tasks.contract import Prepared, Task
from ftft.tasks.packing import first_fit

READ_WHOLE, SAMPLE = 10_000, 2_000  # a set of more examples than the one is known by a sample of the other
MOST_SHAPES = 8  # of one kind that are counted, in seconds each; the rest follow from them (FlopCounter.estimate)
EVALUATION_BATCH = 64  # as predict takes them


@dataclass(frozen=True)
class Shapes:
    """How long the N examples of a set are. ``prepared``: they, or a sample; ``source`` int64 [N]: which of it stands for each
    example; ``tokens`` and ``widths`` (of a batch whose longest it is) int32 [N]."""

    prepared: Prepared
    source: np.ndarray
    tokens: np.ndarray
    widths: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sampled(self) -> bool:
        return len(self.prepared) < len(self.source)

    @classmethod
    def of(cls, task: Task, examples: Examples, processor: Any) -> Shapes:
        """Of every example, or, where they are more than READ_WHOLE, of a seeded sample that stands for the others too."""
        count = len(examples)
        generator = np.random.default_rng(0)
        source = np.arange(count)
        if count > READ_WHOLE:
            examples = examples.take(np.sort(generator.choice(count, SAMPLE, replace=False)))
            source = generator.integers(0, SAMPLE, count)
        prepared = task.prepare(examples, processor)
        return cls(prepared, source, prepared.lengths[source], padded_lengths(task, prepared)[source])


@dataclass(frozen=True)
class OneProcess:
    """What a step asks of accelerate's Accelerator, where there is one process and nothing to prepare."""

    device: torch.device
    num_processes: int = 1

    def no_sync(self, model: torch.nn.Module) -> Any:
        return contextlib.nullcontext()


@dataclass
class PredictedTraining:
    """The cost of one training, counted without numbers; to be used inside :class:`ftft.engine.shapes_only.ShapesOnly`.

    ``training``: as the loop takes it, its ``data`` the prepared examples of ``shapes``. ``steering``: the sets it is measured
    on while it trains. ``count`` books everything in ``training.ledger``.
    """

    training: Training
    shapes: Shapes
    steering: Sequence[Shapes] = ()
    estimated: bool = False  # whether some shapes' cost follows from that of others
    _counted: FlopCounter = field(default_factory=FlopCounter)  # of whole steps of one micro-batch, by kind and shape
    _times: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def count(self) -> Ledger:
        """Walk the schedule to its end, evaluations included, as if nothing stopped it early."""
        t = self.training
        self._loss_of = t.objective.start(t.models, t.task)
        own = getattr(self._loss_of, "before_step", None)
        hooks = [*t.before_step, *([own] if own is not None else [])]
        walk = Walk(t.schedule, t.settings)
        every_row = np.unique(t.schedule.rows)
        while not walk.ended:
            epoch = walk.epoch()
            rows = epoch.batches[walk.step - epoch.first]
            t.models.main.train()
            with with_numbers():  # what a hook draws is drawn
                for hook in hooks:
                    hook(walk.step, walk.steps_until(t.schedule.steps), t.optimizer)
            self._take(rows)
            t.ledger.add("training", examples=len(rows), tokens=int(self.shapes.tokens[rows].sum()), steps=1)
            ended = walk.advance()
            if ended and t.dynamics_mode == "epoch_end":
                self._look("scoring", self.shapes, every_row, t.settings.batch_size)
            if self.steering and walk.evaluation_is_due():
                for one in self.steering:
                    self._look("evaluation", one, np.arange(len(one)), EVALUATION_BATCH)
        spent = sum(self._cost(shape) * times for shape, times in self._times.items())
        t.ledger.add("training", flops=round(spent))
        return t.ledger

    @property
    def trains_the_same(self) -> bool:
        """Whether every step had the same parameters to train."""
        return len({kind for kind, _, _ in self._times}) == 1

    def _take(self, rows: np.ndarray) -> None:
        """Note the micro-batches of a step; the first of each shape is trained on."""
        t = self.training
        size = t.settings.micro_batch_size or t.settings.batch_size
        kind = "step"
        if t.before_step:
            flags = bytes(parameter.requires_grad for parameter in t.models.main.parameters())
            kind = hashlib.sha256(flags).hexdigest()
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            width = int(self.shapes.widths[part].max())
            count = first_fit(self.shapes.tokens[part], width).rows if t.settings.pack else len(part)
            shape = (kind, count, width)
            self._times[shape] = self._times.get(shape, 0) + 1
            if shape in self._counted.known:
                continue
            if sum(known == kind for known, _, _ in self._counted.known) >= MOST_SHAPES:
                self.estimated = True
                continue
            before = t.flops.spent
            step = Step(t, t.models.main, self._loss_of, self.shapes.source[part], ALONE)
            if getattr(t.optimizer, "needs_closure", False):
                t.optimizer.step(step)
            else:
                step()
            self._counted.known[shape] = t.flops.spent - before

    def _cost(self, shape: tuple[str, int, int]) -> float:
        return self._counted.estimate(*shape)

    def _look(self, phase: str, shapes: Shapes, rows: np.ndarray, size: int) -> None:
        t = self.training
        flops = predicted_pass(t.models.main, t.task, shapes, t.flops, rows=rows, batch_size=size, device=t.accelerator.device)
        t.ledger.add(phase, flops=flops, examples=len(rows), tokens=int(shapes.tokens[rows].sum()))


def predicted_pass(
    model: torch.nn.Module,
    task: Task,
    shapes: Shapes,
    flops: FlopCounter,
    *,
    rows: np.ndarray | None = None,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device,
) -> int:
    """The operations of one look at the examples at ``rows`` (all by default), in the batches of
    :func:`ftft.engine.predict.predict_batches`; ``flops`` remembers the shapes."""
    rows = np.arange(len(shapes)) if rows is None else rows
    order = rows[np.argsort(shapes.tokens[rows], kind="stable")]
    total = 0.0
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        shape = ("predict", len(part), int(shapes.widths[part].max()))
        if shape not in flops.known and sum(kind == "predict" for kind, _, _ in flops.known) < MOST_SHAPES:
            batches = predict_batches(
                model, task, shapes.prepared, rows=shapes.source[part], batch_size=batch_size, device=device, flops=flops
            )
            for _ in batches:
                pass
        total += flops.estimate(*shape)
    return round(total)


def bytes_of(tensors: Any) -> int:
    """The memory of tensors that lie in nested mappings and sequences, each once."""
    found: dict[int, int] = {}

    def look(value: Any) -> None:
        if torch.is_tensor(value):
            found[id(value)] = value.numel() * value.element_size()
        elif isinstance(value, dict):
            for one in value.values():
                look(one)
        elif isinstance(value, (list, tuple)):
            for one in value:
                look(one)

    look(tensors)
    return sum(found.values())
