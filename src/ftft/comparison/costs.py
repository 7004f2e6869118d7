"""What a row costs as a fraction of the baseline: charged in full, with shared stages amortised, and its search beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ftft.comparison.cells import Cell
from ftft.comparison.planning import RowState
from ftft.comparison.statistics import crossed
from ftft.comparison.suite import Suite


def baseline_flops(cells: Mapping[int, Cell]) -> float | None:
    """The mean cost of the baseline's finished cells, the unit of what is not tied to a seed; None without one."""
    return float(np.mean([cell.flops for cell in cells.values()])) if cells else None


def row_costs(
    suite: Suite, state: RowState, row: str, cells: Mapping[str, Mapping[int, Cell]], unit: float | None
) -> dict[str, Any]:
    """``charged``: everything the row spent, its reference included, against the baseline of the same seed.

    ``amortised``: a stage that several of the task's cells use is shared between them, and so is what made examples that
    several learn from. ``searches``: what the trials cost beyond the row's own stages, in units of the baseline. ``parts``:
    ``charged`` by phase, mean over seeds. Intervals are over seeds; with one seed there are none.
    """
    own, erm = cells[row], cells[suite.baseline]
    common = [seed for seed in own if seed in erm]
    used = Counter(key for of_row in cells.values() for cell in of_row.values() for key in _spent(cell))
    search = searches_of([state])
    return {
        "charged": _over_seeds([own[seed].flops / erm[seed].flops for seed in common], suite.level),
        "amortised": _over_seeds(
            [sum(flops / used[key] for key, flops in _spent(own[seed]).items()) / erm[seed].flops for seed in common],
            suite.level,
        ),
        "searches": search / unit if unit else None,
        "flops": float(np.mean([cell.flops for cell in own.values()])) if own else None,
        "parts": _parts([(own[seed], erm[seed].flops) for seed in common]),
    }


def searches_of(states: Iterable[RowState]) -> float:
    """FLOPs of all stages that trials trained and no final cell of the same row uses, each stage once."""
    spent: dict[str, int] = {}
    for state in states:
        final = {key for cell in state.cells.values() for key in _spent(cell)}
        for cell in state.trials.values():
            spent.update({key: flops for key, flops in _spent(cell).items() if key not in final})
    return float(sum(spent.values()))


def _spent(cell: Cell) -> dict[str, int]:
    """Key -> FLOPs of everything that the cell's row paid for, each once: its stages, and apart from them what their examples
    were made with, which several of them may share."""
    spent: dict[str, int] = {}
    for stage in cell.document["cost"]["stages"].values():
        made = stage.get("creation", {"key": None, "flops": 0})
        spent[stage["key"]] = int(stage["flops"]) - int(made["flops"])
        if made["key"] is not None:
            spent[made["key"]] = int(made["flops"])
    return spent


def _parts(pairs: list[tuple[Cell, int]]) -> dict[str, float]:
    parts: dict[str, float] = {}
    for cell, unit in pairs:
        for phase, flops in cell.document["cost"]["phases"].items():
            parts[phase] = parts.get(phase, 0.0) + flops / unit / len(pairs)
    return parts


def _over_seeds(values: list[float], level: float) -> dict[str, float | None]:
    if not values:
        return {"value": None, "low": None, "high": None}
    if len(values) == 1:
        return {"value": values[0], "low": None, "high": None}
    found = crossed(np.array(values), np.empty((0, len(values))), level=level)
    return {"value": found.value, "low": max(0.0, found.low), "high": found.high}  # no cost is below nothing
