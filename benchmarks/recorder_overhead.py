"""What recording the training dynamics online adds to a step, as a ratio of interleaved runs with and without it.

    python benchmarks/recorder_overhead.py [--pairs 9] [--steps 60] [--threads N] [--out FILE]

In our loop, and attached to ``transformers.Trainer``. Both runs of a pair start from the same weights and take the same
batches (a fixed width of 32 tokens, 32 examples). Step i with the recorder is divided by step i without; a pair's ratio is
the median over its steps, the result the median over the pairs. Target: at most 1.01.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
from common import Job, Timing


def compare(work: Any, job: Job, arguments: Namespace) -> dict[str, Any]:
    """The ratio of seconds with the recorder to seconds without, and whether the losses are the same to the last bit."""
    timings: list[tuple[Timing, Timing]] = common.interleaved(
        partial(work, replace(job, recorded=True)), partial(work, replace(job, recorded=False)), arguments
    )
    return {
        "wall": common.median_with_interval([one.wall / other.wall for one, other in timings]),
        "processor_time": common.median_with_interval([one.processor / other.processor for one, other in timings]),
        "processor_ms_with": round(1000 * float(np.median([one.processor for one, _ in timings])), 2),
        "processor_ms_without": round(1000 * float(np.median([other.processor for _, other in timings])), 2),
        "losses_identical": all(one.losses == other.losses for one, other in timings),
    }


def main() -> None:
    arguments = common.parser(__doc__, pairs=9, steps=60).parse_args()
    job = replace(common.job_of(arguments), precision="fp32", tokens=32)
    results = {
        "loop": compare(common.run_loop, job, arguments),
        "trainer": compare(partial(common.run_trainer, defaults=True), job, arguments),
    }
    common.report("recorder_overhead", arguments, job, results)


if __name__ == "__main__":
    main()
