"""One optimizer step's loss and gradient: the examples of the step, in micro-batches, over all processes.

A step takes ``batch_size`` examples in one or more micro-batches. Every micro-batch adds the gradient of

    (sum of weight * units * loss over its examples) / (sum of weight * units over the whole step)

so that accumulation gives the large batch's gradient exactly, however the examples or tokens fall on micro-batches
and processes. A sampler's factors multiply the losses and are left out of the sum below the line: they correct for examples
that are not there, and would cancel in a mean that counts them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ftft.engine.batches import Learning, share_of_process
from ftft.engine.precision import autocast
from ftft.engine.predict import to_device
from ftft.engine.processes import Processes
from ftft.engine.training import Training
from ftft.errors import Diverged
from ftft.methods.contract import Loss, Stateful
from ftft.state.shards import whole
from ftft.tasks.contract import Batch, collator_of

Observed = tuple[np.ndarray, dict[str, np.ndarray]]  # rows, and what was recorded of them


class NotFinite(Exception):
    """``what`` ("loss", "gradient") became the infinite or undefined ``value``."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(f"the {what} became {value}")
        self.what = what


def diverged(what: str, steps: int, kept: Sequence[int]) -> Diverged:
    """What a training of ``steps`` steps ends with where ``what`` happened in it; the checkpoints of the steps ``kept`` are
    there to go back to."""
    last = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint had been due yet"
    return Diverged(
        f"{what} of {steps} and training stopped ({last}); "
        "try a lower learning_rate, a longer warmup, clip: 1.0, or precision: fp32"
    )


