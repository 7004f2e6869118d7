"""Stages that a trainer of TRL runs: how the trainer is put together with the stage's model, adapter and optimizer."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.assembly import assemble, frozen_copy
from ftft.engine.batches import BatchSchedule, planned_steps
from ftft.engine.ledger import Ledger
from ftft.engine.provenance import provenance
from ftft.engine.schedule import rate_factor, warmup_steps
from ftft.engine.training import Training
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import Adapted
from ftft.models.loading import LoadedModel
from ftft.run.finishing import Trained
from ftft.run.portable import portable_model
from ftft.run.trainer_combinations import learned_rows, trainer_of
from ftft.run.trainer_loop import TrainerLoop
from ftft.tasks.contract import Prepared

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftft.bridges.staged import StageTrainer
    from ftft.run.stages import StageRun
    from ftft.run.store import StageFolder

USED = ("adapt", "objective", "optimize")


def train(
    run: StageRun,
    folder: StageFolder,
    model: LoadedModel,
    rows: np.ndarray,
    ledger: Ledger,
    accelerator: Accelerator,
    precision: Any,
) -> Trained:
    """Let the stage's trainer run to its end, from where it was interrupted if it was."""
    from ftft.bridges.staged import Setup

    trainer = trainer_of(run.recipe, run.name)
    reference = frozen_copy(model.model).to(accelerator.device) if trainer.reference else None
    training, adapted = _assembled(run, trainer, model, rows, ledger, accelerator, precision, folder)
    factor = _rate(training)
    scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, factor)
    loop = TrainerLoop(training, provenance())
    with tempfile.TemporaryDirectory() as scratch:

        def start(keeper: TrainerLoop) -> Any:
            return trainer.start(
                Setup(
                    model=training.models.main.to(accelerator.device),
                    reference=reference,
                    processor=model.processor,
                    task=run.task,
                    examples=run.data.train,
                    rows=rows,
                    seed=run.seed,
                    arguments=_arguments(training, scratch),
                    optimizer=training.optimizer,
                    scheduler=scheduler,
                    keeper=keeper,
                )
            )

        outcome = loop.run(start)
    return Trained(run, model, adapted, training, outcome)


def _assembled(
    run: StageRun,
    trainer: StageTrainer,
    model: LoadedModel,
    rows: np.ndarray,
    ledger: Ledger,
    accelerator: Accelerator,
    precision: Any,
    folder: StageFolder,
) -> tuple[Training, Adapted]:
    """The training as the books know it, and what ``adapt`` made of the model."""
    stage, train = run.stage, run.stage.train
    torch.manual_seed(run.seed)
    np.random.seed(run.seed % 2**32)
    built = {question: registry.build(question, getattr(stage, question), f"{run.where}.{question}") for question in USED}
    assembled = assemble(model.model, built["adapt"], built["objective"], built["optimize"], None, seed=run.seed)
    if assembled.before_step:
        raise UserError(f"{run.where}.optimize: {stage.optimize['name']} works before every step, which TRL does not let it")
    lengths = trainer.lengths(run.data.train, run.task, model.processor)
    learned = learned_rows(run.recipe, run.name, len(rows))
    steps = planned_steps(learned, train.batch_size, epochs=train.epochs, steps=train.steps)
    training = Training(
        models=assembled.models,
        task=run.task,
        data=Prepared(run.data.train, lengths, {}),
        schedule=BatchSchedule(rows[:learned], lengths[rows[:learned]], train.batch_size, steps, run.seed, "plain"),
        objective=built["objective"],
        optimizer=assembled.optimizer,
        settings=train,
        precision=precision,
        accelerator=accelerator,
        dynamics=_buffer(run, trainer, model) if stage.dynamics else None,
        ledger=ledger,
        folder=folder.folder,
        notify=lambda event: run.notify({"stage": run.name, **event}),
        warn=run.warn,
    )
    adapted = assembled.adapted
    # TRL changes the model's forward: what is saved is a model loaded anew, with these weights.
    plain = adapted.plain_state or (lambda: dict(adapted.model.state_dict()))
    return training, dataclasses.replace(adapted, plain_state=plain)


def _buffer(run: StageRun, trainer: StageTrainer, model: LoadedModel) -> DynamicsBuffer:
    metadata = {
        "source": "online",
        "data_fingerprint": run.data.train.fingerprint,
        "trainer": trainer.name,
        "model": portable_model(model.description),
    }
    return DynamicsBuffer(run.data.train.ids, None, statistics=trainer.statistics, metadata=metadata)


def _rate(training: Training) -> Callable[[int], float]:
    settings, steps = training.settings, training.schedule.steps
    warmup = warmup_steps(steps, settings.warmup)
    return lambda step: rate_factor(step, steps=steps, warmup=warmup, schedule=settings.schedule)


def _arguments(training: Training, scratch: str) -> Mapping[str, Any]:
    settings = training.settings
    micro = settings.micro_batch_size or settings.batch_size
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // micro,
        "max_steps": training.schedule.steps,
        "max_grad_norm": settings.clip or 0.0,
        "bf16": training.precision == "bf16",
    }
