"""The training loop: one batch followed from its rows to the weight update.

A step takes ``batch_size`` examples in one or more micro-batches. Every micro-batch adds the gradient of

    (sum of weight * units * loss over its examples) / (sum of weight * units over the whole step)

so that accumulation gives the large batch's gradient exactly, however the examples or tokens fall on micro-batches
and processes. Everything that a later step depends on is either a function of the step number (batches, learning
rate) or part of the checkpoint (weights, optimizer, random state, dynamics, stopping, ledger).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule, share_of_process
from ftft.engine.checkpoint import CheckpointFolder
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.precision import Precision, autocast
from ftft.engine.predict import predict_batches, to_device
from ftft.engine.provenance import differences
from ftft.engine.schedule import rate_factor, warmup_steps
from ftft.engine.settings import TrainSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import Interrupted, UserError
from ftft.methods.contract import Models, Objective
from ftft.state import rng
from ftft.tasks.contract import Batch, Prepared, Task

JOURNAL_SECONDS = 5.0  # a kill loses at most this much of the books


# Scores of the model as it is, by validation set and metric.
Validate = Callable[[torch.nn.Module], Mapping[str, Mapping[str, float]]]


@dataclass
class Training:
    """Everything one training run needs; built by the stage runner, or by hand in anybody's own code."""

    models: Models
    task: Task
    data: Prepared
    schedule: BatchSchedule
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
    flops: FlopCounter = field(default_factory=FlopCounter)
    ledger: Ledger = field(default_factory=Ledger)
    folder: Path | None = None
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    warn: Callable[[str], None] = lambda sentence: None


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
    losses: list[float]


