"""The suite: which recipes are compared, on which tasks, under which seeds and learning rates. Read from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ftft.errors import UserError, did_you_mean
from ftft.run.yaml_reading import read_yaml_file
from ftft.settings import setting
from ftft.validation import check

MAIN = "main"  # the stage that every row trains in the end
METRICS = ("accuracy", "macro_f1", "auroc", "prior_corrected.accuracy", "prior_corrected.macro_f1", "ece")
OF_SEQUENCES = ("loss", "perplexity", "token_accuracy", "exact_match")  # where the headline is one of these, tables show them
Headline = Literal["accuracy", "macro_f1", "auroc", "loss", "perplexity", "token_accuracy", "exact_match"]
_NAME = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class SuiteTask:
    """A recipe that holds the data and the stages every row is made from: ``main``, and what it may use."""

    recipe: str
    change: dict[str, Any] = setting({}, "settings of the recipe to change, as key: value", factory=dict)


@dataclass(frozen=True)
class Row:
    """A way to fine-tune: changes to the task's recipe. What depends on another row's outcome is filled in from its
    finished cell of the same task and seed."""

    about: str = setting("", "one sentence on what the row is")
    like: str | None = setting(None, "another row whose changes come first")
    change: dict[str, Any] = setting({}, "settings of the task's recipe to change, as key: value", factory=dict)
    cost_of: str | None = setting(
        None, "another row: `main` gets as many steps as its whole cost pays for (per step what the row in `like` paid)"
    )
    prior_of: str | None = setting(
        None, "another row: `stages.main.select.prior` becomes the class shares of what its `main` learnt from"
    )
    search: bool = setting(True, "whether the suite's search is made for this row")
    value_of: str | None = setting(None, "another row: what its search chose is taken here, where nothing is searched")


@dataclass(frozen=True)
class Search:
    """The learning rate's grid: centred on the row's own, spaced by a factor, extended until the best is interior."""

    key: str = setting("optimize.learning_rate", "the setting of `main` that is searched")
    points: int = setting(3, "values at the start, the row's own in the middle", ge=3)
    factor: float = setting(3.0, "the ratio of neighbours", gt=1)
    at_most: int = setting(7, "values after extensions; a best one at the edge of so many is marked", ge=3)
    seeds: list[int] | None = setting(None, "seeds of the trials; by default the suite's first")
    metric: Headline = setting("macro_f1", "chosen by this on ID validation")


@dataclass(frozen=True)
class Contrast:
    """A named question, decided with a p-value; all contrasts of a suite are corrected together."""

    row: str
    against: str
    on: str = setting("ood", "`id`, `ood` or `forget` for the mean over the sets of that role, or a set's name")
    metric: str = setting("macro_f1", "what is compared")
    no_worse_by: float | None = setting(
        None, "the margin of a non-inferiority test; without it the question is whether they differ", gt=0
    )
    tasks: list[str] | None = setting(None, "the tasks it is asked on; by default all")


@dataclass(frozen=True)
class Suite:
    """A grid of cells: tasks x rows x seeds, and what is asked of it."""

    tasks: dict[str, SuiteTask]
    rows: dict[str, Row]
    seeds: list[int]
    baseline: str
    name: str | None = setting(None, "the suite's name; by default the file's")
    kind: Literal["explore", "confirm"] = setting(
        "explore", "explore: validation sets alone are evaluated; confirm: frozen rows, fresh seeds, test sets opened once"
    )
    reference_seed: int | None = setting(
        None, "one seed for every stage but `main`; by default each has that of its main run", ge=0, lt=4294967296
    )
    search: Search | None = setting(None, "how learning rates are searched; null takes those of the rows")
    contrasts: list[Contrast] = setting((), "the questions that get a p-value", factory=list)
    headline: Headline = setting("macro_f1", "the metric of the summary and the plots")
    line: list[str] = setting((), "rows (ERM on subsamples, or shorter) whose accuracies make the ERM line", factory=list)
    resamples: int = setting(500, "bootstrap resamples of each set", ge=100)
    level: float = setting(0.95, "coverage of the intervals", gt=0.5, lt=1)
    frozen: dict[str, str] = setting({}, "confirm: row -> the hash it must have (`ftft compare --freeze`)", factory=dict)
    output: str = setting("runs", "the folder that gets the runs' folders and the store")
    results: str = setting("results", "the folder that gets a folder with the suite's cells and tables")

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured: the metrics of classifiers, or those of language models where the headline is one of theirs."""
        return OF_SEQUENCES if self.headline in OF_SEQUENCES else METRICS


