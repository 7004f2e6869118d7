"""Effective robustness: how far a model lies above the line on which plain fine-tuning trades ID for OOD accuracy.

The line is fitted by least squares on logit axes through ERM models of different quality (trained on subsamples, or
shorter), where the two accuracies are close to linear: logit(ood) = slope logit(id) + intercept. Taori et al. 2020
(section 2); Miller et al. 2021 for the axes. A model's effective robustness is its OOD accuracy minus the line's at its
ID accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from ftft.comparison.grid import Grid
from ftft.comparison.statistics import Estimate, crossed

METRIC = "accuracy"
EDGE = 1e-4  # accuracies of 0 and 1 have no finite logit
FEWEST = 2  # distinct ID accuracies a line needs


@dataclass(frozen=True)
class ErmLine:
    """The fitted line and the models it was fitted to."""

    slope: float
    intercept: float
    rows: list[str]
    points: list[dict[str, Any]]

    def expected(self, accuracy: np.ndarray) -> np.ndarray:
        """The OOD accuracy of plain fine-tuning at an ID accuracy, elementwise."""
        return np.asarray(expit(self.slope * _logit(accuracy) + self.intercept))

    def effective_robustness(self, grid: Grid, row: str, *, level: float) -> Estimate:
        """A row's, mean over its seeds; the interval is that of seeds and examples, the line held as it is."""
        columns = []
        for seed in grid.cells[row]:
            found = {role: grid.statistic(row, seed, role, METRIC) for role in ("id", "ood")}
            columns.append(found["ood"] - self.expected(found["id"]))
        stacked = np.stack(columns, axis=1)
        return crossed(stacked[0], stacked[1:], level=level)

    def to_json(self) -> dict[str, Any]:
        """Slope, intercept and points, for the plot."""
        return {
            "metric": METRIC,
            "slope": self.slope,
            "intercept": self.intercept,
            "rows": self.rows,
            "points": self.points,
        }


def fit_line(grid: Grid, rows: Sequence[str]) -> ErmLine | None:
    """The line through the finished cells of ``rows``; None where there are no sets of both roles, or too few cells."""
    if not (grid.roles["id"] and grid.roles["ood"]):
        return None
    points = [
        {
            "row": row,
            "seed": seed,
            "id": float(grid.statistic(row, seed, "id", METRIC)[0]),
            "ood": float(grid.statistic(row, seed, "ood", METRIC)[0]),
        }
        for row in rows
        for seed in grid.cells[row]
    ]
    x, y = (_logit(np.array([point[role] for point in points])) for role in ("id", "ood"))
    if len(np.unique(x)) < FEWEST:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return ErmLine(float(slope), float(intercept), list(rows), points)


def _logit(accuracy: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(accuracy, EDGE, 1 - EDGE)))
