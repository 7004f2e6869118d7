"""InfoBatch: skip some of the examples that are learned well, and weigh the others of them up; no reference model.

Before epoch e, with l_i the last loss that training saw of example i, and m the mean of these losses:

    i is left out with probability r         where l_i < m
    i is kept, its loss times 1 / (1 - r)    where l_i < m and it was not left out
    i is kept as it is                       elsewhere, and where no loss is known yet

so that the expected sum of the gradients is that over all examples. In the last ``1 - delta`` of the training every example
is learned from, which takes the variance out of the end.

Qin et al. 2024, arXiv 2303.04947 (the paper's H is the loss). The released code leaves out a fixed number,
``int((1 - r) * n)`` kept of n, and still weighs by 1 / (1 - r), which is off by the rounding; we flip a coin for each example
as the paper writes. Both keep the last loss of an example that was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ftft.dynamics.choosing import by_id
from ftft.dynamics.table import Dynamics
from ftft.methods.contract import Choice, Sampler, Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.settings import setting


@dataclass(frozen=True)
class InfoBatch:
    """Leave out a share of the examples whose loss is below the mean, anew for every epoch, without bias."""

    needs: ClassVar[tuple[str, ...]] = ("losses",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Qin et al. 2024, arXiv 2303.04947"

    prune: float = setting(
        0.5,
        "probability r with which an example below the mean loss is left out of an epoch",
        origin="Qin et al. 2024",
        ge=0,
        lt=1,
    )
    delta: float = setting(
        0.875, "share of the training after which nothing is left out any more", origin="Qin et al. 2024", ge=0, le=1
    )

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None = None, *, seed: int = 0) -> Sampler:
        """The sampler over all N examples, in ascending order of the ids. Raises UserError for evaluation data."""
        pool = Pool.of(examples, None, seed=seed)
        rule = rule_of(self, "infobatch", seed=seed)
        every = pool.selection(rule, [Ranking(None, np.zeros(len(pool)))], [by_id(pool.ids)])
        return _Pruning(self, every, seed)


class _Pruning:
    """``losses``: float64 [N], the last loss seen of each example; infinite where none was."""

    def __init__(self, settings: InfoBatch, selection: Selection, seed: int) -> None:
        self.settings, self.selection, self.seed = settings, selection, seed
        self.losses = np.full(len(selection), np.inf)

    def choose(self, epoch: int, progress: float) -> Choice:
        """The examples of the epoch, in the selection's order."""
        n, prune = len(self.losses), self.settings.prune
        known = np.isfinite(self.losses)
        # A share of epochs is a binary fraction; 7 of 8 must not fall short of 0.875.
        if progress >= self.settings.delta - 1e-9 or not known.any():
            return Choice(np.arange(n))
        learned = self.losses < self.losses[known].mean()
        drawn = np.random.default_rng([self.seed, epoch, 0x1F0B]).random(n)
        kept = np.flatnonzero(~(learned & (drawn < prune)))
        return Choice(kept, np.where(learned[kept], 1.0 / (1.0 - prune), 1.0))

    def observe(self, positions: np.ndarray, losses: np.ndarray) -> None:
        self.losses[positions] = losses

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.losses = np.array(state["losses"], dtype=np.float64)
