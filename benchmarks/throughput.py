"""Training throughput of our loop against ``transformers.Trainer``, on the same examples with the same model.

    python benchmarks/throughput.py [--pairs 5] [--steps 6] [--threads N] [--out FILE]

Three comparisons, each the median over pairs of turns with a bootstrap 95 % interval; above 1 we are faster:

- ``defaults``: what each does when nothing is set. Ours: batches of 32 of similar length, and bf16 where this processor is
  measurably faster with it. The Trainer's: batches of 8 in random order, padded to their longest, in float32.
- ``defaults_same_batch_size``: the same, with the Trainer's batches of our size.
- ``equal``: the very same batches, in the same padding, in float32, with the same optimizer and clipping.

Rates are in examples and in tokens per second, ratios in tokens. Padding counts as neither; ``padding`` says how large a
share of what was computed it was.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
from common import Job, Timing
from taking_turns import side_by_side

from ftft.engine.precision import has_native_bf16, resolve, speedup_of_bf16

TRAINER_BATCH_SIZE = 8  # TrainingArguments.per_device_train_batch_size


def compare(ours: Job, theirs: Job, arguments: Namespace, *, defaults: bool) -> dict[str, Any]:
    """Ours over theirs in tokens per second: step by step where both have the same batches, else turn by turn."""
    loop, trainer = side_by_side(
        partial(common.run_loop, ours), partial(common.run_trainer, theirs, defaults=defaults), arguments
    )
    return {
        "wall": common.median_with_interval(_ratios(loop, trainer, "wall", by_step=not defaults)),
        "processor_time": common.median_with_interval(_ratios(loop, trainer, "processor", by_step=not defaults)),
        "ftft": _side(loop),
        "trainer": _side(trainer),
    }


def _ratios(loop: Timing, trainer: Timing, per: str, *, by_step: bool) -> list[np.ndarray]:
    if by_step:
        return list(getattr(trainer, per) / getattr(loop, per))
    return list((loop.rates("tokens", per) / trainer.rates("tokens", per))[:, None])


def _side(timing: Timing) -> dict[str, Any]:
    def middle(of: str, per: str) -> float:
        return round(float(np.median(timing.rates(of, per))), 2)

    return {
        "examples_per_second": middle("examples", "wall"),
        "tokens_per_second": middle("tokens", "wall"),
        "examples_per_processor_second": middle("examples", "processor"),
        "tokens_per_processor_second": middle("tokens", "processor"),
        "padding": round(1 - float(timing.tokens.sum() / timing.padded_tokens.sum()), 3),
        "tokens_per_example": round(float(timing.tokens.sum() / timing.examples.sum()), 1),
    }


def main() -> None:
    arguments = common.parser(__doc__, pairs=5, steps=6).parse_args()
    plain = common.job_of(arguments)
    job = replace(plain, precision=resolve("auto", common.CPU))
    small = min(TRAINER_BATCH_SIZE, job.batch_size // 2)
    times = job.batch_size // small
    short = replace(job, batch_size=small, steps=job.steps * times, warmup=job.warmup * times)
    results = {
        "native_bf16": has_native_bf16(common.CPU),
        "speedup_of_bf16_products": round(speedup_of_bf16(), 3),
        "precision_of_defaults": job.precision,
        "defaults": compare(job, short, arguments, defaults=True),
        "defaults_same_batch_size": compare(job, job, arguments, defaults=True),
        "equal": compare(plain, plain, arguments, defaults=False),
    }
    common.report("throughput", arguments, job, results)


if __name__ == "__main__":
    main()
