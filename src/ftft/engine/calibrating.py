"""The batches an adapter looks at before it changes the model; what they cost is charged to the phase `calibration`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.predict import to_device
from ftft.tasks.contract import Batch, Prepared, Task


@dataclass
class CountedCalibration:
    """Implements :class:`ftft.methods.contract.Calibration` over the ``rows`` (int64 [K]) a stage learns from.

    Batches are drawn from ``seed`` alone and computed in the model's own precision: a few hundred examples, once. All processes
    get the same ``seed``: an adapter may make its very shape of what it sees.
    """

    task: Task
    data: Prepared
    rows: np.ndarray
    seed: int
    ledger: Ledger
    flops: FlopCounter = field(default_factory=FlopCounter)

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """``count`` batches of ``size`` examples in a seeded order, beginning anew where the examples end."""
        generator = np.random.default_rng([self.seed, 0xCA11])
        order = np.concatenate([generator.permutation(self.rows) for _ in range(-(-count * size // len(self.rows)))])
        for start in range(0, count * size, size):
            yield self.task.collate(self.data, order[start : start + size])

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The task's mean loss of the batch, with gradient; the backward pass, which the caller makes, is charged at twice
        the forward pass (the two products per weight of a fully trainable model)."""
        with self._charged(batch, times=3):
            batch = to_device(batch, next(model.parameters()).device)
            share = batch.weights * self.task.units(batch)
            losses = self.task.per_example_loss(self.task.forward(model, batch), batch)
            return (share * losses).sum() / share.sum()

    def forward(self, model: torch.nn.Module, batch: Batch) -> None:
        """One forward pass without gradients."""
        with self._charged(batch, times=1), torch.no_grad():
            self.task.forward(model, to_device(batch, next(model.parameters()).device))

    @contextmanager
    def _charged(self, batch: Batch, *, times: int) -> Iterator[None]:
        """Charge a forward pass, ``times`` over, and the seconds it took."""
        started, before, rows = time.perf_counter(), self.flops.spent, batch.rows.numpy()
        with self.flops.count("calibration", *batch.shape):
            yield
        self.ledger.add(
            "calibration",
            flops=times * (self.flops.spent - before),
            seconds=time.perf_counter() - started,
            examples=len(rows),
            tokens=int(self.data.lengths[rows].sum()),
        )
