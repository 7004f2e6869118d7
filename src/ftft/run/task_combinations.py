"""What a recipe cannot ask of a task, each refused in one sentence that says why and what would work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftft.data.settings import DataSettings
from ftft.errors import UserError
from ftft.run.recipe import Stage

if TYPE_CHECKING:
    from ftft.tasks.contract import Task


def check_coupling(stage: Stage, task: Task, where: str) -> None:
    """UserError for what a task does without whose losses depend on the batch."""
    from ftft.tasks.contract import coupling_of  # numpy comes with it, which reading a recipe must not

    train = stage.train
    if coupling_of(task) != "batch":
        return
    if stage.dynamics is not None and stage.dynamics.mode == "epoch_end":
        raise UserError(
            f"{where}.dynamics.mode: in {task.name} what is said of an example depends on its batch, and a pass after the "
            "epoch has others than the training; record with mode: online"
        )
    if train.micro_batch_size not in (None, train.batch_size):
        raise UserError(
            f"{where}.train.micro_batch_size: in {task.name} the loss of an example depends on its batch, so that "
            f"micro-batches of {train.micro_batch_size} are another task than a batch of {train.batch_size}; leave it out, or "
            "lower batch_size"
        )


def check_merging(data: DataSettings, task: Task) -> None:
    """UserError where an evaluation set merges classes for a task that cannot."""
    from ftft.tasks.contract import merges_classes  # numpy comes with it, which reading a recipe must not

    for name, file in data.evaluation.items():
        if file.merge_labels is not None and not merges_classes(task):
            raise UserError(
                f"data.evaluation.{name}.merge_labels: {task.name} classifies a set by the captions of its own labels, so "
                "there is nothing to merge; leave the set out, or give its rows labels of the training set"
            )
