"""The learning rate as a function of the step: a linear rise from 0, then linear or cosine decay to 0, or constant.

With S planned steps and w = ceil(warmup * S) warm-up steps, step t (from 0) runs at the base rate times

    t / w                                    for t < w
    (S - t) / (S - w)                        linear
    0.5 * (1 + cos(pi * (t - w) / (S - w)))  cosine
    1                                        constant

which are the schedules of ``transformers.get_scheduler`` at the same step numbers.
"""

from __future__ import annotations

import math
from typing import Literal


def warmup_steps(steps: int, warmup: float) -> int:
    """Warm-up steps for a share of the planned steps, rounded up as ``transformers.TrainingArguments`` does."""
    return math.ceil(steps * warmup)


def rate_factor(step: float, *, steps: int, warmup: int, schedule: Literal["linear", "cosine", "constant"]) -> float:
    """What the base learning rate is multiplied with at ``step`` (from 0; between two where a sampler changes the length of an
    epoch) of ``steps``."""
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return max(0.0, (steps - step) / max(1, steps - warmup))
    progress = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def ending_step(steps: int, end_at: float | None) -> int:
    """The step after which training ends: a share of the planned ones, at least one; all where no share is given."""
    return steps if end_at is None else max(1, round(end_at * steps))
