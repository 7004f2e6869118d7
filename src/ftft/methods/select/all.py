"""Learn from every example: plain fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ftft.dynamics.choosing import by_id
from ftft.dynamics.table import Dynamics
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of


@dataclass(frozen=True)
class All:
    """Every example once, in ascending order of the ids."""

    needs: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "empirical risk minimisation (ERM)"

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None = None, *, seed: int = 0) -> Selection:
        """All N examples; ``dynamics`` and ``seed`` play no part. Raises UserError for evaluation data."""
        pool = Pool.of(examples, None, seed=seed)
        return pool.selection(rule_of(self, "all"), [Ranking(None, np.zeros(len(pool)))], [by_id(pool.ids)])
