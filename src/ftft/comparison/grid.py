"""A task's finished cells as a grid of rows x seeds, and the statistics that a table asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftft.comparison.cells import Cell
from ftft.comparison.measuring import Measures
from ftft.comparison.statistics import Estimate, crossed
from ftft.comparison.suite import Suite

ROLES = ("id", "ood", "forget")


@dataclass(frozen=True)
class Grid:
    """A task's finished cells and how to measure them."""

    suite: Suite
    cells: Mapping[str, Mapping[int, Cell]]  # row -> seed -> cell
    measures: Measures
    roles: Mapping[str, list[str]]  # role -> the sets its mean is over

    def statistic(self, row: str, seed: int, on: str, metric: str) -> np.ndarray:
        """float64 [1 + R] of a row's cell on a set, or on the mean over a role's sets; NaN for a metric of other tasks."""
        cell = self.cells[row][seed]
        names = self.roles[on] if on in ROLES else [on]
        unknown = np.full(1 + self.measures.resamples, np.nan)
        return np.mean([self.measures.of(cell, name).get(metric, unknown) for name in names], axis=0)

    def estimate(self, row: str, on: str, metric: str) -> Estimate | None:
        """The mean over the row's finished seeds; None where there is none."""
        return self._over(list(self.cells[row]), lambda seed: self.statistic(row, seed, on, metric))

    def difference(self, row: str, against: str, on: str, metric: str) -> Estimate | None:
        """The mean difference over the seeds that both rows have finished; None where there is none."""
        common = [seed for seed in self.cells[row] if seed in self.cells[against]]
        return self._over(
            common, lambda seed: self.statistic(row, seed, on, metric) - self.statistic(against, seed, on, metric)
        )

    def _over(self, seeds: Sequence[int], statistic: Callable[[int], np.ndarray]) -> Estimate | None:
        if not seeds:
            return None
        columns = np.stack([statistic(seed) for seed in seeds], axis=1)
        return crossed(columns[0], columns[1:], level=self.suite.level)

    def answers(self, on: str) -> bool:
        """Whether ``on`` names a set of this task or a role that has one."""
        return bool(self.roles.get(on)) or any(on in cell.sets for cells in self.cells.values() for cell in cells.values())