class Step:
    """The closure of one optimizer step: gives the mean loss under the present weights and leaves its clipped gradient, or,
    under ``torch.no_grad()``, the loss alone. Every call sees the same examples and draws the same random numbers.

    ``factors``: float64 [B], what a sampler multiplies each loss with. ``loss``: what the first call gave. ``seen``: what the
    dynamics record of the first call. ``losses``: for a schedule that learns from them, this process' rows (int64) and losses
    (float64) of the first call, by micro-batch. Raises NotFinite.
    """

    def __init__(
        self,
        training: Training,
        model: torch.nn.Module,
        loss_of: Callable[[Batch], Loss],
        rows: np.ndarray,
        processes: Processes,
        factors: np.ndarray | None = None,
    ) -> None:
        self.training, self.model, self.loss_of, self.processes = training, model, loss_of, processes
        task = training.task
        counted = list(self._micro_batches(rows))
        own = sum(float((batch.weights * task.units(batch)).double().sum()) for batch in counted)
        self.units = processes.sum(own)
        self.batches = counted if factors is None else list(self._multiplied(counted, len(rows), factors))
        self.loss = math.nan
        self.seen: list[Observed] = []
        self.losses: list[tuple[np.ndarray, np.ndarray]] = []
        self._history: Any = None  # the objective's state before the first call
        self._random: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def __call__(self) -> float:
        t = self.training
        is_first = math.isnan(self.loss)
        self._same_beginning(is_first)
        backward = torch.is_grad_enabled()
        if backward:
            t.optimizer.zero_grad(set_to_none=True)
        total, kind = 0.0, self._kind(backward)
        for index, batch in enumerate(self.batches):
            size, length = batch.shape
            with t.flops.count(kind, size, length), self._synchronise(index == len(self.batches) - 1):
                with autocast(t.precision, batch.labels.device):
                    loss = self.loss_of(batch)
                if backward:
                    # Averaging over processes divides by their number; the step's units are already over all of them.
                    (loss.total / self.units * t.accelerator.num_processes).backward()
            total += float(loss.total.detach())
            if is_first and t.dynamics is not None and t.dynamics_mode == "online":
                self.seen.append(self.record(batch, loss.outputs))
            if is_first and isinstance(t.schedule, Learning):
                self.losses.append((batch.rows.cpu().numpy(), loss.per_example.cpu().numpy().astype(np.float64)))
        mean = _finite("loss", self.processes.sum(total) / self.units)
        if is_first:
            self.loss = mean
        if backward and t.settings.clip is not None:
            _finite("gradient", clip_gradient(self.model, t.settings.clip))
        return mean

    def record(self, batch: Batch, outputs: Any) -> Observed:
        """What the dynamics take of a batch: its rows and what the task records of them."""
        return observed(batch, self.training.task.record(outputs, batch))

    def _micro_batches(self, rows: np.ndarray) -> Iterator[Batch]:
        t = self.training
        weights = np.ones(len(rows)) if t.weights is None else t.weights[rows]
        rows, weights = share_of_process(rows, weights, self.processes.index, self.processes.count)
        size = t.settings.micro_batch_size or t.settings.batch_size
        collate = collator_of(t.task, pack=t.settings.pack)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield to_device(collate(t.data, rows[part], weights[part]), t.accelerator.device)

    def _multiplied(self, batches: Sequence[Batch], size: int, factors: np.ndarray) -> Iterator[Batch]:
        """This process' micro-batches with their weights times their share of the ``factors``."""
        _, own = share_of_process(np.arange(size), factors, self.processes.index, self.processes.count)
        start = 0
        for batch in batches:
            part = torch.from_numpy(own[start : start + len(batch)]).to(batch.weights)
            start += len(batch)
            yield dataclasses.replace(batch, weights=batch.weights * part)

    def _same_beginning(self, is_first: bool) -> None:
        """Every call begins with the same random numbers, and with the same memory of an objective that has one (a queue).
        An ordinary optimizer calls once, and pays nothing for this."""
        if not getattr(self.training.optimizer, "needs_closure", False):
            return
        if isinstance(self.loss_of, Stateful):
            if is_first:
                self._history = copy.deepcopy(self.loss_of.state())
            else:
                self.loss_of.load_state(copy.deepcopy(self._history))
        if self._random is None:
            self._random = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        else:
            torch.set_rng_state(self._random[0])
            if self._random[1]:
                torch.cuda.set_rng_state_all(self._random[1])

    def _kind(self, backward: bool) -> str:
        """What the FLOPs are counted as: a backward pass costs by which parameters are trainable at present."""
        if not backward:
            return "forward"
        if not self.training.before_step:
            return "train"
        flags = bytes(parameter.requires_grad for parameter in self.model.parameters())
        return f"train {hashlib.sha256(flags).hexdigest()[:12]}"

    @contextmanager
    def _synchronise(self, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.training.accelerator.no_sync(self.model):
                yield


def clip_gradient(model: torch.nn.Module, most: float) -> float:
    """Scale the gradient of ``model`` to a norm of at most ``most``; gives the norm before, over all shards if it has such."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return float(norm)


def observed(batch: Batch, values: Mapping[str, torch.Tensor]) -> Observed:
    """The rows of a batch and what was recorded of them, as arrays."""
    return batch.rows.cpu().numpy(), {name: value.numpy() for name, value in values.items()}


def observe(training: Training, processes: Processes, epoch: int, seen: Sequence[Observed]) -> None:
    """Every process books what all have seen, so that all hold the same dynamics; repeated fill-ins drop out by id."""
    if training.dynamics is None:
        return
    for theirs in processes.gather(list(seen)):
        for rows, values in theirs:
            training.dynamics.observe(epoch, rows, values)


def losses_of_all(processes: Processes, own: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The rows (int64, each once) and losses (float64) that all processes have seen; of a row that fills up a share and stands
    there again, the first."""
    every = [pair for theirs in processes.gather(list(own)) for pair in theirs]
    rows, losses = (np.concatenate(one) for one in zip(*every))
    rows, first = np.unique(rows, return_index=True)
    return rows, losses[first]


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise NotFinite(what, value)
    return value
