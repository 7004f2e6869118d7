"""What compiling the model, other implementations of its attention, and computing without padding would give our loop.

    python benchmarks/faster_models.py [--pairs 5] [--steps 8] [--threads N] [--backend inductor] [--out FILE]

Each variant trains beside the model as transformers loads it (fused attention, ``sdpa``), on the same batches of realistic
lengths in the precision that ``auto`` chooses; the median over pairs of turns with a bootstrap 95 % interval, above 1 the
variant is faster. ``warm_up_seconds`` is what went by before the first turn, compiling included, of the variant and of the
model as it is; ``loss_gap`` the largest difference of a step's loss: dropout draws other numbers in each.

- ``compiled``: ``torch.compile`` of the whole model, with shapes that may change from step to step, by torch's ``--backend``.
- ``eager_attention``: attention as separate products and a softmax.
- ``padded_to_longest``: a batch as wide as its longest example, not the next multiple of 8.
- ``without_padding``: the same tokens dealt out to equally long examples, with nothing to pad: no attention that leaves the
  padding out (unpadded, of variable lengths) can give more. The loss is another, for the examples are.

``padding``: the share of the computed tokens that is padding in the steps that are timed.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import Job, Timing
from taking_turns import Turn, side_by_side

from ftft.engine.precision import resolve
from ftft.engine.training import Training
from ftft.tasks.contract import Batch, Prepared


def as_it_is(training: Training) -> None:
    """Nothing."""


def compiled(training: Training, backend: str = "inductor") -> None:
    training.models.main.compile(dynamic=True, backend=backend)


def eager_attention(training: Training) -> None:
    training.models.main.set_attn_implementation("eager")  # type: ignore[operator]


def padded_to_longest(training: Training) -> None:
    training.task = _OtherBatches(training.task, _cut)  # type: ignore[assignment]


def without_padding(training: Training) -> None:
    training.task = _OtherBatches(training.task, _dealt_out)  # type: ignore[assignment]


VARIANTS = {
    "compiled": compiled,
    "eager_attention": eager_attention,
    "padded_to_longest": padded_to_longest,
    "without_padding": without_padding,
}
Inputs = dict[str, torch.Tensor]


class _OtherBatches:
    """A task whose batches have other inputs."""

    def __init__(self, task: Any, change: Callable[[Inputs], Inputs]) -> None:
        self.task, self.change = task, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        batch = self.task.collate(prepared, rows, weights)
        return replace(batch, inputs=self.change(batch.inputs))


def _cut(inputs: Inputs) -> Inputs:
    """Without the columns that are padding in every row."""
    width = int(inputs["attention_mask"].sum(dim=1).max())
    return {name: values[:, :width].contiguous() for name, values in inputs.items()}


def _dealt_out(inputs: Inputs) -> Inputs:
    """The tokens of all rows, cut into as many rows of one length; the last is completed with the first of them."""
    real = inputs["attention_mask"].bool()
    rows = len(real)
    width = math.ceil(int(real.sum()) / rows)
    tokens = {name: values[real] for name, values in inputs.items()}
    return {name: values.repeat(2)[: rows * width].reshape(rows, width) for name, values in tokens.items()}


def run(job: Job, change: Any, turn: Turn) -> tuple[Timing, float]:
    """The timing of the changed model, and the seconds from the beginning to the first turn."""
    moments: list[float] = []

    def prepare(training: Training) -> None:
        change(training)
        moments.append(time.perf_counter())

    def take_turn() -> None:
        moments.append(time.perf_counter())
        turn()

    timing = common.run_loop(job, take_turn, prepare=prepare)
    return timing, moments[1] - moments[0]


def compare(job: Job, change: Any, arguments: Namespace) -> dict[str, Any]:
    """The variant against the model as it is, step by step on the same batches."""
    (changed, warm), (plain, plain_warm) = side_by_side(partial(run, job, change), partial(run, job, as_it_is), arguments)
    return {
        "wall": common.median_with_interval(list(plain.wall / changed.wall)),
        "processor_time": common.median_with_interval(list(plain.processor / changed.processor)),
        "warm_up_seconds": [round(warm, 1), round(plain_warm, 1)],
        "loss_gap": float(f"{np.abs(np.subtract(plain.losses, changed.losses)).max():.2g}"),
        "padding": round(1 - float(plain.tokens.sum() / plain.padded_tokens.sum()), 3),
    }


def main() -> None:
    parser = common.parser(__doc__, pairs=5, steps=8)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; another than its own compiles less and faster")
    arguments = parser.parse_args()
    plain = common.job_of(arguments)
    job = replace(plain, precision=resolve("auto", common.CPU))
    variants = VARIANTS | {"compiled": partial(compiled, backend=arguments.backend)}
    results = {"precision": job.precision, "backend": arguments.backend}
    results |= {name: compare(job, change, arguments) for name, change in variants.items()}
    common.report("faster_models", arguments, job, results)


if __name__ == "__main__":
    main()
