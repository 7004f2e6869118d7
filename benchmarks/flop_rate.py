"""How much of the processor's matrix rate training reaches: counted FLOPs of our steps per second over measured products.

    python benchmarks/flop_rate.py [--pairs 5] [--steps 6] [--threads N] [--out FILE]

The rate of the machine is its fastest product of square matrices (512, 1024, 2048) in float32 and in bfloat16, measured
right before each turn of training, in the same process. A turn's rate is the counted FLOPs of its steps (matrix products
of the forward and the backward pass; padding included, since it is computed) over their seconds, everything else a step
does included in the seconds. Given as a fraction of both rates, for float32 and for the precision that ``auto`` means here.
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
from taking_turns import Turn, side_by_side

from ftft.engine.precision import resolve

SIZES = (512, 1024, 2048)
Rates = dict[str, dict[str, float]]  # of products in each type: FLOP/s by wall and by processor seconds
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def product_rates(sizes: tuple[int, ...], rounds: int = 3) -> Rates:
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


def run(job: Job, sizes: tuple[int, ...], turn: Turn) -> tuple[list[Rates], Timing]:
    """The machine's rates at the start of every turn, and the training's steps."""
    rates: list[Rates] = []

    def measured_turn() -> None:
        turn()
        rates.append(product_rates(sizes))

    timing = common.run_loop(job, measured_turn)
    return rates, timing


def main() -> None:
    arguments = common.parser(__doc__, pairs=5, steps=6).parse_args()
    fp32 = common.job_of(arguments)
    auto = replace(fp32, precision=resolve("auto", common.CPU))
    sizes = (64, 128) if arguments.smoke else SIZES
    results: dict[str, Any] = {"precision_of_auto": auto.precision}
    runs = side_by_side(partial(run, fp32, sizes), partial(run, auto, sizes), arguments)
    for name, (rates, timing) in zip(("fp32", "auto"), runs):
        results[name] = {per: _fractions(rates, timing, per) for per in ("wall", "processor")}
    common.report("flop_rate", arguments, fp32, results)


def _fractions(rates: list[Rates], timing: Timing, per: str) -> dict[str, Any]:
    training = timing.rates("flops", per)
    result: dict[str, Any] = {"training_gflops": round(float(np.median(training)) / 1e9, 1)}
    for name in TYPES:
        products = np.array([one[name][per] for one in rates])
        result[f"{name}_product_gflops"] = round(float(np.median(products)) / 1e9, 1)
        result[f"fraction_of_{name}"] = common.median_with_interval(list((training / products)[:, None]))
    return result


if __name__ == "__main__":
    main()