def read_suite(path: Path | str) -> Suite:
    """Read and check a suite. A relative recipe means the file in the suite's folder if there is one; a row may be
    written as the path of a YAML file that holds it. Raises UserError."""
    path = Path(path)
    raw = read_yaml_file(path)
    if not isinstance(raw, dict):
        raise UserError(f"the suite {path} is no mapping; it starts with keys such as tasks: and rows:")
    raw = dict(raw)
    rows = raw.get("rows")
    if isinstance(rows, Mapping):
        raw["rows"] = {name: _row(value, f"rows.{name}", path.parent) for name, value in rows.items()}
    tasks = raw.get("tasks")
    if isinstance(tasks, Mapping):
        raw["tasks"] = {name: {"recipe": value} if isinstance(value, str) else value for name, value in tasks.items()}
    suite: Suite = check(raw, Suite, "")
    suite = replace(
        suite,
        name=suite.name if suite.name is not None else path.stem,
        tasks={name: replace(task, recipe=_beside(task.recipe, path.parent)) for name, task in suite.tasks.items()},
    )
    _check(suite)
    return suite


def _row(value: Any, where: str, folder: Path) -> Any:
    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    path = Path(_beside(value, folder))
    if not path.is_file():
        raise UserError(f"{where}: there is no file {path}; a row is a mapping, or the path of a YAML file that holds one")
    return read_yaml_file(path) or {}


def _beside(path: str, folder: Path) -> str:
    beside = folder / path
    return str(beside) if not Path(path).is_absolute() and beside.exists() else path


def _check(suite: Suite) -> None:
    for kind, names in (("name", [suite.name or ""]), ("tasks", suite.tasks), ("rows", suite.rows)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise UserError(f'{kind}: the name "{name}" may hold letters, digits, _ and - only, for it names files')
    for key, known in (("tasks", suite.tasks), ("rows", suite.rows), ("seeds", suite.seeds)):
        if not known:
            raise UserError(f"{key}: there is none; a suite compares rows on tasks under seeds")
    for seed in suite.seeds:
        if not 0 <= seed < 2**32 or suite.seeds.count(seed) > 1:
            raise UserError(f"seeds: {seed} must be from 0 to 4294967295 and stand there once")
    _known(suite.baseline, suite, "baseline")
    for name in suite.line:
        _known(name, suite, "line")
    for name, row in suite.rows.items():
        for key in ("like", "cost_of", "prior_of", "value_of"):
            other = getattr(row, key)
            if other is not None:
                _known(other, suite, f"rows.{name}.{key}")
        if row.cost_of is not None and row.like is None:
            raise UserError(f"rows.{name}.cost_of needs like: the row whose cost per step is paid (for instance like: erm)")
        needed_by(suite, name)
    if suite.search is not None:
        _known_metric(suite.search.metric, suite, "search.metric")
    for number, contrast in enumerate(suite.contrasts):
        where = f"contrasts.{number}"
        _known(contrast.row, suite, f"{where}.row")
        _known(contrast.against, suite, f"{where}.against")
        _known_metric(contrast.metric, suite, f"{where}.metric")
        for task in contrast.tasks or ():
            if task not in suite.tasks:
                raise UserError(f'{where}.tasks: there is no task "{task}"{did_you_mean(task, suite.tasks)}')


def _known_metric(metric: str, suite: Suite, where: str) -> None:
    if metric not in suite.metrics:
        raise UserError(f'{where}: there is no metric "{metric}"{did_you_mean(metric, suite.metrics)}')


def _known(row: str, suite: Suite, where: str) -> None:
    if row not in suite.rows:
        raise UserError(f'{where}: there is no row "{row}"{did_you_mean(row, suite.rows)}')


def needed_by(suite: Suite, name: str) -> list[str]:
    """The rows whose finished cells a row's recipe needs, nearest last; UserError where rows need each other in a circle."""
    found: list[str] = []

    def visit(row: str, path: tuple[str, ...]) -> None:
        if row in path:
            raise UserError(f"rows.{name}: the rows {' -> '.join([*path, row])} need each other in a circle")
        settings = suite.rows[row]
        # A row like another takes only its changes; it needs its cells where it is paid by its cost per step.
        for other in (settings.like, settings.cost_of, settings.prior_of, settings.value_of):
            if other is not None:
                visit(other, (*path, row))
        cells = [settings.cost_of, settings.prior_of, settings.like if settings.cost_of else None]
        for other in cells:
            if other is not None and other not in found:
                found.append(other)

    visit(name, ())
    return found
