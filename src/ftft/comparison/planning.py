"""What is to be computed next, as a pure function of the suite and the cells that are finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftft.comparison.cells import Cell, cell_key
from ftft.comparison.making import cell_recipe, searched_value
from ftft.comparison.suite import Search, Suite, needed_by
from ftft.errors import UserError
from ftft.run.recipe import Recipe
from ftft.tasks.metrics import LOWER_IS_BETTER


@dataclass(frozen=True)
class Work:
    """A cell that can be computed now."""

    key: str
    task: str
    row: str
    seed: int
    recipe: Recipe
    value: float | None  # of the searched setting
    trial: bool

    @property
    def title(self) -> str:
        """A short name for progress lines."""
        value = "" if self.value is None or not self.trial else f", {self.value:.2g}"
        return f"{self.task} / {self.row} / seed {self.seed}{value}{' (trial)' if self.trial else ''}"


@dataclass(frozen=True)
class Found:
    """The outcome of a row's search: ``curve`` holds for each value the score of every trial seed (NaN: failed)."""

    chosen: float
    interior: bool
    curve: list[tuple[float, list[float]]]


@dataclass
class RowState:
    """How far a row has come on a task. ``found`` is None while the search runs, and where there is none."""

    found: Found | None = None
    value: float | None = None  # of the searched setting in the final cells; None leaves the row's own
    searched: bool = False  # whether the final cells may be made
    cells: dict[int, Cell] = field(default_factory=dict)  # seed -> finished cell
    trials: dict[str, Cell] = field(default_factory=dict)  # key -> finished cell of a trial, whatever it is also used for
    failed: dict[int, str] = field(default_factory=dict)  # seed -> why
    waiting: list[int] = field(default_factory=list)  # seeds to come


@dataclass
class Plan:
    """``ready``: what can be computed now, in order. ``rows``: (task, row) -> state. ``blocked``: cells that wait for
    others, at least (a search may still grow). ``used``: key -> finished cell, and its recipe with the paths of here."""

    ready: list[Work]
    rows: dict[tuple[str, str], RowState]
    blocked: int
    used: dict[str, tuple[Cell, Recipe]]

    @property
    def finished(self) -> int:
        """Cells that are finished, trials and the rows' own."""
        return len(self.used)


def make_plan(suite: Suite, cells: Mapping[str, Cell], failures: Mapping[str, str]) -> Plan:
    """Where the suite stands. ``failures``: key -> why, of cells that are not to be tried now."""
    planner = _Planner(suite, cells, failures)
    for task in suite.tasks:
        for row in suite.rows:
            planner.visit(task, row)
    return Plan(list(planner.ready.values()), planner.rows, planner.blocked, planner.used)


