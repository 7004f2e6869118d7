"""A small real training with any methods, through our loop: a tiny BERT that learns which word of feeling a sentence holds, a
tiny Llama that learns to answer with it, a tiny ViT that learns the colour of a square, or a tiny CLIP that learns its text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from contract_tasks import EXAMPLES, TRIED
from transformers import LlamaForCausalLM

from ftft.data.examples import Examples
from ftft.engine.assembly import Assembled, assemble
from ftft.engine.batches import BatchSchedule, Schedule
from ftft.engine.calibrating import CountedCalibration
from ftft.engine.choosing import schedule_for
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.processes import ALONE, Processes
from ftft.engine.settings import TrainSettings
from ftft.engine.sharding import Shards
from ftft.methods import registry
from ftft.methods.contract import Sampler
from ftft.models.kinds import KINDS
from ftft.models.processors import ImagesAndTexts
from ftft.run.selections import rows_and_weights, selection_and_sampler
from ftft.tasks.contract import Prepared

BATCH = 8
PLAIN = {"adapt": "full", "objective": "cross_entropy", "optimize": "sgd"}


class Stopped(Exception):
    """The process was killed here."""


@dataclass
class Trial:
    """Makes trainings that differ in one thing at a time. ``parts``: question -> section, the plain method elsewhere."""

    make_model: Callable[..., torch.nn.Module]
    tokenizer: Any
    parts: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None  # of the optimizer, where its default is too low for six steps to show anything
    dropout: float = 0.0
    dtype: torch.dtype = torch.float64
    kind: str = "text_classification"
    processes: Processes = ALONE
    sharded: bool = False  # over the processes
    image_processor: Any = None  # for the tasks of images

    @property
    def task(self) -> Any:
        return TRIED[self.kind].task

    @property
    def examples(self) -> Examples:
        return TRIED[self.kind].examples()

    @property
    def processor(self) -> Any:
        """What the task reads with."""
        given = {"tokenizer": self.tokenizer, "image_processor": self.image_processor}
        read = {name: given[name] for name in KINDS[self.task.model].reads}
        return ImagesAndTexts(**read) if len(read) > 1 else next(iter(read.values()))

    def model(self) -> torch.nn.Module:
        """The same pretrained model every time."""
        tried = TRIED[self.kind]
        made = self.make_model(tried.architecture, **dict.fromkeys(tried.dropouts, self.dropout))
        if self.kind == "causal_language_modelling":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                made = LlamaForCausalLM(made.config).eval()
        return made.to(self.dtype)

    def data(self) -> Prepared:
        return self.task.prepare(self.examples, self.processor)

    def method(self, question: str) -> Any:
        section = self.parts[question] if question in self.parts else PLAIN[question]
        section = {"name": section} if isinstance(section, str) else dict(section)
        if question == "optimize" and self.rate is not None:
            section["learning_rate"] = self.rate
        return registry.build(question, section, question)

    def assembled(self, model: torch.nn.Module, ledger: Ledger | None = None) -> Assembled:
        torch.manual_seed(self.processes.seed(11))
        data = self.data()
        calibration = CountedCalibration(self.task, data, np.arange(len(data)), 0, ledger or Ledger())
        adapt, objective, optimize = (self.method(question) for question in ("adapt", "objective", "optimize"))
        shard = (lambda adapted: Shards(adapted, self.processes)) if self.sharded else None
        return assemble(model, adapt, objective, optimize, calibration, shard=shard)

    def sampler(self) -> Sampler | None:
        """Of the ``select`` method, where one is tried that chooses while training."""
        return self.method("select").select(self.examples, None, seed=3) if "select" in self.parts else None

    def schedule(self, data: Prepared, steps: int) -> Schedule:
        sampler = self.sampler()
        if sampler is None:
            return BatchSchedule(np.arange(len(data)), data.lengths, BATCH, steps, 0, shuffle="plain")
        rows, _ = rows_and_weights(selection_and_sampler(sampler)[0], data.examples.ids)
        train = TrainSettings(batch_size=BATCH, epochs=steps * BATCH / EXAMPLES, shuffle="plain")
        return schedule_for(train, rows, data.lengths[rows], seed=0, sampler=sampler, processes=self.processes)

    def train(
        self,
        steps: int = 6,
        *,
        micro: int | None = None,
        folder: Path | None = None,
        stop_after: int | None = None,
        weights: np.ndarray | None = None,
    ) -> Trained:
        """Train for so many steps; with a ``folder`` from its newest checkpoint, saving one after every step. ``stop_after``
        kills it (raises Stopped) when that step is over and not yet saved."""
        data, ledger, model = self.data(), Ledger(), self.model()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assembled = self.assembled(model, ledger)
        at_start = {name: value.clone() for name, value in assembled.adapted.model.state_dict().items()}

        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["step"] == stop_after:
                raise Stopped

        training = Training(
            models=assembled.models,
            task=self.task,
            data=data,
            schedule=self.schedule(data, steps),
            objective=self.method("objective"),
            optimizer=assembled.optimizer,
            before_step=assembled.before_step,
            settings=TrainSettings(
                batch_size=BATCH,
                micro_batch_size=micro,
                warmup=0.0,
                schedule="constant",
                clip=None,
                checkpoint_seconds=1e-9,
            ),
            precision="fp64" if self.dtype == torch.float64 else "fp32",
            accelerator=Accelerator(cpu=True),
            weights=weights,
            flops=FlopCounter(),
            ledger=ledger,
            folder=folder,
            notify=notify,
        )
        torch.manual_seed(self.processes.seed(3))
        outcome = TrainingLoop(training).run()
        return Trained(assembled, before, at_start, outcome.losses, training)

    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        """Of all examples, in evaluation mode."""
        data, task = self.data(), self.task
        was_training = model.training
        with torch.no_grad():
            logits = task.forward(model.eval(), task.collate(data, np.arange(len(data))))
        model.train(was_training)
        return logits

    def confidence(self, model: torch.nn.Module) -> float:
        """The mean probability of the right class, tokens, or partner in the batch over all examples, in evaluation mode."""
        data, task = self.data(), self.task
        was_training, found = model.training, []
        model.eval()
        with torch.no_grad():
            for rows in np.arange(EXAMPLES).reshape(-1, BATCH):
                batch = task.collate(data, rows)
                found.append(float((-task.per_example_loss(task.forward(model, batch), batch)).exp().mean()))
        model.train(was_training)
        return sum(found) / len(found)


@dataclass
class Trained:
    """``before``: the state of the model before `adapt`; ``at_start``: of the adapted model before the first step."""

    assembled: Assembled
    before: dict[str, torch.Tensor]
    at_start: dict[str, torch.Tensor]
    losses: list[float]
    training: Training

    @property
    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.assembled.adapted.model.state_dict())
