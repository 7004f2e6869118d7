"""Measure any saved model on a recipe's evaluation sets, as ``ftft eval`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ftft.data.examples import LoadedData
from ftft.data.loading import load_data
from ftft.engine import precision as precisions
from ftft.errors import UserError
from ftft.files import read_json, write_json
from ftft.methods import registry
from ftft.methods.predictors import is_predictor, load_finished, predictor_models
from ftft.models.folder import MODEL_FILE
from ftft.models.headers import inspect
from ftft.models.kinds import kind_of
from ftft.models.known import contamination
from ftft.models.loading import load_model
from ftft.models.settings import ModelSettings
from ftft.run.evaluating import Ready, evaluate, ready, write_named_predictions
from ftft.run.evaluators import of_predictions
from ftft.run.portable import portable_path
from ftft.run.recipe import Recipe, Stage, result_stage
from ftft.tasks.contract import quantities_of


def evaluate_saved(
    model: Path, recipe: Recipe, *, out: Path | None = None, notify: Callable[[dict[str, Any]], None] = lambda event: None
) -> dict[str, Mapping[str, Any]]:
    """Measure any saved model on a recipe's evaluation sets; the figures by set name.

    With ``out`` the figures (``evaluation.json``) and the per-example predictions are kept there. Raises UserError for a
    model whose labels do not fit the recipe's data.
    """
    task = registry.build_task(recipe.task)
    data = load_data(recipe.data, inputs=task.inputs, progress=lambda text: notify({"event": "data", "text": text}))
    for sentence in data.warnings:
        notify({"event": "warning", "text": sentence})

    settings = ModelSettings(path=str(model))
    parts = predictor_models(model) if is_predictor(model) else [settings]
    headers = [inspect(part, kind=task.model) for part in parts]
    header = headers[0]
    known = {
        name: [said for one in headers for said in contamination(one, file, name)]
        for name, file in recipe.data.evaluation.items()
    }
    for sentence in dict.fromkeys(sentence for found in known.values() for sentence in found):
        notify({"event": "warning", "text": sentence})

    names = data.train.label_names
    own_names = header.labels or tuple(f"LABEL_{index}" for index in range(len(names)))  # a config leaves out two unnamed ones
    if kind_of(task.model).labelled and all(name.startswith("LABEL_") for name in own_names) and len(own_names) == len(names):
        said = ", ".join(f"{own} as {name}" for own, name in zip(own_names, names))
        notify({"event": "warning", "text": f"{model} does not name its classes; they are taken in order: {said}"})

    told = _told_by(model)
    stage = recipe.stages[result_stage(recipe)]
    precision = precisions.resolve(_precision_of(stage, told), precisions.device_here())

    def load() -> Ready:
        if is_predictor(model):
            return ready(*load_finished(model, task.model), precision)
        dtype = precisions.weights_in(precision) if precision == "fp64" else None  # else as it was saved
        loaded = load_model(settings, task.model, names, seed=recipe.seed, require_head=True, dtype=dtype)
        return ready(loaded.model, loaded.processor, precision)

    prior, from_model = _prior_of_saved(told, data)
    with tempfile.TemporaryDirectory() as scratch:
        # Predictions of another model must never be taken for this one's, so a given folder is not read from.
        found = evaluate(
            Path(scratch),
            data,
            task,
            of_predictions(stage),
            where="evaluate",
            seed=recipe.seed,
            training_prior=prior,
            load_model=load,
            notify=notify,
        )
        sets: dict[str, dict[str, Any]] = {name: {**one, "seen": list(known.get(name, ()))} for name, one in found.sets.items()}
        if out is not None:
            for name, path in write_named_predictions(out, found, data, quantities_of(task).predictions).items():
                sets[name]["predictions"] = path
            document: dict[str, Any] = {"model": portable_path(str(model)), "precision": precision}
            if task.inputs.labelled:
                document["training_prior"] = {
                    "of": "what the model learned from" if from_model else "the recipe's training set",
                    "shares": dict(zip(data.train.label_names, prior.tolist())),
                }
            document["sets"] = sets
            write_json(out / "evaluation.json", document, kind="evaluation")
    return dict(sets)


def _told_by(model: Path) -> Mapping[str, Any]:
    """What a saved model says of its making; nothing where it is none of ours."""
    try:
        return read_json(model / MODEL_FILE, kind="model")
    except UserError:
        return {}


def _precision_of(stage: Stage, told: Mapping[str, Any]) -> Any:
    """What a saved model is measured in: what the recipe's stage says, or else what the model was trained and measured in,
    where it tells; its figures are then those of its run, also where another precision is the faster one."""
    own, said = told.get("precision"), stage.train.precision
    return own if said == "auto" and own in get_args(precisions.Precision) else said


def _prior_of_saved(told: Mapping[str, Any], data: LoadedData) -> tuple[np.ndarray, bool]:
    """The class shares float64 [C] that a saved model learned from, and whether the model itself ``told`` them; one that does
    not is taken to have learned from the recipe's training set."""
    names = data.train.label_names
    try:
        own: Any = told.get("training_prior")
        shares = np.array([own[name] for name in names], dtype=np.float64)
        if np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0:
            return shares / shares.sum(), True
    except (KeyError, TypeError, ValueError):
        pass  # not a model of ours, or one with other labels
    return np.bincount(data.train.labels, minlength=len(names)) / max(1, len(data.train)), False
