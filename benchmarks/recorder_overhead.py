"""What recording the training dynamics online adds to a step: seconds with the recorder over seconds without.

    python benchmarks/recorder_overhead.py [--pairs 9] [--steps 10] [--threads N] [--out FILE]

In our loop, and attached to ``transformers.Trainer``. Both sides start from the same weights and take the same batches (32
examples of 32 tokens), in turns. Step i with the recorder is divided by step i without; a pair of turns gives the median
over its steps, the result is the median over the pairs. Target: at most 1.01.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import common
import numpy as np
from common import Job, Timing


def compare(work: Callable[[Job, common.Turn], Timing], job: Job, arguments: Namespace) -> dict[str, Any]:
    """The ratio of seconds with the recorder to seconds without, and whether the losses are the same to the last bit."""
    on, off = common.side_by_side(
        partial(work, replace(job, recorded=True)), partial(work, replace(job, recorded=False)), arguments
    )
    return {
        "wall": common.median_with_interval(list(on.wall / off.wall)),
        "processor_time": common.median_with_interval(list(on.processor / off.processor)),
        "processor_ms_with": round(1000 * float(np.median(on.processor)), 2),
        "processor_ms_without": round(1000 * float(np.median(off.processor)), 2),
        "losses_identical": on.losses == off.losses,
    }


def main() -> None:
    arguments = common.parser(__doc__, pairs=9, steps=10).parse_args()
    job = replace(common.job_of(arguments), tokens=32)
    results = {
        "loop": compare(common.run_loop, job, arguments),
        "trainer": compare(partial(common.run_trainer, defaults=True), job, arguments),
    }
    common.report("recorder_overhead", arguments, job, results)


if __name__ == "__main__":
    main()
