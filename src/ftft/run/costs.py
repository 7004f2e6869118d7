"""What a model cost, whole: its own stage, every stage it used, and the share of plain fine-tuning (ERM) that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ftft.engine.batches import BatchSchedule, planned_steps
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import PHASES, Ledger
from ftft.engine.predict import padded_lengths as padded_lengths
from ftft.engine.settings import TrainSettings
from ftft.methods.registry import build_task
from ftft.run.recipe import OneStage, uses
from ftft.run.recipe import upstream as upstream
from ftft.tasks.contract import Prepared, Task, coupling_of
from ftft.tasks.packing import first_fit


@dataclass(frozen=True)
class ErmCost:
    """The floating-point operations of plain fine-tuning, the unit of every cost of a run, and how they are known; None
    while they are not."""

    flops: float | None
    source: str


def erm_cost(
    recipe: Any,
    main: str,
    ledgers: Mapping[str, Ledger],
    summaries: Mapping[str, Any],
    lengths: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> ErmCost:
    """One unit for all stages of a run: what the baseline cost, or else what plain fine-tuning of the ``main`` stage's
    model would, measured where that stage is plain fine-tuning itself and estimated from its counted batches elsewhere.

    ``ledgers`` and ``summaries``: of the stages that are finished. ``lengths``: the tokens and the padded
    tokens of all training examples, int32 [N] each, asked for only where something is estimated.
    """
    named = recipe.baseline if recipe.baseline is not None else _before_trainers(recipe, main)
    if named not in ledgers:
        return ErmCost(None, "not yet")
    if recipe.baseline is not None:
        searched = "" if recipe.stages[named].search is None else ", its search aside"
        unit = ledgers[named].total(phases=[phase for phase in PHASES if phase != "search"])
        return ErmCost(unit.flops, f"measured: stage {named}{searched}")
    stage = recipe.stages[named]
    if stage.trainer is not None:
        return ErmCost(None, "no stage is plain fine-tuning")
    # A stage with a search has paid for its trials, too.
    if not uses(stage) and stage.select["name"] == "all" and stage.create is None and stage.search is None:
        return ErmCost(ledgers[named].total().flops, f"measured: stage {named} is plain fine-tuning")
    train, seed = stage.train, OneStage(recipe, named).seed
    tokens, every = lengths()
    fill = coupling_of(build_task(recipe.task)) == "batch"
    flops = estimate_erm_flops(summaries[named]["flops_by_shape"], every, train, seed, tokens, fill=fill)
    length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    source = f"estimated from the counted batches of stage {named}, as {length} over all {len(every):,} examples"
    return ErmCost(flops, source)


def _before_trainers(recipe: Any, name: str) -> str:
    """The stage whose model ``name`` goes on from, by way of stages that trainers of TRL run; ``name`` itself where the engine
    runs it."""
    stage = recipe.stages[name]
    return name if stage.trainer is None or stage.model.stage is None else _before_trainers(recipe, stage.model.stage)


def lengths_of(task: Task, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and the padded tokens of every example, int32 [N] each."""
    return prepared.lengths, padded_lengths(task, prepared)


def given_dynamics(stages: Mapping[str, Any], name: str) -> list[str]:
    """The files of dynamics that ``name`` used, itself or through other stages: what recording them cost is not known."""
    used = [stages[other].use_dynamics_of for other in [*upstream(stages, name), name]]
    return [source for source in used if source is not None and source not in stages]


def whole_cost(
    ledgers: Mapping[str, Ledger], stages: Mapping[str, Any], name: str, creations: Mapping[str, str] = MappingProxyType({})
) -> Ledger:
    """The stage's ledger with everything its upstream stages did booked as the phase ``reference``.

    A stage that was taken from the store is charged as what it cost when it ran. ``creations``: stage -> the key of the
    examples it made, where it made any; what several stages learned from was made once, and is charged once.
    """
    total, counted = Ledger().merge(ledgers[name]), {creations.get(name)}
    for other in upstream(stages, name):
        ledger, made = ledgers[other], creations.get(other)
        if made is not None and made in counted:
            ledger = ledger.without("creation")
        counted.add(made)
        total = total.merge(ledger.moved(dict.fromkeys(PHASES, "reference")))
    return total


def estimate_erm_flops(
    known_shapes: list[list[Any]],
    lengths: np.ndarray,
    train: TrainSettings,
    seed: int,
    tokens: np.ndarray | None = None,
    *,
    fill: bool = False,
) -> float:
    """Training FLOPs of plain fine-tuning on all N examples (``lengths``: padded token counts, ``tokens``: their own where
    they differ, int32 [N]) with the same settings, from the shapes that were counted while the stage trained; NaN where none
    was. ``fill``: an epoch's short batch is filled up.

    Used where the recipe has no ERM stage to measure; marked as estimated.
    """
    counter = FlopCounter()
    counter.load_state({"spent": 0, "known": known_shapes})
    steps = planned_steps(len(lengths), train.batch_size, epochs=train.epochs, steps=train.steps)
    own = lengths if tokens is None else tokens
    schedule = BatchSchedule(np.arange(len(lengths)), own, train.batch_size, steps, seed, train.shuffle, fill=fill)
    total, epoch, done = 0.0, 0, 0
    while done < steps:
        plan = schedule.plan(epoch)[: steps - done]
        micro = train.micro_batch_size or train.batch_size
        for batch in plan:
            for start in range(0, len(batch), micro):
                part = batch[start : start + micro]
                width = int(lengths[part].max())
                rows = first_fit(own[part], width).rows if train.pack else len(part)
                total += counter.estimate("train", rows, width)
        done, epoch = done + len(plan), epoch + 1
    return total
