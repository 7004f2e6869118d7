"""What a training run is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import Schedule
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.precision import Precision
from ftft.engine.settings import TrainSettings
from ftft.engine.stopping import EarlyStopping
from ftft.methods.contract import Models, Objective, StepHook
from ftft.tasks.contract import Prepared, Task

# Scores of the model as it is, by validation set and metric.
Validate = Callable[[torch.nn.Module], Mapping[str, Mapping[str, float]]]


@dataclass
class Training:
    """Everything one training run needs; built by the stage runner, or by hand in anybody's own code."""

    models: Models
    task: Task
    data: Prepared
    schedule: Schedule
    objective: Objective
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    precision: Precision
    accelerator: Accelerator
    weights: np.ndarray | None = None  # float64 [N], one weight a row of ``data``
    dynamics: DynamicsBuffer | None = None
    dynamics_mode: str = "online"
    validate: Validate | None = None
    stopping: EarlyStopping | None = None
    stop_score: Callable[[Mapping[str, Mapping[str, float]]], float] | None = None
    keep_best: bool = False
    before_step: Sequence[StepHook] = ()
    flops: FlopCounter = field(default_factory=FlopCounter)
    ledger: Ledger = field(default_factory=Ledger)
    folder: Path | None = None
    journal: Callable[[Ledger], None] | None = None  # where the books go every few seconds; by default into ``folder``
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    warn: Callable[[str], None] = lambda sentence: None

    def write_journal(self) -> None:
        """Append what has been spent so far to the journal, where there is one."""
        if self.journal is not None:
            self.journal(self.ledger)
        elif self.folder is not None:
            self.ledger.journal(self.folder / "ledger.jsonl")


@dataclass
class Outcome:
    """What a training run leaves: how far it came, and what was measured on the way."""

    steps: int
    planned: int
    stopped_early: bool
    best_step: int | None
    best_score: float | None
    history: list[dict[str, Any]]
    resumed_from: int | None
    resume_differences: list[str]
    losses: list[float]  # the mean loss of every step
    weights: dict[int, str]  # step -> SHA-256 of the trainable weights after it
