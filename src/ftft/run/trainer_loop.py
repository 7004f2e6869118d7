"""A trainer of TRL as the loop of a stage: its costs, dynamics and checkpoints are kept as the engine keeps its own.

A checkpoint holds the weights, the optimizer, the schedule of the learning rate, the random state, the trainer's own state,
the dynamics, and the books. The order of the rows is drawn from the seed anew in every epoch and wound forward on resuming.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftft.engine.checkpoint import CheckpointFolder, LoadedCheckpoint
from ftft.engine.flops import FlopCounter
from ftft.engine.interrupting import StopSignals, interrupted
from ftft.engine.ledger import Ledger
from ftft.engine.loop import JOURNAL_SECONDS, JOURNALS_PER_CHECKPOINT
from ftft.engine.provenance import differences_on_resuming
from ftft.engine.step import diverged
from ftft.engine.training import Outcome, Training
from ftft.errors import UserError
from ftft.state import rng

if TYPE_CHECKING:
    from ftft.bridges.staged import Shape


class TrainerLoop:
    """Runs the trainer of a stage from its newest valid checkpoint, or from the start, to the end of ``training``'s schedule.
    Implements :class:`ftft.bridges.staged.Keeper`."""

    def __init__(self, training: Training, environment: Mapping[str, Any]) -> None:
        assert training.folder is not None
        self.training, self.environment = training, dict(environment)
        self.step, self.losses = 0, list[float]()
        self.resumed_from: int | None = None
        self.resume_differences: list[str] = []
        self._checkpoints = CheckpointFolder(training.folder / "checkpoints", warn=training.warn)
        self._found: LoadedCheckpoint | None = None
        self._stop = StopSignals()
        self._loss = 0.0  # of the step in hand
        self._flops_before, self._started = 0, 0.0
        self._saved = self._journaled = time.monotonic()

    @property
    def steps(self) -> int:
        """The steps that are planned."""
        return self.training.schedule.steps

    def run(self, start: Callable[[TrainerLoop], Any]) -> Outcome:
        """``start`` gives the trainer, whose keeper this is.

        Raises Interrupted after Ctrl-C or SIGTERM (a checkpoint is saved first), UserError where the loss or the weights stop
        being numbers.
        """
        t = self.training
        self._found = self._checkpoints.newest_valid()
        if self._found is None:
            t.ledger = Ledger.resume(None, self._journal_file, prepared=t.ledger)
        else:
            self._take_up(self._found)
        with self._stop:
            if self.step < self.steps:
                self._train(start(self))
            else:
                self.load_model()
                self._found = None
        if self._stop.requested:
            raise interrupted(self.step, self.steps)
        return Outcome(
            steps=self.step,
            planned=self.steps,
            stopped_early=False,
            best_step=None,
            best_score=None,
            history=[],
            resumed_from=self.resumed_from,
            resume_differences=self.resume_differences,
            losses=self.losses,
            weights={},
        )

    def _train(self, trainer: Any) -> None:
        trainer.begin(self)
        if self._found is None:
            trainer.train()
            return
        from ftft.bridges.staged import trainer_state

        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(self._found.trees["training"]["trainer"])
            trainer.train(resume_from_checkpoint=str(trainer_state(Path(folder), text)))

    # -- what the trainer tells ------------------------------------------------------------------------------------

    def began(self) -> None:
        self._loss, self._flops_before, self._started = 0.0, self.training.flops.spent, time.perf_counter()

    def counted(self, shape: Shape | None, step: Callable[[], torch.Tensor]) -> torch.Tensor:
        flops = self.training.flops
        if shape is not None:
            with flops.count(*shape):
                loss = step()
        else:
            once = FlopCounter()
            with once.count("train", 0, 0):
                loss = step()
            flops.spent += once.spent
        value = float(loss)
        if not np.isfinite(value):
            self._checkpoints.discard(self.step)  # its weights gave this loss: it is not the last good one
            raise self._diverged(f"the loss became {value} at step {self.step + 1}")
        self._loss += value
        return loss

    def observe(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        t = self.training
        if t.dynamics is not None:
            t.dynamics.observe(self.step // t.schedule.steps_per_epoch, rows, values)

    def ended(self, examples: int, tokens: int) -> tuple[bool, bool]:
        t = self.training
        spent = t.flops.spent - self._flops_before
        seconds = time.perf_counter() - self._started
        t.ledger.add("training", flops=spent, seconds=seconds, examples=examples, tokens=tokens, steps=1)
        epoch = self.step // t.schedule.steps_per_epoch
        self.step += 1
        self.losses.append(self._loss)
        event = {"event": "step", "step": self.step, "steps": self.steps, "epoch": epoch, "loss": self._loss}
        t.notify({**event, "flops": t.ledger.total().flops})
        now, every = time.monotonic(), t.settings.checkpoint_seconds
        if now - self._journaled >= min(JOURNAL_SECONDS, every / JOURNALS_PER_CHECKPOINT):
            t.ledger.journal(self._journal_file)
            self._journaled = now
        stop = self._stop.requested
        return stop or self.step == self.steps or now - self._saved >= every, stop

    # -- checkpoints -----------------------------------------------------------------------------------------------

    @property
    def _journal_file(self) -> Path:
        assert self.training.folder is not None
        return self.training.folder / "ledger.jsonl"

    @property
    def _model(self) -> torch.nn.Module:
        return self.training.models.main

    def save(self, trainer: Any) -> None:
        t = self.training
        if not all(bool(torch.isfinite(p.detach()).all()) for p in self._model.parameters() if p.requires_grad):
            raise self._diverged(f"the weights became infinite or NaN at step {self.step}")
        t.ledger.observe_memory("training")
        t.ledger.journal(self._journal_file)
        state = {
            "step": self.step,
            "optimizer": t.optimizer.state_dict(),
            "scheduler": trainer.lr_scheduler.state_dict(),
            "rng": rng.capture(),
            "trainer": dataclasses.asdict(dataclasses.replace(trainer.state, stateful_callbacks={})),
            "losses": np.asarray(self.losses, dtype=np.float64),
            "dynamics": None if t.dynamics is None else t.dynamics.state(),
            "resume_differences": self.resume_differences,
            "flops": t.flops.state(),
            "ledger": t.ledger.state(),
        }
        self._checkpoints.save(self.step, {"model": dict(self._model.state_dict()), "training": state}, self.environment)
        self._saved = time.monotonic()

    def _take_up(self, found: LoadedCheckpoint) -> None:
        t, state = self.training, found.trees["training"]
        self.step = self.resumed_from = found.step
        self.losses = [float(value) for value in state["losses"]]
        if t.dynamics is not None and state["dynamics"] is not None:
            t.dynamics.load_state(state["dynamics"])
        t.flops.load_state(state["flops"])
        t.ledger = Ledger.resume(state["ledger"], self._journal_file, prepared=t.ledger)
        t.notify({"event": "resumed", "step": self.step, "steps": self.steps})
        known = state["resume_differences"]
        self.resume_differences = differences_on_resuming(known, found.info, self.environment, self.step, t.warn)

    def load_model(self) -> None:
        assert self._found is not None
        self._model.load_state_dict(self._found.trees["model"])

    def load_optimizer(self, trainer: Any) -> None:
        assert self._found is not None
        self.training.optimizer.load_state_dict(self._found.trees["training"]["optimizer"])
        trainer.lr_scheduler.load_state_dict(self._found.trees["training"]["scheduler"])

    def load_random(self) -> None:
        assert self._found is not None
        rng.restore(self._found.trees["training"]["rng"])
        self._found = None  # the last that a trainer loads: weights and optimizer are not held twice while it trains

    def _diverged(self, what: str) -> UserError:
        return diverged(what, self.steps, self._checkpoints.steps())
