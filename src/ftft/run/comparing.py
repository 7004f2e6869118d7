"""What the evaluation sets together say: means over the sets of a role, and every stage against the baseline, paired.

All stages are measured on the same resamples of each set (:func:`ftft.tasks.intervals.paired_draws`), so that the interval
of a difference is that of the difference, not of two models that happened to be drawn apart. The sets of a mean are
resampled independently. An OOD set that a model of the run has seen, or that settings were searched on, is in no OOD mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftft.data.examples import EvaluationSet
from ftft.tasks import intervals
from ftft.tasks.contract import Task, quantities_of

MEANS = ("id", "ood")


@dataclass(frozen=True)
class SetRole:
    """What an evaluation set is to the means: ``seen`` says that a model of the run was trained on it, or settings searched."""

    name: str
    role: str
    split: str
    seen: bool = False


def averaged(sets: Iterable[SetRole], role: str) -> list[str]:
    """The sets that the mean of a role is over: its test sets, or where there is none its validation sets; of OOD sets
    only those that no model of the run has seen."""
    own = [one for one in sets if one.role == role and not (role == "ood" and one.seen)]
    return [one.name for one in own if one.split == "test"] or [one.name for one in own]


def compare(
    sets: Mapping[str, EvaluationSet],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    task: Task,
    *,
    baseline: str | None,
    seen: Iterable[str],
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """For each stage of ``predictions`` (stage -> set -> classes int [N]; of a task whose rows have none, what it predicts
    [N, K]) the entries ``means`` and ``versus_baseline``.

    ``means``: role -> {"sets", and the task's ``compared`` scores such as "accuracy", "macro_f1"}, None for a role without a
    set. ``versus_baseline``: the stage minus the baseline, per set and for the means; None for the baseline itself and without
    one. Every figure is {"value", "low", "high"}; without resamples the limits are NaN.
    """
    stages, compared = list(predictions), quantities_of(task).compared
    draws = {
        name: _draws(one, [predictions[stage][name] for stage in stages], task, resamples, seed) for name, one in sets.items()
    }
    left_out = set(seen)
    roles = [SetRole(name, one.role, one.split, name in left_out) for name, one in sets.items()]
    over = {role: averaged(roles, role) for role in MEANS}
    means = {role: _mean(draws, names, compared) for role, names in over.items() if names}
    against = stages.index(baseline) if baseline in stages else None

    def figures(found: Mapping[str, np.ndarray], column: int, minus: int | None = None) -> dict[str, Any]:
        columns = {name: found[name][:, column] - (0.0 if minus is None else found[name][:, minus]) for name in compared}
        return {name: intervals.interval_of(values, level) for name, values in columns.items()}

    result: dict[str, dict[str, Any]] = {}
    for column, stage in enumerate(stages):
        own = {role: {"sets": over[role], **figures(means[role], column)} if role in means else None for role in MEANS}
        versus = None
        if against is not None and column != against:
            versus = {
                "baseline": baseline,
                "sets": {name: figures(draws[name], column, against) for name in sets},
                "means": {
                    role: {"sets": over[role], **figures(means[role], column, against)} if role in means else None
                    for role in MEANS
                },
                "bootstrap": {"resamples": resamples, "level": level, "paired": True},
            }
        result[stage] = {"means": own, "versus_baseline": versus}
    return result


def _draws(one: EvaluationSet, predicted: Sequence[np.ndarray], task: Task, resamples: int, seed: int) -> dict[str, np.ndarray]:
    labels, own = one.examples.labels, intervals.seed_for(seed, one.name)
    clusters = None if one.examples.clusters is None else intervals.codes(one.examples.clusters)
    if task.inputs.labelled:
        return intervals.paired_draws(labels, np.stack(predicted), clusters=clusters, resamples=resamples, seed=own)
    return intervals.paired_measures(
        lambda values, counts: task.measure(labels, values, counts),
        predicted,
        clusters=clusters,
        resamples=resamples,
        seed=own,
    )


def _mean(
    draws: Mapping[str, Mapping[str, np.ndarray]], names: Sequence[str], compared: Sequence[str]
) -> dict[str, np.ndarray]:
    return {metric: intervals.mean_of_sets([draws[name][metric] for name in names]) for metric in compared}