class _Planner:
    def __init__(self, suite: Suite, cells: Mapping[str, Cell], failures: Mapping[str, str]) -> None:
        self.suite, self.cells, self.failures = suite, cells, failures
        self.ready: dict[str, Work] = {}
        self.rows: dict[tuple[str, str], RowState] = {}
        self.used: dict[str, tuple[Cell, Recipe]] = {}
        self.blocked = 0

    def visit(self, task: str, row: str) -> RowState:
        """The state of a row, those it needs before it."""
        known = self.rows.get((task, row))
        if known is not None:
            return known
        for other in needed_by(self.suite, row):
            self.visit(task, other)
        state = self.rows[task, row] = RowState()
        settings = self.suite.rows[row]
        search = self.suite.search if settings.search and settings.value_of is None else None
        if search is None and settings.value_of is not None and self.suite.search is not None:
            source = self.visit(task, settings.value_of)
            state.searched, state.value = source.searched, source.value
        elif search is None:
            state.searched = True
        else:
            self._search(state, search, task, row)
        for seed in self.suite.seeds:
            self._final(state, task, row, seed)
        return state

    def _final(self, state: RowState, task: str, row: str, seed: int) -> None:
        if not state.searched:
            state.waiting.append(seed)
            self.blocked += 1
            return
        outcome = self._cell(task, row, seed, state.value, trial=False)
        if isinstance(outcome, Cell):
            state.cells[seed] = outcome
        elif outcome is None:
            state.waiting.append(seed)
        else:
            state.failed[seed] = outcome

    def _search(self, state: RowState, search: Search, task: str, row: str) -> None:
        """Start with a centred grid; while the best value is at its edge, put one more beyond it."""
        centre = searched_value(self.suite, task, row)
        lowest, highest = -(search.points // 2), (search.points - 1) // 2
        seeds = search.seeds or self.suite.seeds[:1]
        while True:
            curve, complete = [], True
            for exponent in range(lowest, highest + 1):
                value = _rounded(centre * search.factor**exponent)
                scores = []
                for seed in seeds:
                    outcome = self._cell(task, row, seed, value, trial=True)
                    if isinstance(outcome, Cell):
                        state.trials[outcome.key] = outcome
                    complete = complete and outcome is not None
                    scores.append(outcome.score(search.metric) if isinstance(outcome, Cell) else math.nan)
                curve.append((value, scores))
            if not complete:
                return
            turned = -1.0 if search.metric in LOWER_IS_BETTER else 1.0
            means = [_mean([turned * score for score in scores]) for _, scores in curve]
            best = max(range(len(means)), key=lambda index: means[index])
            interior = 0 < best < len(curve) - 1
            if means[best] == -math.inf:  # every value failed: the final cells would too, and say why
                interior = True
            if interior or len(curve) >= search.at_most:
                state.found, state.searched = Found(curve[best][0], interior and means[best] > -math.inf, curve), True
                state.value = state.found.chosen
                return
            lowest, highest = (lowest - 1, highest) if best == 0 else (lowest, highest + 1)

    def _cell(self, task: str, row: str, seed: int, value: float | None, *, trial: bool) -> Cell | str | None:
        """The finished cell, why it failed, or None where it is to be computed (now, or when others are finished)."""
        recipe = self._recipe(task, row, seed, value, trial)
        if isinstance(recipe, str):
            return recipe
        if recipe is None:
            self.blocked += 1
            return None
        key = cell_key(recipe, task)
        if key in self.cells:
            self.used[key] = (self.cells[key], recipe)
            return self.cells[key]
        if key in self.failures:
            return self.failures[key]
        self.ready.setdefault(key, Work(key, task, row, seed, recipe, value, trial))
        return None

    def _recipe(self, task: str, row: str, seed: int, value: float | None, trial: bool) -> Recipe | str | None:
        """None where a row that this one needs is not finished under the seed, a sentence where it failed or where nothing can
        be made from it."""
        needed: dict[str, Any] = {}
        for other in needed_by(self.suite, row):
            found = self._needed(task, other, seed)
            if not isinstance(found, Cell):
                return None if found is None else f"row {other}, which it needs, failed: {found}"
            needed[other] = found
        try:
            return cell_recipe(self.suite, task, row, seed, value=value, trial=trial, finished=needed.__getitem__)
        except UserError as error:
            if not needed:
                raise
            return str(error)  # what others found makes this row impossible, and no other

    def _needed(self, task: str, row: str, seed: int) -> Cell | str | None:
        state = self.visit(task, row)
        if seed in self.suite.seeds:
            return state.cells.get(seed) or state.failed.get(seed)
        if not state.searched:  # a trial under a seed of its own
            return None
        return self._cell(task, row, seed, state.value, trial=False)


def _mean(scores: list[float]) -> float:
    """The mean over trial seeds; a value that failed under any of them is worse than all others."""
    return -math.inf if any(math.isnan(score) for score in scores) else sum(scores) / len(scores)


def _rounded(value: float) -> float:
    """Three significant digits: a value that can be typed, and the same on every machine."""
    return float(f"{value:.3g}")
