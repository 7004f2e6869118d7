"""The training loop: one batch followed from its rows to the weight update.

Everything that a later step depends on is either a function of the step number (batches, learning rate) or part of the
checkpoint (weights, optimizer, the objective's and a sampler's state, random state, dynamics, stopping, ledger).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftft.engine.allocation import kept_memory
from ftft.engine.batches import Learning
from ftft.engine.checkpoint import CheckpointFolder, LoadedCheckpoint
from ftft.engine.interrupting import StopSignals, interrupted
from ftft.engine.ledger import Ledger
from ftft.engine.predict import predict_batches
from ftft.engine.processes import processes_of, with_copies
from ftft.engine.provenance import differences_on_resuming
from ftft.engine.starting import started
from ftft.engine.step import NotFinite, Observed, Step, diverged, losses_of_all, observe, observed
from ftft.engine.training import Outcome as Outcome
from ftft.engine.training import Training as Training
from ftft.engine.walk import Walk
from ftft.errors import Diverged
from ftft.methods.contract import Models, Stateful
from ftft.state import rng
from ftft.state.algebra import weights_sha256
from ftft.state.shards import cut_optimizer_state, cut_state, in_shards, own_part, whole_tree

HASHED_STEP = 5  # the weights after it are kept as a hash, for `ftft verify`
JOURNALS_PER_CHECKPOINT, JOURNAL_SECONDS = 12, 5.0  # how often the books are written: a kill loses what comes after


class TrainingLoop:
    """Runs a :class:`Training` from its newest valid checkpoint, or from the start, to its end."""

    def __init__(self, training: Training, *, environment: Mapping[str, Any] | None = None) -> None:
        self.training = training
        self.environment = dict(environment or {})
        self.device = training.accelerator.device
        self.processes = processes_of(training.accelerator)
        if not self.processes.is_first:
            # Every process holds the same history; it is told once.
            training.notify = _tell_nobody
            training.warn = _tell_nobody
        self.walk = Walk(training.schedule, training.settings)
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.weights: dict[int, str] = {}
        self.resumed_from: int | None = None
        self.resume_differences: list[str] = []
        self._stop = StopSignals()
        self._saved_step: int | None = None
        self._best_of: dict[int, int] = {}  # the best step as each resume checkpoint knows it
        self.base_rates = [group["lr"] for group in training.optimizer.param_groups]
        self.in_shards = in_shards(training.models.main)
        self.model = with_copies(training.models.main, training.accelerator)
        # The objective calls the wrapped model, so that gradients are averaged over processes.
        self.loss_of = started(training, Models(self.model, training.models.others), self.processes)
        own_hook = getattr(self.loss_of, "before_step", None)
        self.hooks = [*training.before_step, *([own_hook] if own_hook is not None else [])]
        self.hashed: set[int] | None = None  # steps; None: HASHED_STEP, or the last one where that comes sooner
        self.checkpoints = CheckpointFolder(training.folder / "checkpoints", warn=training.warn) if training.folder else None
        self.best = CheckpointFolder(best_folder(training.folder), keep=1, warn=training.warn) if training.folder else None

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return self.walk.step

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the planned end or to the early stop.

        Raises Interrupted after Ctrl-C or SIGTERM (a checkpoint is saved first) and Diverged when the loss stops
        being a number.
        """
        t = self.training
        self._resume()
        stopped = t.stopping is not None and t.stopping.stopped
        saved = journaled = time.monotonic()
        journal_seconds = min(JOURNAL_SECONDS, t.settings.checkpoint_seconds / JOURNALS_PER_CHECKPOINT)
        with self._stop, kept_memory():
            while not self.walk.ended and not stopped:
                epoch = self.walk.epoch()
                self._train_step(epoch.batches[self.step - epoch.first], epoch.number)
                ended = self.walk.advance()
                if self.step in ({HASHED_STEP} if self.hashed is None else self.hashed):
                    self.weights[self.step] = weights_sha256(self.unwrapped)
                if ended:
                    self._end_of_epoch(epoch.number)
                if t.validate is not None and self.walk.evaluation_is_due():
                    stopped = self._evaluate()
                now, first = time.monotonic(), self.processes.is_first
                # Signals and clocks reach the processes at different steps; they act on them at the same one.
                stop, save, journal = self.processes.any(
                    self._stop.requested,
                    first and now - saved >= t.settings.checkpoint_seconds,
                    first and now - journaled >= journal_seconds,
                )
                if journal:
                    self._journal()
                    journaled = now
                if save or stop:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise interrupted(self.step, self._all_steps())
            if self.hashed is None and self.step < HASHED_STEP:
                self.weights[self.step] = weights_sha256(self.unwrapped)
            self._save()
            if self.processes.any(self._stop.requested)[0]:
                raise interrupted(self.step, self._all_steps())
        return Outcome(
            steps=self.step,
            planned=t.schedule.steps,
            stopped_early=stopped and not self.walk.ended,
            best_step=t.stopping.best_step if t.stopping else None,
            best_score=t.stopping.best_score if t.stopping else None,
            history=self.history,
            resumed_from=self.resumed_from,
            resume_differences=self.resume_differences,
            losses=self.losses,
            weights=self.weights,
        )

    def _all_steps(self) -> int:
        """The steps up to the end of the training, as far as the lengths of its epochs are known."""
        return self.walk.steps_until(self.walk.end)

    # -- one step --------------------------------------------------------------------------------------------------

    def _train_step(self, rows: np.ndarray, epoch: int) -> None:
        t = self.training
        started, flops_before = time.perf_counter(), t.flops.spent
        self.model.train()
        for hook in self.hooks:
            hook(self.step, self.walk.steps_until(t.schedule.steps), t.optimizer)
        self._set_learning_rate()
        step = Step(t, self.model, self.loss_of, rows, self.processes, self.walk.weights())
        try:
            if getattr(t.optimizer, "needs_closure", False):
                t.optimizer.step(step)
            else:
                step()
                t.optimizer.step()
        except NotFinite as error:
            if error.what == "loss" and self.checkpoints is not None and self.processes.is_first:
                self.checkpoints.discard(self.step)  # its weights gave this loss: it is not the last good one
            raise self._diverged(f"{error} at step {self.step + 1}") from None
        if step.seen:
            self._observe(epoch, step.seen)
        if isinstance(t.schedule, Learning):
            t.schedule.observe(*losses_of_all(self.processes, step.losses))
        self.losses.append(step.loss)
        t.ledger.add(
            "training",
            flops=self.processes.total(t.flops.spent - flops_before),
            seconds=time.perf_counter() - started,
            examples=len(rows),
            tokens=int(t.data.lengths[rows].sum()),
            steps=1,
        )
        event = {"event": "step", "step": self.step + 1, "steps": self._all_steps(), "epoch": epoch, "loss": step.loss}
        t.notify({**event, "flops": t.ledger.total().flops})

    def _set_learning_rate(self) -> None:
        factor = self.walk.rate_factor()
        for group, base in zip(self.training.optimizer.param_groups, self.base_rates):
            group["lr"] = base * factor

    def _observe(self, epoch: int, seen: Sequence[Observed]) -> None:
        observe(self.training, self.processes, epoch, seen)

    def _require_finite_weights(self) -> None:
        """Nothing is measured or saved of weights that are not finite: without clipping no other check comes first."""
        own = (own_part(p.detach()) for p in self.unwrapped.parameters() if p.requires_grad)
        if self.processes.any(not all(bool(torch.isfinite(value).all()) for value in own))[0]:
            raise self._diverged(f"the weights became infinite or NaN at step {self.step}")

    def _diverged(self, what: str) -> Diverged:
        return diverged(what, self.training.schedule.steps, self.checkpoints.steps() if self.checkpoints else [])

    # -- between steps ---------------------------------------------------------------------------------------------

    def _end_of_epoch(self, epoch: int) -> None:
        t = self.training
        if t.dynamics is None or t.dynamics_mode != "epoch_end":
            return
        started, before = time.perf_counter(), t.flops.spent
        rows = np.unique(t.schedule.rows)
        batches = predict_batches(
            self.unwrapped,  # the wrapper talks to the other processes, whose shares may have another number of batches
            t.task,
            t.data,
            rows=rows,
            batch_size=t.settings.batch_size,
            precision=t.precision,
            device=self.device,
            flops=t.flops,
            processes=self.processes,
        )
        self._observe(epoch, [observed(batch, t.task.record(outputs, batch)) for batch, outputs in batches])
        t.ledger.add(
            "scoring",
            flops=self.processes.total(t.flops.spent - before),
            seconds=time.perf_counter() - started,
            examples=len(rows),
            tokens=int(t.data.lengths[rows].sum()),
        )

    def _evaluate(self) -> bool:
        """Measure on the validation sets; returns whether to stop now."""
        t = self.training
        assert t.validate is not None
        self._require_finite_weights()
        started, before = time.perf_counter(), t.flops.spent
        measured = {name: dict(metrics) for name, metrics in t.validate(self.unwrapped).items()}
        scores = self.processes.from_first(measured)  # one decision, even where the last digits differ
        flops = self.processes.total(t.flops.spent - before)
        t.ledger.add("evaluation", flops=flops, seconds=time.perf_counter() - started)
        entry = {
            "step": self.step,
            "epoch": self.walk.position / t.schedule.steps_per_epoch,
            "loss": self._recent_loss(),
            "scores": scores,
        }
        self.history.append(entry)
        t.notify({"event": "evaluation", **entry})
        if t.stopping is None or t.stop_score is None:
            return False
        stop = t.stopping.update(self.step, t.stop_score(scores))
        if t.keep_best and t.stopping.best_step == self.step:
            self._save_best(t.stopping.best_score)
        return stop

    def _recent_loss(self) -> float:
        if isinstance(self.training.schedule, Learning):  # whose steps are not the planned ones that the interval counts
            recent = self.losses[self.history[-1]["step"] if self.history else 0 :]
        else:
            recent = self.losses[-self.walk.evaluation_interval() :]
        return float(np.mean(recent)) if recent else float("nan")

    @property
    def unwrapped(self) -> torch.nn.Module:
        """The model without its wrapper for several processes."""
        return self.training.accelerator.unwrap_model(self.model)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        folder = self.checkpoints
        if folder is None:
            return
        ledger = self.training.ledger
        ledger.observe_memory("training")
        for peaks in self.processes.gather(ledger.peak_memory):
            ledger.raise_peaks(peaks)
        self._journal()
        if self.step == self._saved_step:
            return
        self._require_finite_weights()
        stopping = self.training.stopping
        if stopping is not None and stopping.best_step is not None:
            self._best_of[self.step] = stopping.best_step
        states = self.processes.gather(rng.capture())
        histories = self.processes.gather(self.loss_of.state() if isinstance(self.loss_of, Stateful) else None)
        weights, moments = self._weights(), self._whole(self.training.optimizer.state_dict())

        def save() -> None:
            trees = {"model": weights, "training": self._state(moments, states, histories)}
            folder.save(self.step, trees, self.environment)

        self.processes.once(save)
        self._saved_step = self.step

    def _save_best(self, score: float | None) -> None:
        best = self.best
        if best is not None:
            trees = {"model": self._weights()}
            # A resume from an older checkpoint needs the best of its own time.
            needed = {self._best_of.get(step, step) for step in (self.checkpoints.steps() if self.checkpoints else [])}
            self.processes.once(lambda: best.save(self.step, trees, {"score": score}, keep_steps=needed))

    def _weights(self) -> dict[str, torch.Tensor]:
        return self._whole(dict(self.unwrapped.state_dict()))

    def _whole(self, tree: Any) -> Any:
        """Of what lies in shards only the first process gets the whole, and all must ask for it."""
        return whole_tree(tree, keep=self.processes.is_first) if self.in_shards else tree

    def _state(self, optimizer: Any, random_states: list[dict[str, Any]], histories: list[Any]) -> dict[str, Any]:
        t = self.training
        return {
            **self.walk.state(),
            "schedule": t.schedule.state() if isinstance(t.schedule, Learning) else None,
            "optimizer": optimizer,
            "objectives": histories,
            "rng": random_states[0],
            "rng_of_others": random_states[1:],
            "history": self.history,
            "losses": np.asarray(self.losses, dtype=np.float64),
            "weights": self.weights,
            "dynamics": None if t.dynamics is None else t.dynamics.state(),
            "stopping": None if t.stopping is None else t.stopping.state(),
            "best_of": self._best_of,
            "resume_differences": self.resume_differences,
            "flops": t.flops.state(),
            "ledger": t.ledger.state(),
        }

    def _journal(self) -> None:
        self.processes.once(self.training.write_journal)

    def _resume(self) -> None:
        t = self.training
        found = self._newest_checkpoint()
        if found is None:
            if t.folder is not None:
                t.ledger = Ledger.resume(None, t.folder / "ledger.jsonl", prepared=t.ledger)
            return
        state = found.trees["training"]
        self.unwrapped.load_state_dict(cut_state(found.trees["model"], self.unwrapped))
        t.optimizer.load_state_dict(cut_optimizer_state(state["optimizer"], t.optimizer))
        histories = state.get("objectives", [])
        if isinstance(self.loss_of, Stateful) and self.processes.index < len(histories):
            self.loss_of.load_state(histories[self.processes.index])
        self.walk.load_state(state)
        self.resumed_from = self._saved_step = self.step
        if isinstance(t.schedule, Learning):
            t.schedule.load_state(state["schedule"])
        self.history, self.losses = list(state["history"]), [float(value) for value in state["losses"]]
        self.weights = dict(state.get("weights", {}))
        if t.dynamics is not None and state["dynamics"] is not None:
            t.dynamics.load_state(state["dynamics"])
        if t.stopping is not None and state["stopping"] is not None:
            t.stopping.load_state(state["stopping"])
        t.flops.load_state(state["flops"])
        assert t.folder is not None
        t.ledger = Ledger.resume(state["ledger"], t.folder / "ledger.jsonl", prepared=t.ledger)
        self._restore_random(state)
        t.notify({"event": "resumed", "step": self.step, "steps": self._all_steps()})
        self._best_of = dict(state.get("best_of", {}))
        known = state.get("resume_differences", [])
        self.resume_differences = differences_on_resuming(known, found.info, self.environment, self.step, t.warn)

    def _newest_checkpoint(self) -> LoadedCheckpoint | None:
        """The first process chooses the checkpoint (and warns of damaged ones), so that all resume from the same step."""
        folder = self.checkpoints
        if folder is None:
            return None
        found = folder.newest_valid(usable=self._require_its_best) if self.processes.is_first else None
        step = self.processes.from_first(None if found is None else found.step)
        return found if step is None or found is not None else folder.load(step)

    def _require_its_best(self, found: LoadedCheckpoint) -> None:
        """UserError where the best weights that a resume checkpoint counts on are gone or damaged."""
        stopping = found.trees["training"]["stopping"]
        if self.best is not None and self.training.keep_best and stopping is not None and stopping["best_step"] is not None:
            self.best.load(stopping["best_step"], only=())

    def _restore_random(self, state: Mapping[str, Any]) -> None:
        """Each process takes up its own generators; one that the checkpoint does not know draws from a seed of its own."""
        others, index = state.get("rng_of_others", []), self.processes.index
        rng.restore(state["rng"] if index == 0 or index > len(others) else others[index - 1])
        if index > len(others):
            torch.manual_seed(self.processes.seed(self.step))


def _tell_nobody(what: object) -> None:
    pass


def best_folder(folder: Path) -> Path:
    """Where the checkpoint with the best validation score is kept while a stage trains."""
    return folder / "checkpoints" / "best"
