"""What recording the training dynamics online adds to a step: seconds with the recorder over seconds without.

    python benchmarks/recorder_overhead.py [--pairs 9] [--steps 10] [--threads N] [--out FILE]

In our loop the recorder is switched on and off from step to step of one run (on, off, off, on), so that both sides have the
same memory and caches, and the time within the recorder's own calls is noted beside the ratio; attached to
``transformers.Trainer``, two processes take turns of steps. All batches are of 32 examples of 32 tokens. A step with the
recorder is divided by one without; a pair of turns gives the median over its steps, the result is the median over the pairs.
``losses_identical``: a run with the recorder and one without have the same losses to the last bit. Target: at most 1.01.
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
from taking_turns import Turn, side_by_side


def compare(work: Callable[[Job, Turn], Timing], job: Job, arguments: Namespace) -> dict[str, Any]:
    """The ratio of seconds with the recorder to seconds without, and whether the losses are the same to the last bit."""
    on, off = side_by_side(partial(work, replace(job, recorded=True)), partial(work, replace(job, recorded=False)), arguments)
    return {
        "wall": common.median_with_interval(list(on.wall / off.wall)),
        "processor_time": common.median_with_interval(list(on.processor / off.processor)),
        "processor_ms_with": round(1000 * float(np.median(on.processor)), 2),
        "processor_ms_without": round(1000 * float(np.median(off.processor)), 2),
        "losses_identical": on.losses == off.losses,
    }


def alternate(job: Job) -> dict[str, Any]:
    """The same of our loop, in one run whose steps are recorded in turn, and the share of a recorded step that is spent in
    the recorder's own calls. One process is cheap: it makes eight times the steps that two processes are compared by."""
    long = replace(job, turns=4 * job.turns, steps=2 * (job.steps + job.steps % 2))
    is_on = np.array([step % 4 in (0, 3) for step in range(long.steps)])
    timing = common.run_loop(
        replace(long, recorded=True),
        lambda: None,
        recording=lambda step: bool(is_on[(step - long.warmup) % long.steps]),
    )
    assert timing.inside is not None
    share = timing.inside[:, is_on] / timing.wall[:, is_on]
    losses = [common.run_loop(replace(job, recorded=recorded, turns=1), lambda: None).losses for recorded in (True, False)]
    return {
        "wall": common.median_with_interval(list(timing.wall[:, is_on] / timing.wall[:, ~is_on])),
        "processor_time": common.median_with_interval(list(timing.processor[:, is_on] / timing.processor[:, ~is_on])),
        "processor_ms_with": round(1000 * float(np.median(timing.processor[:, is_on])), 2),
        "processor_ms_without": round(1000 * float(np.median(timing.processor[:, ~is_on])), 2),
        "share_inside_the_recorder": {"median": round(float(np.median(share)), 7), "largest": round(float(share.max()), 7)},
        "losses_identical": losses[0] == losses[1],
    }


def main() -> None:
    arguments = common.parser(__doc__, pairs=9, steps=12).parse_args()
    job = replace(common.job_of(arguments), tokens=32)
    results = {
        "loop": alternate(job),
        "trainer": compare(partial(common.run_trainer, defaults=True), job, arguments),
    }
    common.report("recorder_overhead", arguments, job, results)


if __name__ == "__main__":
    main()
