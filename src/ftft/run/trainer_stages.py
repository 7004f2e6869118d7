"""Stages that a trainer of TRL runs: the rows they learn from, and how the trainer is put together with the stage's model,
adapter and optimizer."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ftft.data.duplicates import find_overlaps
from ftft.data.examples import Examples, LoadedData
from ftft.data.loading import load_examples, refuse_training_files, with_fingerprint
from ftft.data.settings import Columns
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
from ftft.run.recipe import Recipe
from ftft.run.trainer_combinations import learned_rows, trainer_of
from ftft.run.trainer_loop import TrainerLoop
from ftft.tasks.contract import Prepared

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftft.bridges.staged import StageTrainer
    from ftft.run.stages import StageRun
    from ftft.run.store import StageFolder

USED = ("adapt", "objective", "optimize")
DESIRABLE = {"true": True, "1": True, "desirable": True, "false": False, "0": False, "undesirable": False}


# -- the rows --------------------------------------------------------------------------------------------------------


def trainer_rows(
    recipe: Recipe, data: LoadedData, progress: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, LoadedData], list[str]]:
    """For every stage that a trainer runs the data with the rows it learns from as training rows; and warnings.

    UserError for bad rows, or rows of an evaluation set.
    """
    found, warnings = {}, []
    for name, stage in recipe.stages.items():
        if stage.trainer is None:
            continue
        trainer, where = trainer_of(recipe, name), f"stages.{name}.data"
        if stage.data is None:
            if data.train.inputs.keys() not in [layout.keys() for layout in trainer.inputs.layouts]:
                raise UserError(
                    f"{where} is missing: {trainer.name} learns from prompts with their answers, and the rows of data.train "
                    f"give {' and '.join(data.train.inputs)}; name a file of others"
                )
            rows = data.train
        else:
            refuse_training_files([stage.data], recipe.data.evaluation, where)
            progress(f"reading the rows of stage {name}")
            rows = load_examples(stage.data, Columns(), inputs=trainer.inputs)
            rows, sentences = _apart(rows, data, where, drop=recipe.data.drop_duplicates_of_evaluation)
            warnings += sentences
            if trainer.inputs.labelled:
                rows = _with_label_as_input(rows, where)
        if len(rows) == 0:
            raise UserError(f"{where} holds no row to learn from")
        found[name] = dataclasses.replace(data, train=rows)
    return found, warnings


def _with_label_as_input(rows: Examples, where: str) -> Examples:
    """Rows whose label says whether the answer is desirable, as rows without classes that have it as an input, bool [N]."""
    for name in rows.label_names:
        if name.lower() not in DESIRABLE:
            raise UserError(f'{where}: the label "{name}" does not say whether an answer is desirable; write true or false')
    meant = np.array([DESIRABLE[name.lower()] for name in rows.label_names])
    inputs = {**rows.inputs, "label": pa.array(meant[rows.labels])}
    return dataclasses.replace(rows, inputs=inputs, labels=np.zeros(len(rows), dtype=np.int64), label_names=())


def _apart(rows: Examples, data: LoadedData, where: str, *, drop: bool) -> tuple[Examples, list[str]]:
    """The rows, without those whose prompt an evaluation set has where they are to be dropped; and a sentence for each such
    set."""
    sets = {name: one.examples.inputs for name, one in data.evaluation.items() if "prompt" in one.examples.inputs}
    overlaps = find_overlaps(
        {"prompt": rows.inputs["prompt"]}, {name: {"prompt": inputs["prompt"]} for name, inputs in sets.items()}
    )
    shared = {name: one.train_rows for name, one in overlaps.items() if len(one.train_rows)}
    done = "left out" if drop else "learned from all the same (data.drop_duplicates_of_evaluation leaves out such rows)"
    sentences = [
        f'{where}: rows whose prompt is in the evaluation set "{name}": {len(there):,}, {done}'
        for name, there in shared.items()
    ]
    if drop and shared:
        kept = np.setdiff1d(np.arange(len(rows)), np.concatenate(list(shared.values())))
        rows = with_fingerprint(rows.take(kept))
    return rows, sentences


# -- the training ----------------------------------------------------------------------------------------------------


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
