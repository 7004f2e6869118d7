"""Early stopping: end training after ``patience`` evaluations in a row that did not beat the best one.

FTFT's rule (arXiv 2310.06588, section on early stopping, patience 2). The paper leaves ties open; here an equal score is
no improvement, so the earliest of equally good checkpoints is the best one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ftft.engine.settings import StopSettings
from ftft.errors import UserError
from ftft.tasks.metrics import LOWER_IS_BETTER


class EarlyStopping:
    """Follows the scores of one stage. Scores are passed as measured: ``higher_is_better`` follows from the metric.

    ``best_step`` and ``best_score``: the best evaluation so far, None before the first defined score. ``waited``:
    evaluations since then. ``stopped``: whether patience has run out.
    """

    def __init__(self, settings: StopSettings) -> None:
        """UserError for a patience below 1 or a negative minimum_improvement."""
        if settings.patience < 1:
            raise UserError(
                f"stop.patience is {settings.patience}; it must be 1 or more (without `stop`, training runs to the end)"
            )
        if not settings.minimum_improvement >= 0.0:
            raise UserError(f"stop.minimum_improvement is {settings.minimum_improvement}; it must be 0 or more")
        self.settings = settings
        self.higher_is_better = settings.metric not in LOWER_IS_BETTER
        self.best_step: int | None = None
        self.best_score: float | None = None
        self.waited = 0
        self.last_step: int | None = None

    @property
    def stopped(self) -> bool:
        return self.waited >= self.settings.patience

    def improves(self, score: float | None) -> bool:
        """Whether ``score`` beats the best by more than ``minimum_improvement``; an undefined one (None, NaN, infinite)
        never does, and the first defined one always does."""
        if score is None or not math.isfinite(score):
            return False
        if self.best_score is None:
            return True
        return self.goodness(score) - self.goodness(self.best_score) > self.settings.minimum_improvement

    def goodness(self, score: float) -> float:
        """The score turned so that higher is better, as :class:`ftft.methods.contract.Checkpoint` wants it."""
        return score if self.higher_is_better else -score

    def update(self, step: int, score: float | None) -> bool:
        """Take the evaluation after optimizer step ``step``; True where training should stop now.

        ValueError where steps do not rise: an evaluation counted twice would use up patience.
        """
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"step {step} was evaluated after step {self.last_step}")
        self.last_step = step
        if self.improves(score):
            assert score is not None
            self.best_step, self.best_score, self.waited = step, float(score), 0
        else:
            self.waited += 1
        return self.stopped

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "format_version": 1,
            "metric": self.settings.metric,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "waited": self.waited,
            "last_step": self.last_step,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`; ValueError where it followed another metric or is of a newer format."""
        if state["format_version"] != 1 or state["metric"] != self.settings.metric:
            raise ValueError(f"this stopping state follows {state['metric']} in format {state['format_version']}")
        self.best_step, self.best_score = state["best_step"], state["best_score"]
        self.waited, self.last_step = int(state["waited"]), state["last_step"]
