"""How much of the processor's matrix rate training reaches: counted FLOPs of our steps per second over measured products.

    python benchmarks/flop_rate.py [--pairs 5] [--steps 8] [--threads N] [--out FILE]

The rate of the machine is its fastest product of square matrices (512, 1024, 2048) in float32 and in bfloat16, measured
right before each run of training, in the same process. A run's rate is the counted FLOPs of its steps (matrix products of
the forward and the backward pass; padding included, since it is computed) over their seconds, everything else a step does
included in the seconds. Reported as a fraction of both rates, for float32 and for the precision that ``auto`` chooses here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import Job, Timing

SIZES = (512, 1024, 2048)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def product_rates(sizes: tuple[int, ...], rounds: int = 3) -> dict[str, dict[str, float]]:
    """FLOP/s of the fastest square product of each type, by wall and by processor seconds."""
    best = {name: {"wall": 0.0, "processor": 0.0} for name in TYPES}
    for size in sizes:
        for name, dtype in TYPES.items():
            one, other = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
            torch.mm(one, other)
            for _ in range(rounds):
                wall, processor = time.perf_counter(), time.process_time()
                torch.mm(one, other)
                seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
                for per, taken in seconds.items():
                    best[name][per] = max(best[name][per], 2 * size**3 / taken)
    return best


def run(job: Job, sizes: tuple[int, ...]) -> tuple[dict[str, dict[str, float]], Timing]:
    """The machine's rates, then a run of training."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return product_rates(sizes), common.run_loop(job)


def main() -> None:
    arguments = common.parser(__doc__, pairs=5, steps=8).parse_args()
    job = common.job_of(arguments)
    sizes = (64, 128) if arguments.smoke else SIZES
    chosen = common.precision_of(job)
    fp32 = replace(job, precision="fp32")
    pairs = common.interleaved(partial(run, fp32, sizes), partial(run, replace(job, precision=chosen), sizes), arguments)
    results: dict[str, Any] = {"precision_of_auto": chosen}
    for side, name in enumerate(("fp32", "auto")):
        runs = [pair[side] for pair in pairs]
        results[name] = {per: _fractions(runs, per) for per in ("wall", "processor")}
    common.report("flop_rate", arguments, job, results)


def _fractions(runs: list[tuple[dict[str, dict[str, float]], Timing]], per: str) -> dict[str, Any]:
    giga = {name: float(np.median([rates[name][per] for rates, _ in runs])) / 1e9 for name in TYPES}
    training = [timing.rate("flops", per) for _, timing in runs]
    result: dict[str, Any] = {
        "training_gflops": round(float(np.median(training)) / 1e9, 1),
        "product_gflops": {name: round(value, 1) for name, value in giga.items()},
    }
    for name in TYPES:
        ratios = [np.array([rate / rates[name][per]]) for rate, (rates, _) in zip(training, runs)]
        result[f"fraction_of_{name}"] = common.median_with_interval(ratios)
    return result


if __name__ == "__main__":
    main()
