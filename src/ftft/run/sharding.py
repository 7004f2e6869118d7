"""What a stage cannot do while every process holds a shard of the weights only (``train.sharding``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ftft.errors import UserError
from ftft.methods.questions import QUESTIONS
from ftft.methods.registry import build, header, list_methods
from ftft.run.recipe import Stage

if TYPE_CHECKING:
    from torch.nn import Module

    from ftft.engine.processes import Processes
    from ftft.engine.sharding import Shards
    from ftft.tasks.contract import Task


def check_sharding(stage: Stage, task: Task, where: str) -> None:
    """UserError where a method of the stage does not say that it works on weights in shards, where texts would have to be
    written with them, and for a search."""
    if stage.train.sharding == "none":
        return
    if stage.search is not None:
        raise UserError(f"{where}.train.sharding: the trials of a search are trained whole; leave search out, or sharding")
    for question in QUESTIONS:
        section = getattr(stage, question, None)
        found = header(question, section["name"], where) if isinstance(section, Mapping) and section else None
        if found is not None and found.meets_shards and not found.sharded:
            able = [method.name for method in list_methods(question) if method.meets_shards and method.sharded]
            raise UserError(
                f"{where}.{question}: {found.name} does not work on weights in shards; use one of {', '.join(able)}, or "
                f"{where}.train.sharding: none"
            )
    if getattr(task, "answer", None) is not None and is_measured_while_training(stage, where):
        raise UserError(
            f"{where}.train.sharding: with task.answer every evaluation writes texts, which a model in shards cannot do; leave "
            "out stop, evaluate_every and a combine that needs them, or train with sharding: none"
        )


def cutter(stage: Stage, processes: Processes, where: str, warn: Callable[[str], None]) -> Callable[[Module], Shards] | None:
    """What cuts the model, where the recipe asks for it and there is more than one process."""
    if stage.train.sharding == "none":
        return None
    if processes.count == 1:
        warn(f"{where}.train.sharding: the one process holds the whole model; start several with torchrun")
        return None
    from ftft.engine.sharding import Shards

    return lambda model: Shards(model, processes)


def is_measured_while_training(stage: Stage, where: str) -> bool:
    """Whether the training is measured on the way: for stopping, for the best checkpoint, or because asked for."""
    combiner = build("combine", stage.combine, f"{where}.combine")
    asked = stage.stop is not None or stage.train.evaluate_every is not None
    return asked or combiner.needs_best or "validation" in header("combine", stage.combine["name"]).needs
