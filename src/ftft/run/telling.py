"""What a result tells beyond the figures of each stage: means and differences to the baseline and why they came about, the
data, and what a reader must know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftft.data.examples import EvaluationSet, LoadedData
from ftft.dynamics.parquet import open_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.selection import read_selection
from ftft.paths import expand
from ftft.run.comparing import compare
from ftft.run.costs import given_dynamics
from ftft.run.diagnosing import class_prior, diagnose_map
from ftft.run.evaluating import Evaluation
from ftft.run.evaluators import of_predictions
from ftft.run.finished import FinishedStage
from ftft.run.portable import portable_path
from ftft.run.recipe import Recipe
from ftft.run.searching import found_by_search
from ftft.tasks.contract import Task

USED_DYNAMICS = "dynamics_used.parquet"


def tell_more(
    recipe: Recipe,
    data: LoadedData,
    stages: Mapping[str, FinishedStage],
    evaluations: Mapping[str, Evaluation],
    not_averaged: Collection[str],
    folder: Path,
    main: str,
) -> dict[str, dict[str, Any]]:
    """For every stage ``means`` and ``versus_baseline`` (:func:`ftft.run.comparing.compare`), where rows have classes
    ``predicted_classes`` and ``majority_class`` by set (:func:`told_of_sets`), ``class_prior`` of what it learned from, and
    for one that selected by dynamics ``dynamics_used`` and ``diagnosis`` of their data map. ``not_averaged``: the sets that are
    in no OOD mean.

    Dynamics that came from a file are copied into the run's ``folder``, so that the report can show them.
    """
    task: Task = registry.build_task(recipe.task)
    evaluator = registry.build("evaluate", of_predictions(recipe.stages[main]), f"stages.{main}.evaluate")
    compared = compare(
        data.evaluation,
        {name: one.classes if task.inputs.labelled else one.predictions for name, one in evaluations.items()},
        task,
        baseline=recipe.baseline,
        seen=not_averaged,
        resamples=int(getattr(evaluator, "resamples", 1000)),
        level=float(getattr(evaluator, "level", 0.95)),
        seed=recipe.seed,
    )
    copied: dict[str, str] = {}
    told = {}
    for name, stage in stages.items():
        of_dynamics = _of_dynamics(recipe, data, stages, folder, name, copied)
        of_sets = told_of_sets(data.evaluation, evaluations[name].classes) if task.inputs.labelled else {}
        told[name] = {**compared[name], **of_sets, "class_prior": _class_prior(stage, data), **of_dynamics}
    return told


def told_of_sets(sets: Mapping[str, EvaluationSet], predicted: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What shows a model that gives one answer to everything: ``predicted_classes`` (set -> label -> share of the examples
    it is predicted for) and ``majority_class`` (set -> the ``label`` most frequent among the gold ones, the first of
    equals, and the ``accuracy`` of always answering it).

    ``predicted``: set -> classes int [N], indices into the set's own labels.
    """
    shares, majority = {}, {}
    for name, one in sets.items():
        labels = one.examples.label_names
        n = max(1, len(one.examples))
        counts = np.bincount(predicted[name], minlength=len(labels))
        gold = np.bincount(one.examples.labels, minlength=len(labels))
        shares[name] = dict(zip(labels, (counts / n).tolist()))
        majority[name] = {"label": labels[int(gold.argmax())], "accuracy": float(gold.max() / n)}
    return {"predicted_classes": shares, "majority_class": majority}


def _class_prior(stage: FinishedStage, data: LoadedData) -> dict[str, Any] | None:
    try:
        return class_prior(read_selection(stage.folder / "selection.parquet"), data.train)
    except UserError:  # a stage whose selection is damaged is still a finished stage
        return None


def _of_dynamics(
    recipe: Recipe, data: LoadedData, stages: Mapping[str, FinishedStage], folder: Path, name: str, copied: dict[str, str]
) -> dict[str, Any]:
    """``dynamics_used`` (whose they are and where the run's folder has them) and ``diagnosis``; both None without dynamics.

    ``copied``: the sources that were copied for an earlier stage, with their file.
    """
    source, rule = recipe.stages[name].use_dynamics_of, stages[name].summary["selection"]["rule"]
    if source is None:
        return {"dynamics_used": None, "diagnosis": None}
    if source in stages:
        path = stages[source].dynamics_path
        assert path is not None, f"stage {source} recorded no dynamics although stage {name} used them"
        dynamics, file = read_dynamics(path), f"stages/{source}/dynamics.parquet"
    elif source in copied:
        dynamics, file = read_dynamics(folder / copied[source]), copied[source]
    else:
        dynamics, file = _copied(source, f"stages.{name}.use_dynamics_of", folder, f"stages/{name}/{USED_DYNAMICS}")
        copied[source] = file
    used = {"stage": source if source in stages else None, "source": portable_path(source), "file": file}
    return {"dynamics_used": used, "diagnosis": diagnose_map(dynamics, rule, data.train.ids)}


def _copied(source: str, where: str, folder: Path, file: str) -> tuple[Dynamics, str]:
    dynamics = open_dynamics(expand(source, where))
    write_dynamics(dynamics, folder / file)
    return dynamics, file


def data_summary(data: LoadedData, seen: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """What ``result.json`` says of the data; ``seen``: evaluation set -> stage -> what its model knows of it."""
    train = data.train
    counts = np.bincount(train.labels, minlength=len(train.label_names))
    sets = {
        name: {
            "role": one.role,
            "split": one.split,
            "n": len(one.examples),
            "fingerprint": one.examples.fingerprint,
            "seen_by": {stage: "; ".join(said) for stage, said in seen.get(name, {}).items()},
        }
        for name, one in data.evaluation.items()
    }
    return {
        "label_names": list(train.label_names),
        "train": {
            "n": len(train),
            "fingerprint": train.fingerprint,
            "classes": {label: int(count) for label, count in zip(train.label_names, counts)},
        },
        "evaluation": sets,
        **({"corrections": data.report["corrections"]} if "corrections" in data.report else {}),
    }


def stamps(recipe: Recipe, stages: Mapping[str, FinishedStage], data: LoadedData) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    for name, stage in stages.items():
        # By the roles of this recipe: a stage of the store may have been trained when another gave the set another role.
        steering = [one for one in stage.summary["steered_by"] if data.evaluation[one].role == "ood"]
        if steering:
            found.append(f"stage {name} was steered by out-of-distribution validation data: {', '.join(steering)}")
        if "search" in stage.summary:
            found.append(found_by_search(name, stage.summary["search"]))
        if stage.summary["resume_differences"]:
            found.append(f"stage {name} was resumed under other conditions: {'; '.join(stage.summary['resume_differences'])}")
        for source in given_dynamics(recipe.stages, name):
            found.append(f"the cost of stage {name} does not hold what recording the dynamics in {source} cost")
    return found
