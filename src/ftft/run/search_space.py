"""What a stage's search varies, and what its recipe may say of it."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftft.engine.settings import Range
from ftft.errors import UserError, did_you_mean
from ftft.methods.registry import header, validate_section
from ftft.run.recipe import Recipe, Stage
from ftft.validation import check

if TYPE_CHECKING:
    from ftft.tasks.contract import Task

QUESTIONS = ("adapt", "objective", "optimize")  # what a trial of a few steps can tell something of


def complete_search(stage: Stage, task: Task, where: str) -> Stage:
    """The stage with its search's metric, and the ranges that its methods declare where the recipe names none."""
    if stage.search is None:
        return stage
    search = stage.search
    if search.metric is None:
        search = dataclasses.replace(search, metric=task.steering[0])
    if not search.space:
        search = dataclasses.replace(search, space=declared(stage, where))
    return dataclasses.replace(stage, search=search)


def declared(stage: Stage, where: str) -> dict[str, Range]:
    """The ranges that the stage's methods declare (``searched``), of the settings that its methods have."""
    found: dict[str, Range] = {}
    for question in QUESTIONS:
        method = header(question, getattr(stage, question)["name"], f"{where}.{question}")
        for path, given in method.searched.items():
            if _has(stage, path):
                found[path] = check(dict(given), Range, f"{where}.search.space.{path}")
    return found


def applied(stage: Stage, values: Mapping[str, float], where: str) -> Stage:
    """The stage with searched settings in the place of its own; UserError for a value that its method refuses."""
    changed: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        question, name = path.split(".")
        section = changed.setdefault(question, dict(getattr(stage, question)))
        section[name] = value
    checked: dict[str, Any] = {name: validate_section(name, section, f"{where}.{name}") for name, section in changed.items()}
    return dataclasses.replace(stage, **checked)


def settings_of(stage: Stage, drawn: Mapping[str, float]) -> dict[str, float]:
    """What numbers drawn from the ranges mean, to six digits, so that they can be typed."""
    assert stage.search is not None
    found = {}
    for path, value in drawn.items():
        question, name = path.split(".")
        factor = float(getattr(stage, question)[name]) if stage.search.space[path].times else 1.0
        found[path] = float(f"{factor * value:.6g}")
    return found


def check_search(stage: Stage, task: Task, validation_sets: Sequence[str], others: Sequence[str], where: str) -> None:
    """UserError for a search that cannot work. ``others``: the names of the sets that may not steer."""
    search = stage.search
    if search is None:
        return
    if search.metric not in task.steering:
        hint = did_you_mean(str(search.metric), task.steering)
        raise UserError(f'{where}.search.metric: {task.name} has no score "{search.metric}" to steer by{hint}')
    if not search.on:
        raise UserError(f"{where}.search.on: name the validation sets that decide ({', '.join(validation_sets)})")
    for place, name in enumerate(search.on):
        if name in search.on[:place]:
            raise UserError(f'{where}.search.on names "{name}" twice; name each set once')
        if name not in validation_sets:
            what = "is a test set, and test sets are only reported" if name in others else "is no evaluation set"
            raise UserError(f'{where}.search.on: "{name}" {what}; search on a validation set ({", ".join(validation_sets)})')
    if not search.space:
        raise UserError(
            f"{where}.search.space: no method of the stage says what to search; name settings with their ranges, as "
            "optimize.learning_rate: {low: 1.0e-6, high: 1.0e-3}"
        )
    for path, between in search.space.items():
        _check_range(stage, path, between, where)


def _check_range(stage: Stage, path: str, between: Range, where: str) -> None:
    place = f"{where}.search.space.{path}"
    if not _has(stage, path):
        question, _, name = path.partition(".")
        if question not in QUESTIONS or not name:
            raise UserError(f'{place}: "{path}" is no setting to search; give it as optimize.learning_rate')
        method = header(question, getattr(stage, question)["name"])
        raise UserError(
            f'{place}: {method.name} has no number "{name}" to search{did_you_mean(name, _numbers(stage, question))}'
        )
    if not between.low < between.high:
        raise UserError(f"{place}: low {between.low:g} is not below high {between.high:g}")
    if between.scale == "log" and between.low <= 0:
        raise UserError(f"{place}: a log scale needs a low above 0, not {between.low:g}; give another, or scale: linear")
    if between.times and not settings_of(stage, {path: 1.0})[path] > 0:
        raise UserError(f"{place}: times multiplies what the recipe says, and that is not above 0; leave times out")
    for end in (between.low, between.high):
        applied(stage, settings_of(stage, {path: end}), where)


def _has(stage: Stage, path: str) -> bool:
    question, _, name = path.partition(".")
    return question in QUESTIONS and name in _numbers(stage, question)


def _numbers(stage: Stage, question: str) -> list[str]:
    """The settings of a method that are numbers with fractions."""
    return [one.name for one in header(question, getattr(stage, question)["name"]).settings if one.kind is float]


def require_sampler(recipe: Recipe) -> None:
    """UserError where a stage's search draws with a library that is not installed."""
    for name, stage in recipe.stages.items():
        if stage.search is not None and stage.search.sampler == "tpe" and importlib.util.find_spec("optuna") is None:
            raise UserError(
                f'stages.{name}.search.sampler: tpe is optuna\'s, which is not installed; pip install "ftft[search]", or set '
                "sampler: random"
            )
