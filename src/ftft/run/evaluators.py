"""The evaluators of a stage: one that measures predictions, set by set, and those that look at the model as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftft.methods import registry
from ftft.methods.questions import OF_MODELS
from ftft.run.recipe import Section, Stage, evaluators

if TYPE_CHECKING:
    from ftft.tasks.contract import Task


def looks_at_models(section: Mapping[str, Any]) -> bool:
    """Whether an evaluator is asked once a model, and not once a set."""
    return bool(set(registry.header("evaluate", section["name"]).needs) & set(OF_MODELS))


def with_predictions_measured(stage: Stage, task: Task) -> Section | list[Section]:
    """The stage's evaluators as written, with the task's own after them where none of them measures predictions; settings
    without a name are those of the task's own."""
    given = evaluators(stage)
    if not isinstance(stage.evaluate, list) and "name" not in stage.evaluate:
        return {"name": task.evaluator, **stage.evaluate}
    named = [section for section in given if isinstance(section.get("name"), str)]  # what has no name is refused later
    if given and len(named) == len(given) and all(looks_at_models(section) for section in given):
        return [*given, {"name": task.evaluator}]  # at the end: what is wrong with the others is said by their places
    return stage.evaluate


def of_predictions(stage: Stage) -> Section:
    """The stage's evaluator of predictions."""
    return next(section for section in evaluators(stage) if not looks_at_models(section))


def of_models(stage: Stage) -> list[Section]:
    """The stage's evaluators that look at the model."""
    return [section for section in evaluators(stage) if looks_at_models(section)]
