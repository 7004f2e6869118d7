"""What a stage that a trainer of TRL runs cannot have beside it, each refused in one sentence; and beginning with the model of
another stage."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ftft.data.settings import Columns
from ftft.errors import UserError, did_you_mean
from ftft.methods.registry import build, build_task, build_trainer, header, list_methods, trainer_header
from ftft.run.recipe import Recipe, Stage

if TYPE_CHECKING:
    from ftft.bridges.staged import StageTrainer
    from ftft.tasks.contract import Task


def trainer_of(recipe: Recipe, name: str) -> StageTrainer:
    """The trainer of a stage, with what it takes from the recipe's task."""
    return _settled(recipe.stages[name], build_task(recipe.task), f"stages.{name}")


def learned_rows(recipe: Recipe, name: str, rows: int) -> int:
    """How many of so many rows the trainer of a stage learns from in an epoch; UserError where they make no batches."""
    size = recipe.stages[name].train.batch_size
    try:
        return trainer_of(recipe, name).rows_per_epoch(rows, size)
    except UserError as error:
        raise UserError(f"stages.{name}.train.batch_size: {error}; choose another") from None


def _settled(stage: Stage, task: Task, where: str) -> StageTrainer:
    trainer: StageTrainer = build_trainer(stage.trainer or {}, f"{where}.trainer")
    try:
        settled: StageTrainer = trainer.settled(task)
    except UserError as error:
        raise UserError(f"{where}.trainer.{error}") from None
    return settled


def check_trainer(name: str, recipe: Recipe, task: Task) -> None:
    """Raise UserError for the first thing of a stage's that its trainer cannot work with."""
    stage, where = recipe.stages[name], f"stages.{name}"
    if stage.trainer is None:
        if stage.data is not None:
            raise UserError(f"{where}.data is only for a stage with a trainer (dpo, kto, grpo); others learn from data.train")
        return
    found = trainer_header(stage.trainer["name"], f"{where}.trainer")
    if not found.serves(task.name):
        raise UserError(f"{where}.trainer: {found.name} serves the task {', '.join(found.tasks)} and not {task.name}")
    if find_spec("trl") is None:
        raise UserError(
            f"{where}.trainer: {found.name} is a trainer of the package trl, which is not installed; install ftft[trl]"
        )
    _check_rows(stage, task, where)
    _check_methods(stage, where)
    _check_course(stage, where)


def check_beginning(name: str, stage: Stage, earlier: Sequence[str], where: str) -> None:
    """Raise UserError where the stage whose model is begun with is not an earlier one."""
    source = stage.model.stage
    if source is None or source in earlier:
        return
    if source == name:
        raise UserError(f"{where}.model.stage names the stage itself; name an earlier one, or give a path")
    raise UserError(f'{where}.model.stage: there is no earlier stage "{source}"{did_you_mean(source, earlier)}')


def _check_rows(stage: Stage, task: Task, where: str) -> None:
    trainer = _settled(stage, task, where)
    if stage.data is None and trainer.data:
        raise UserError(f"{where}.data is missing: {trainer.name} learns from rows of its own ({_named(trainer)}); name a file")
    if stage.data is not None:
        trainer.inputs.columns_of(stage.data.columns or Columns(), f"{where}.data")
    micro = stage.train.micro_batch_size
    if trainer.coupling == "batch" and micro not in (None, stage.train.batch_size):
        raise UserError(
            f"{where}.train.micro_batch_size: in {trainer.name} the loss of an example depends on its batch; leave it out, or "
            "lower batch_size"
        )
    if trainer.coupling == "batch" and stage.train.batch_size < 2:
        raise UserError(f"{where}.train.batch_size: {trainer.name} compares the rows of a batch; give at least 2")


def _named(trainer: StageTrainer) -> str:
    names = [*trainer.inputs.layouts[0], *(["label"] if trainer.inputs.labelled else [])]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _check_methods(stage: Stage, where: str) -> None:
    """Which methods a trainer of TRL goes together with: those that neither look at the engine's batches nor take its steps."""
    assert stage.trainer is not None
    name = stage.trainer["name"]
    if stage.create is not None:
        raise UserError(f"{where}.create: {name} learns from the rows it is given; leave {stage.create['name']} out")
    if stage.objective["name"] != "cross_entropy":
        raise UserError(f"{where}.objective: {name} minimises its own objective; leave {stage.objective['name']} out")
    for question, why in (
        ("select", "selects by what the engine shows it of data.train"),
        ("adapt", "adapts by batches of the engine, or while it trains"),
        ("optimize", "takes steps that only the engine takes"),
        ("combine", "combines checkpoints that only the engine measures, or other stages' models"),
    ):
        if not _composes(question, getattr(stage, question), f"{where}.{question}"):
            others = [one.name for one in list_methods(question) if not (one.needs or one.roles) and one.trainable == "fixed"]
            raise UserError(
                f"{where}.{question}: {getattr(stage, question)['name']} {why}, and {name} is run by TRL; "
                f"use {' or '.join([', '.join(others[:-1]), others[-1]] if len(others) > 1 else others)}"
            )
    apply = getattr(build("select", stage.select, f"{where}.select"), "apply", "subset")
    if apply != "subset":
        raise UserError(
            f"{where}.select.apply: {name} takes each row that it learns from once an epoch and weights all alike; leave "
            f"{apply} out"
        )


def _composes(question: str, section: dict[str, object], where: str) -> bool:
    found = header(question, str(section["name"]), where)
    if set(found.needs) - {"pairs"} or found.roles or found.trainable != "fixed":
        return False
    return question != "combine" or not build(question, section, where).needs_best


def _check_course(stage: Stage, where: str) -> None:
    """What of the training's course only the engine can do."""
    assert stage.trainer is not None
    name, train = stage.trainer["name"], stage.train
    if stage.stop is not None:
        raise UserError(f"{where}.stop: {name} runs to its planned end; leave stop out, and lower train.epochs or train.steps")
    if stage.search is not None:
        raise UserError(f"{where}.search: its trials are trained by the engine, and {name} is run by TRL; leave it out")
    for key in ("evaluate_every", "end_at"):
        if getattr(train, key) is not None:
            raise UserError(f"{where}.train.{key}: only the engine does that, and {name} is run by TRL; leave it out")
    if train.pack:
        raise UserError(f"{where}.train.pack: {name} pads its rows; leave pack out")
    if train.precision == "fp64":
        raise UserError(f"{where}.train.precision: TRL's trainers compute in fp32 or bf16; give one of these, or auto")
    if stage.dynamics is not None and stage.dynamics.mode != "online":
        raise UserError(f"{where}.dynamics.mode: of {name} dynamics are recorded online only; leave mode out")
    if stage.use_dynamics_of is not None:
        raise UserError(f"{where}.use_dynamics_of: {name} learns from all of its rows, or some at random; leave it out")
