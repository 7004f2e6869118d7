"""What a model cost, whole: its own stage, every stage it used, and the share of plain fine-tuning (ERM) that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftft.engine.batches import BatchSchedule, planned_steps
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import PHASES, Ledger
from ftft.engine.settings import TrainSettings
from ftft.methods.registry import build_task
from ftft.run.recipe import upstream as upstream
from ftft.run.recipe import uses
from ftft.tasks.contract import Prepared, Task, coupling_of


@dataclass(frozen=True)
class ErmCost:
    """The floating-point operations of plain fine-tuning, the unit of every cost of a run, and how they are known; None
    while they are not."""

    flops: float | None
    source: str


def erm_cost(
    recipe: Any, main: str, ledgers: Mapping[str, Ledger], summaries: Mapping[str, Any], lengths: Callable[[], np.ndarray]
) -> ErmCost:
    """One unit for all stages of a run: what the baseline cost, or else what plain fine-tuning of the ``main`` stage's
    model would, measured where that stage is plain fine-tuning itself and estimated from its counted batches elsewhere.

    ``ledgers`` and ``summaries``: of the stages that are finished. ``lengths``: padded token counts of all training
    examples, int32 [N], asked for only where something is estimated.
    """
    named = recipe.baseline if recipe.baseline is not None else main
    if named not in ledgers:
        return ErmCost(None, "not yet")
    if recipe.baseline is not None:
        return ErmCost(ledgers[named].total().flops, f"measured: stage {named}")
    stage = recipe.stages[named]
    if not uses(stage) and stage.select["name"] == "all":
        return ErmCost(ledgers[named].total().flops, f"measured: stage {named} is plain fine-tuning")
    train, seed = stage.train, recipe.seed if stage.seed is None else stage.seed
    every = lengths()
    fill = coupling_of(build_task(recipe.task)) == "batch"
    flops = estimate_erm_flops(summaries[named]["flops_by_shape"], every, train, seed, fill=fill)
    length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    source = f"estimated from the counted batches of stage {named}, as {length} over all {len(every):,} examples"
    return ErmCost(flops, source)


def padded_lengths(task: Task, prepared: Prepared) -> np.ndarray:
    """How many tokens wide a batch is whose longest example is this one, for every example: int32 [N]."""
    distinct, first, of = np.unique(prepared.lengths, return_index=True, return_inverse=True)
    widths = [task.collate(prepared, first[index : index + 1]).shape[1] for index in range(len(distinct))]
    return np.array(widths, dtype=np.int32)[of.reshape(-1)]


def given_dynamics(stages: Mapping[str, Any], name: str) -> list[str]:
    """The files of dynamics that ``name`` used, itself or through other stages: what recording them cost is not known."""
    used = [stages[other].use_dynamics_of for other in [*upstream(stages, name), name]]
    return [source for source in used if source is not None and source not in stages]


def whole_cost(ledgers: Mapping[str, Ledger], stages: Mapping[str, Any], name: str) -> Ledger:
    """The stage's ledger with everything its upstream stages did booked as the phase ``reference``.

    A stage that was taken from the store is charged as what it cost when it ran.
    """
    total = Ledger().merge(ledgers[name])
    for other in upstream(stages, name):
        total = total.merge(ledgers[other].moved(dict.fromkeys(PHASES, "reference")))
    return total


def estimate_erm_flops(
    known_shapes: list[list[Any]], lengths: np.ndarray, train: TrainSettings, seed: int, *, fill: bool = False
) -> float:
    """Training FLOPs of plain fine-tuning on all N examples (``lengths``: padded token counts, int32 [N]) with the
    same settings, from the shapes that were counted while the stage trained; NaN where none was. ``fill``: an epoch's short
    batch is filled up.

    Used where the recipe has no ERM stage to measure; marked as estimated.
    """
    counter = FlopCounter()
    counter.load_state({"spent": 0, "known": known_shapes})
    steps = planned_steps(len(lengths), train.batch_size, epochs=train.epochs, steps=train.steps)
    schedule = BatchSchedule(np.arange(len(lengths)), lengths, train.batch_size, steps, seed, train.shuffle, fill=fill)
    total, epoch, done = 0.0, 0, 0
    while done < steps:
        plan = schedule.plan(epoch)[: steps - done]
        micro = train.micro_batch_size or train.batch_size
        for batch in plan:
            for start in range(0, len(batch), micro):
                part = batch[start : start + micro]
                total += counter.estimate("train", len(part), int(lengths[part].max()))
        done, epoch = done + len(plan), epoch + 1
    return total
