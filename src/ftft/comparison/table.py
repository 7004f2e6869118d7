"""The comparison as one document: every figure with its interval, against the baseline, with its whole price."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ftft.comparison.cells import Cell, CellFolder
from ftft.comparison.costs import baseline_flops, row_costs, searches_of
from ftft.comparison.grid import ROLES, Grid
from ftft.comparison.measuring import Measures
from ftft.comparison.metrics import shown_metrics
from ftft.comparison.model_figures import measured_means
from ftft.comparison.planning import Plan, RowState
from ftft.comparison.robustness import ErmLine, fit_line
from ftft.comparison.statistics import Estimate, holm
from ftft.comparison.suite import METRICS, Contrast, Suite
from ftft.run.comparing import SetRole, averaged
from ftft.tasks.metrics import LOWER_IS_BETTER

VERSION = 1
ENOUGH_SEEDS = 10


def make_table(suite: Suite, plan: Plan, folder: CellFolder, measures: Measures | None = None) -> dict[str, Any]:
    """The table document (see docs/comparison.md) of the finished cells. Raises UserError for a damaged cell."""
    measures, metrics = measures or Measures(folder, suite.resamples), shown_metrics(suite)
    grids = {task: _grid(suite, plan, task, measures) for task in suite.tasks}
    failed = sum(len(state.failed) for state in plan.rows.values())
    return {
        "name": suite.name,
        "kind": suite.kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": suite.level,
        "label": _label(suite),
        "toy": suite.toy,
        "baseline": suite.baseline,
        "metrics": metrics,
        "headline": suite.headline,
        "tasks": {task: _task(suite, plan, task, grid, metrics) for task, grid in grids.items()},
        "contrasts": _contrasts(suite, grids),
        "explorations": [],
        "opened": None,
        "cells": {"finished": plan.finished, "pending": len(plan.ready) + plan.blocked, "failed": failed},
    }


def _label(suite: Suite) -> str | None:
    """What restricts every figure of the table; None where nothing does."""
    count = len(suite.seeds)
    limits = [f"direction only: {count} seed{'s' if count > 1 else ''}"] if count < ENOUGH_SEEDS else []
    limits += ["a toy: mechanism at most"] if suite.toy else []
    return ", ".join(limits) or None


def _grid(suite: Suite, plan: Plan, task: str, measures: Measures) -> Grid:
    cells = {row: plan.rows[task, row].cells for row in suite.rows}
    sets = _sets(cells)
    # What a row's settings were searched on is no measure of it beside rows that never saw it.
    as_roles = [
        SetRole(name, one["role"], one["split"], one["seen"] or one.get("development", False)) for name, one in sets.items()
    ]
    return Grid(suite, cells, measures, {role: averaged(as_roles, role) for role in ROLES})


def _sets(cells: Mapping[str, Mapping[int, Cell]]) -> dict[str, dict[str, Any]]:
    """What is known of the sets of a task; one that any row's model has seen is seen, and one that any row was searched on is
    for development."""
    found: dict[str, dict[str, Any]] = {}
    for of_row in cells.values():
        for cell in of_row.values():
            for name, one in cell.sets.items():
                known = found.setdefault(
                    name,
                    {"role": one["role"], "split": one["split"], "n": one["n"], "seen": False}
                    | {"uncertain_over": one["figures"]["bootstrap"]["over"]},
                )
                known["seen"] = known["seen"] or one["seen"]
                if one.get("development"):
                    known["development"] = True
    return found


def _task(suite: Suite, plan: Plan, task: str, grid: Grid, metrics: list[str]) -> dict[str, Any]:
    sets = _sets(grid.cells)
    unit = baseline_flops(grid.cells[suite.baseline])
    line = fit_line(grid, suite.line)
    rows = {row: _row(suite, plan.rows[task, row], row, grid, metrics, list(sets), line, unit) for row in suite.rows}
    searches = searches_of([plan.rows[task, row] for row in suite.rows])
    return {
        "sets": [{"name": name, **one} for name, one in sets.items()],
        "rows": rows,
        "line": None if line is None else line.to_json(),
        "searches": {"flops": searches, "fraction": searches / unit if unit else None},
    }


def _row(
    suite: Suite,
    state: RowState,
    row: str,
    grid: Grid,
    metrics: list[str],
    sets: list[str],
    line: ErmLine | None,
    unit: float | None,
) -> dict[str, Any]:
    cells = grid.cells[row]
    finished = bool(cells)
    places = [*sets, *(role for role in ROLES if grid.roles[role])]
    estimates = {on: {metric: _plain(grid.estimate(row, on, metric)) for metric in metrics} for on in places if finished}
    versus = None
    if row != suite.baseline:
        differences = {
            on: {metric: _difference(grid.difference(row, suite.baseline, on, metric)) for metric in metrics} for on in places
        }
        versus = {
            "sets": {name: differences[name] for name in sets},
            "means": {role: differences.get(role) for role in ROLES},
        }
    any_cell = next(iter(cells.values()), None)
    peaks = [cell.document["peak_memory_bytes"] for cell in cells.values() if cell.document["peak_memory_bytes"]]
    return {
        "about": suite.rows[row].about,
        "seeds": list(cells),
        "pending": state.waiting,
        "failed": [{"seed": seed, "why": why} for seed, why in state.failed.items()],
        "learning_rate": _search(suite, state),
        "sets": {name: estimates[name] for name in sets} if finished else {},
        "means": {
            role: {"sets": grid.roles[role], **estimates[role]} if finished and grid.roles[role] else None for role in ROLES
        },
        "versus": versus,
        "measured": measured_means(list(cells.values())),
        "cost": row_costs(suite, state, row, grid.cells, unit),
        "trainable_parameters": None if any_cell is None else any_cell.document["trainable_parameters"],
        "parameters": None if any_cell is None else any_cell.document["parameters"],
        "peak_memory_bytes": max(peaks, default=None),
        "adapter_bytes": None if any_cell is None else any_cell.document["adapter_bytes"],
        "steps": [cell.document["training"]["steps"] for cell in cells.values()],
        "class_prior": _prior(cells),
        "effective_robustness": None
        if line is None or not finished
        else _plain(line.effective_robustness(grid, row, level=suite.level)),
    }


def _search(suite: Suite, state: RowState) -> dict[str, Any] | None:
    if state.found is None or suite.search is None:
        return None
    curve = [
        {"learning_rate": value, "scores": [_number(score) for score in scores], "value": _number(float(np.mean(scores)))}
        for value, scores in state.found.curve
    ]
    steering = [
        name
        for cell in list(state.trials.values())[:1]
        for name, one in cell.sets.items()
        if one["role"] == "id" and one["split"] == "validation"
    ]
    found = state.found
    return {
        "chosen": found.chosen,
        "interior": found.interior,
        "metric": suite.search.metric,
        "on": steering,
        "curve": curve,
    }


def _prior(cells: Mapping[int, Cell]) -> dict[str, float] | None:
    """The class shares of what `main` learnt from, a mean over seeds; None where it learnt from everything."""
    shares = [cell.document["class_prior"] for cell in cells.values()]
    chosen = [one["selected"] for one in shares if one is not None and one["selected"] != one["training"]]
    if not chosen:
        return None
    return {label: float(np.mean([one[label] for one in chosen])) for label in chosen[0]}


def _contrasts(suite: Suite, grids: Mapping[str, Grid]) -> list[dict[str, Any]]:
    asked = []
    for contrast in suite.contrasts:
        for task in contrast.tasks or list(suite.tasks):
            if grids[task].answers(contrast.on):
                asked.append((task, contrast, _asked(grids[task], contrast, suite.level)))
    corrected = holm([p for _, _, (_, p) in asked])
    return [
        {
            "task": task,
            "row": contrast.row,
            "against": contrast.against,
            "on": contrast.on,
            "metric": contrast.metric,
            "kind": "different" if contrast.no_worse_by is None else "no worse",
            "margin": contrast.no_worse_by,
            "difference": _plain(difference),
            "ranking": _ranking(grids[task], contrast),
            "p": _number(p),
            "p_holm": _number(p_holm),
            "holds": bool(p_holm < 1 - suite.level),
        }
        for (task, contrast, (difference, p)), p_holm in zip(asked, corrected)
    ]


def _asked(grid: Grid, contrast: Contrast, level: float) -> tuple[Estimate | None, float]:
    difference = grid.difference(contrast.row, contrast.against, contrast.on, contrast.metric)
    if difference is None:
        return None, math.nan
    if contrast.no_worse_by is None:
        return difference, difference.p
    if contrast.metric in LOWER_IS_BETTER:  # no worse is not higher by the margin
        difference_down = replace(difference, value=-difference.value)
        return difference, difference_down.one_sided_p(-contrast.no_worse_by, level)
    return difference, difference.one_sided_p(-contrast.no_worse_by, level)


def _ranking(grid: Grid, contrast: Contrast) -> dict[str, float | None] | None:
    """What the AUROC, which no class prior moves, says of the same two rows; None for a contrast of the AUROC itself,
    and where there are no classes."""
    if contrast.metric == "auroc" or contrast.metric not in METRICS:
        return None
    return _plain(grid.difference(contrast.row, contrast.against, contrast.on, "auroc"))


def _plain(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {"value": None, "low": None, "high": None}
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _difference(estimate: Estimate | None) -> dict[str, Any]:
    return {**_plain(estimate), "sign": "0" if estimate is None else estimate.sign}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
