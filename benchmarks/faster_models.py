"""What compiling the model, and other implementations of its attention, would give our loop.

    python benchmarks/faster_models.py [--pairs 5] [--steps 8] [--threads N] [--out FILE]

Each variant trains beside the model as transformers loads it (fused attention, ``sdpa``), on the same batches of realistic
lengths in the precision that ``auto`` chooses; the median over pairs of turns with a bootstrap 95 % interval, above 1 the
variant is faster. ``warm_up_seconds`` is what went by before the first turn, compiling included, of the variant and of the
model as it is; ``loss_gap`` the largest difference of a step's loss: dropout draws other numbers in each.

- ``compiled``: ``torch.compile`` of the whole model, with shapes that may change from step to step.
- ``eager_attention``: attention as separate products and a softmax.
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import Job, Timing, Turn

from ftft.engine.precision import resolve
from ftft.engine.training import Training


def as_it_is(model: torch.nn.Module) -> None:
    """Nothing."""


def compiled(model: torch.nn.Module) -> None:
    model.compile(dynamic=True)


def eager_attention(model: torch.nn.Module) -> None:
    model.set_attn_implementation("eager")  # type: ignore[operator]


VARIANTS = {"compiled": compiled, "eager_attention": eager_attention}


def run(job: Job, change: Any, turn: Turn) -> tuple[Timing, float]:
    """The timing of the changed model, and the seconds from the beginning to the first turn."""
    moments: list[float] = []

    def prepare(training: Training) -> None:
        change(training.models.main)
        moments.append(time.perf_counter())

    def take_turn() -> None:
        moments.append(time.perf_counter())
        turn()

    timing = common.run_loop(job, take_turn, prepare=prepare)
    return timing, moments[1] - moments[0]


def compare(job: Job, change: Any, arguments: Namespace) -> dict[str, Any]:
    """The variant against the model as it is, step by step on the same batches."""
    (changed, warm), (plain, plain_warm) = common.side_by_side(
        partial(run, job, change), partial(run, job, as_it_is), arguments
    )
    return {
        "wall": common.median_with_interval(list(plain.wall / changed.wall)),
        "processor_time": common.median_with_interval(list(plain.processor / changed.processor)),
        "warm_up_seconds": [round(warm, 1), round(plain_warm, 1)],
        "loss_gap": float(f"{np.abs(np.subtract(plain.losses, changed.losses)).max():.2g}"),
    }


def main() -> None:
    arguments = common.parser(__doc__, pairs=5, steps=8).parse_args()
    plain = common.job_of(arguments)
    job = replace(plain, precision=resolve("auto", common.CPU))
    results = {"precision": job.precision, **{name: compare(job, change, arguments) for name, change in VARIANTS.items()}}
    common.report("faster_models", arguments, job, results)


if __name__ == "__main__":
    main()
