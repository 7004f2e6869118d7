"""What a model cost, whole: its own stage, every stage it used, and the share of plain fine-tuning (ERM) that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ftft.engine.batches import BatchSchedule, planned_steps
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import PHASES, Ledger
from ftft.engine.settings import TrainSettings


def upstream(stages: Mapping[str, Any], name: str) -> list[str]:
    """The stages that ``name`` uses, directly or through others, in the recipe's order."""
    found: list[str] = []
    current = stages[name].use_dynamics_of
    while current in stages and current not in found:
        found.insert(0, current)
        current = stages[current].use_dynamics_of
    return found


def whole_cost(ledgers: Mapping[str, Ledger], stages: Mapping[str, Any], name: str) -> Ledger:
    """The stage's ledger with everything its upstream stages did booked as the phase ``reference``.

    A stage that was taken from the store is charged as what it cost when it ran.
    """
    total = Ledger().merge(ledgers[name])
    for other in upstream(stages, name):
        total = total.merge(ledgers[other].moved(dict.fromkeys(PHASES, "reference")))
    return total


def estimate_erm_flops(known_shapes: list[list[Any]], lengths: np.ndarray, train: TrainSettings, seed: int) -> float:
    """Training FLOPs of plain fine-tuning on all N examples (``lengths``: padded-to-8 token counts, int32 [N]) with the
    same settings, from the shapes that were counted while the stage trained; NaN where none was.

    Used where the recipe has no ERM stage to measure; marked as estimated.
    """
    counter = FlopCounter()
    counter.load_state({"spent": 0, "known": known_shapes})
    steps = planned_steps(len(lengths), train.batch_size, epochs=train.epochs, steps=train.steps)
    schedule = BatchSchedule(np.arange(len(lengths)), lengths, train.batch_size, steps, seed, train.shuffle)
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