class TrainingLoop:
    """Runs a :class:`Training` from its newest valid checkpoint, or from the start, to its end."""

    def __init__(self, training: Training, *, environment: Mapping[str, Any] | None = None) -> None:
        self.training = training
        self.environment = dict(environment or {})
        self.device = training.accelerator.device
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.resumed_from: int | None = None
        self.resume_differences: list[str] = []
        self._stop_requested = threading.Event()
        self.base_rates = [group["lr"] for group in training.optimizer.param_groups]
        self.model = training.accelerator.prepare_model(training.models.main)
        # The objective calls the wrapped model, so that gradients are averaged over processes.
        self.loss_of = training.objective.start(Models(self.model, training.models.others), training.task)
        self.warmup = warmup_steps(training.schedule.steps, training.settings.warmup)
        self.checkpoints = CheckpointFolder(training.folder / "checkpoints", warn=training.warn) if training.folder else None
        self.best = CheckpointFolder(best_folder(training.folder), warn=training.warn) if training.folder else None

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the planned end or to the early stop.

        Raises Interrupted after Ctrl-C or SIGTERM (a checkpoint is saved first) and UserError when the loss stops
        being a number.
        """
        t = self.training
        self._resume()
        stopped = t.stopping is not None and t.stopping.stopped
        saved = journaled = time.monotonic()
        plan: list[np.ndarray] = []
        planned_epoch = -1
        with self._signals():
            while self.step < t.schedule.steps and not stopped:
                epoch = t.schedule.epoch_of(self.step)
                if epoch != planned_epoch:
                    plan, planned_epoch = t.schedule.plan(epoch), epoch
                self._train_step(plan[self.step - epoch * t.schedule.steps_per_epoch], epoch)
                self.step += 1
                if self.step % t.schedule.steps_per_epoch == 0:
                    self._end_of_epoch(epoch)
                if self._evaluation_is_due():
                    stopped = self._evaluate()
                now = time.monotonic()
                if now - journaled >= JOURNAL_SECONDS:
                    self._journal()
                    journaled = now
                if self._stop_requested.is_set():
                    self._save()
                    raise Interrupted(
                        f"interrupted at step {self.step} of {t.schedule.steps}; run the same command again to resume"
                    )
                if now - saved >= t.settings.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
        self._save()
        return Outcome(
            steps=self.step,
            planned=t.schedule.steps,
            stopped_early=stopped and self.step < t.schedule.steps,
            best_step=t.stopping.best_step if t.stopping else None,
            best_score=t.stopping.best_score if t.stopping else None,
            history=self.history,
            resumed_from=self.resumed_from,
            resume_differences=self.resume_differences,
            losses=self.losses,
        )

    # -- one step --------------------------------------------------------------------------------------------------

    def _train_step(self, rows: np.ndarray, epoch: int) -> None:
        t = self.training
        started = time.perf_counter()
        self.model.train()
        batches = list(self._micro_batches(rows))
        units = self._sum_over_processes(sum(float((batch.weights * t.task.units(batch)).double().sum()) for batch in batches))
        self._set_learning_rate()
        t.optimizer.zero_grad(set_to_none=True)
        flops_before, total, tokens = t.flops.spent, 0.0, 0
        for index, batch in enumerate(batches):
            size, length = batch.inputs["input_ids"].shape
            with t.flops.count("train", size, length), self._synchronise(index == len(batches) - 1):
                with autocast(t.precision, self.device):
                    loss = self.loss_of(batch)
                # Averaging over processes divides by their number; the step's units are already over all of them.
                (loss.total / units * t.accelerator.num_processes).backward()
            total += float(loss.total.detach())
            tokens += size * length
            if t.dynamics is not None and t.dynamics_mode == "online":
                self._observe(t.dynamics, epoch, batch, t.task.record(loss.outputs, batch))
        mean_loss = self._sum_over_processes(total) / units
        self._require_finite(mean_loss, "loss")
        if t.settings.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.settings.clip)
            self._require_finite(float(norm), "gradient")
        t.optimizer.step()
        self.losses.append(mean_loss)
        t.ledger.add(
            "training",
            flops=t.flops.spent - flops_before,
            seconds=time.perf_counter() - started,
            examples=len(rows),
            tokens=tokens,
            steps=1,
        )
        t.notify({"event": "step", "step": self.step + 1, "steps": t.schedule.steps, "epoch": epoch, "loss": mean_loss})

    def _micro_batches(self, rows: np.ndarray) -> Iterator[Batch]:
        t = self.training
        weights = np.ones(len(rows)) if t.weights is None else t.weights[rows]
        process, processes = t.accelerator.process_index, t.accelerator.num_processes
        rows, weights = share_of_process(rows, weights, process, processes)
        size = t.settings.micro_batch_size or t.settings.batch_size
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield to_device(t.task.collate(t.data, rows[part], weights[part]), self.device)

    def _set_learning_rate(self) -> None:
        t = self.training
        factor = rate_factor(self.step, steps=t.schedule.steps, warmup=self.warmup, schedule=t.settings.schedule)
        for group, base in zip(t.optimizer.param_groups, self.base_rates):
            group["lr"] = base * factor

    @contextmanager
    def _synchronise(self, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.training.accelerator.no_sync(self.model):
                yield

    def _sum_over_processes(self, value: float) -> float:
        if self.training.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.training.accelerator.reduce(tensor, reduction="sum"))

    def _observe(self, dynamics: DynamicsBuffer, epoch: int, batch: Batch, values: Mapping[str, torch.Tensor]) -> None:
        rows = batch.rows.cpu().numpy()
        arrays = {name: value.numpy() for name, value in values.items()}
        if self.training.accelerator.num_processes == 1:
            dynamics.observe(epoch, rows, arrays)
            return
        from accelerate.utils import gather_object

        # Every process books the whole step, so that all hold the same dynamics; repeated fill-ins drop out by id.
        for their_rows, their_arrays in gather_object([(rows, arrays)]):
            dynamics.observe(epoch, their_rows, their_arrays)

    def _require_finite(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        kept = self.checkpoints.steps() if self.checkpoints else []
        last = f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint had been due yet"
        raise UserError(
            f"the {what} became {value} at step {self.step + 1} of {self.training.schedule.steps} "
            f"and training stopped ({last}); "
            "try a lower learning_rate, a longer warmup, clip: 1.0, or precision: fp32"
        )

    # -- between steps ---------------------------------------------------------------------------------------------

    def _end_of_epoch(self, epoch: int) -> None:
        t = self.training
        if t.dynamics is None or t.dynamics_mode != "epoch_end":
            return
        started, before, tokens = time.perf_counter(), t.flops.spent, 0
        rows = np.unique(t.schedule.rows)
        batches = predict_batches(
            self.model,
            t.task,
            t.data,
            rows=rows,
            batch_size=t.settings.batch_size,
            precision=t.precision,
            device=self.device,
            flops=t.flops,
        )
        for batch, outputs in batches:
            values = {name: value.numpy() for name, value in t.task.record(outputs, batch).items()}
            t.dynamics.observe(epoch, batch.rows.cpu().numpy(), values)
            tokens += batch.inputs["input_ids"].numel()
        flops, seconds = t.flops.spent - before, time.perf_counter() - started
        t.ledger.add("scoring", flops=flops, seconds=seconds, examples=len(rows), tokens=tokens)

    def evaluation_interval(self) -> int:
        """Steps between evaluations: as set, a share of the plan if below 1, by default an epoch."""
        every = self.training.settings.evaluate_every
        if every is None:
            return min(self.training.schedule.steps_per_epoch, self.training.schedule.steps)
        return max(1, round(every * self.training.schedule.steps)) if every < 1 else int(every)

    def _evaluation_is_due(self) -> bool:
        if self.training.validate is None:
            return False
        return self.step % self.evaluation_interval() == 0 or self.step == self.training.schedule.steps

    def _evaluate(self) -> bool:
        """Measure on the validation sets; returns whether to stop now."""
        t = self.training
        assert t.validate is not None
        started, before = time.perf_counter(), t.flops.spent
        scores = {name: dict(metrics) for name, metrics in t.validate(self.unwrapped).items()}
        t.ledger.add("evaluation", flops=t.flops.spent - before, seconds=time.perf_counter() - started)
        entry = {
            "step": self.step,
            "epoch": self.step / t.schedule.steps_per_epoch,
            "loss": self._recent_loss(),
            "scores": scores,
        }
        self.history.append(entry)
        t.notify({"event": "evaluation", **entry})
        if t.stopping is None or t.stop_score is None:
            return False
        stop = t.stopping.update(self.step, t.stop_score(scores))
        if t.keep_best and self.best is not None and t.stopping.best_step == self.step and t.accelerator.is_main_process:
            self.best.save(self.step, {"model": dict(self.unwrapped.state_dict())}, {"score": t.stopping.best_score})
        return stop

    def _recent_loss(self) -> float:
        recent = self.losses[-self.evaluation_interval() :]
        return float(np.mean(recent)) if recent else float("nan")

    @property
    def unwrapped(self) -> torch.nn.Module:
        """The model without its wrapper for several processes."""
        return self.training.accelerator.unwrap_model(self.model)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        t = self.training
        if self.checkpoints is None:
            return
        t.ledger.observe_memory("training")
        self._journal()
        t.accelerator.wait_for_everyone()
        if t.accelerator.is_main_process:
            trees = {"model": dict(self.unwrapped.state_dict()), "training": self._state()}
            self.checkpoints.save(self.step, trees, self.environment)
        t.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        t = self.training
        return {
            "step": self.step,
            "optimizer": t.optimizer.state_dict(),
            "rng": rng.capture(),
            "history": self.history,
            "losses": np.asarray(self.losses, dtype=np.float64),
            "dynamics": None if t.dynamics is None else t.dynamics.state(),
            "stopping": None if t.stopping is None else t.stopping.state(),
            "flops": t.flops.state(),
            "ledger": t.ledger.state(),
        }

    def _journal(self) -> None:
        if self.training.folder is not None and self.training.accelerator.is_main_process:
            self.training.ledger.journal(self.training.folder / "ledger.jsonl")

    def _resume(self) -> None:
        t = self.training
        found = self.checkpoints.newest_valid() if self.checkpoints else None
        if found is None:
            if t.folder is not None:
                t.ledger = Ledger.resume(None, t.folder / "ledger.jsonl", prepared=t.ledger)
            return
        state = found.trees["training"]
        self.unwrapped.load_state_dict(found.trees["model"])
        t.optimizer.load_state_dict(state["optimizer"])
        self.step = self.resumed_from = int(state["step"])
        self.history, self.losses = list(state["history"]), [float(value) for value in state["losses"]]
        if t.dynamics is not None and state["dynamics"] is not None:
            t.dynamics.load_state(state["dynamics"])
        if t.stopping is not None and state["stopping"] is not None:
            t.stopping.load_state(state["stopping"])
        t.flops.load_state(state["flops"])
        assert t.folder is not None
        t.ledger = Ledger.resume(state["ledger"], t.folder / "ledger.jsonl", prepared=t.ledger)
        rng.restore(state["rng"])
        t.notify({"event": "resumed", "step": self.step, "steps": t.schedule.steps})
        self.resume_differences = differences(found.info, self.environment)
        if self.resume_differences:
            t.warn(
                f"resuming at step {self.step} under other conditions ({'; '.join(self.resume_differences)}): "
                "the result may differ in the last digits from an undisturbed run, and it is marked"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first Ctrl-C or SIGTERM into a stop at the next step; a second Ctrl-C interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(number: int, frame: Any) -> None:
            if self._stop_requested.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop_requested.set()

        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def best_folder(folder: Path) -> Path:
    """Where the checkpoint with the best validation score is kept while a stage trains."""
    return folder / "checkpoints" / "best"
