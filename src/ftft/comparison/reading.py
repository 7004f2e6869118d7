"""A suite from its YAML file, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftft.comparison.metrics import with_metrics
from ftft.comparison.suite import Suite, needed_by
from ftft.errors import UserError, did_you_mean
from ftft.run.yaml_reading import read_yaml_file
from ftft.validation import check

_NAME = re.compile(r"[\w-]+", re.ASCII)


def read_suite(path: Path | str) -> Suite:
    """Read and check a suite. A relative recipe means the file in the suite's folder if there is one; a row may be
    written as the path of a YAML file that holds it. Metrics that the suite leaves open are those of its tasks. Raises
    UserError, also for what is wrong in any row's recipe."""
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
    return with_metrics(suite)


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
    for number, contrast in enumerate(suite.contrasts):
        where = f"contrasts.{number}"
        _known(contrast.row, suite, f"{where}.row")
        _known(contrast.against, suite, f"{where}.against")
        for task in contrast.tasks or ():
            if task not in suite.tasks:
                raise UserError(f'{where}.tasks: there is no task "{task}"{did_you_mean(task, suite.tasks)}')


def _known(row: str, suite: Suite, where: str) -> None:
    if row not in suite.rows:
        raise UserError(f'{where}: there is no row "{row}"{did_you_mean(row, suite.rows)}')
