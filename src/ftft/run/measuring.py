"""What is measured of a finished model beyond its predictions on each set: evaluators that look at weights, or at the model
as it was before training. What they gave is kept in the stage's folder, so that nothing is computed twice."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftft.engine.ledger import Ledger
from ftft.engine.precision import weights_in
from ftft.engine.processes import ALONE, Processes
from ftft.errors import UserError
from ftft.files import fingerprint
from ftft.methods import registry
from ftft.models.loading import LoadedModel, load_model, load_saved
from ftft.run.evaluating import Ready, ready
from ftft.run.evaluators import of_models
from ftft.run.recipe import Stage
from ftft.run.store import StageFolder
from ftft.state.manifest import read_guarded, write_manifest
from ftft.tasks.contract import Task
from ftft.tasks.metrics import merge_probabilities, normalise

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import EvaluationSet, LoadedData

VERSION = 1


@dataclass
class StageModel:
    """Implements :class:`ftft.methods.contract.Measured` for a finished stage of a recipe. ``own`` and ``before``:
    probabilities float64 [N, C] over the model's classes by set, of the model and of what it was."""

    stage: Stage
    task: Task
    seed: int
    data: LoadedData
    kept: StageFolder
    precision: str
    own: Mapping[str, np.ndarray]
    before: Mapping[str, np.ndarray]

    @property
    def sets(self) -> Mapping[str, EvaluationSet]:
        return self.data.evaluation

    def model(self) -> torch.nn.Module:
        """The model in the stage's folder."""
        return load_saved(self.kept.path("model"), self.task.model)[0]

    def base(self) -> torch.nn.Module:
        """The model the stage began with, loaded as it was then."""
        return _base(self.stage, self.task, self.data, self.seed, self.precision).model

    def probabilities(self, name: str) -> np.ndarray:
        return self.own[name]

    def base_probabilities(self, name: str) -> np.ndarray:
        merge = self.sets[name].merge
        values = self.before[name]
        return normalise(values if merge is None else merge_probabilities(values, merge))


# Predicts with a model on evaluation sets: (folder, data, task, load, notify, processes) -> probabilities by set, their cost.
Predict = Callable[..., tuple[dict[str, np.ndarray], Ledger]]


def measure(
    stage: Stage,
    folder: StageFolder,
    data: LoadedData,
    task: Task,
    probabilities: Mapping[str, np.ndarray],
    predict: Predict,
    *,
    seed: int,
    stage_seed: int,
    precision: Any,
    notify: Callable[[dict[str, Any]], None],
    processes: Processes = ALONE,
) -> tuple[dict[str, Mapping[str, Any]], Ledger]:
    """The figures of every evaluator that looks at the model, by name, and what they cost. ``folder``: the finished stage's,
    locked. ``probabilities``: of its model, on each set's own classes. All processes together."""
    found, ledger = {}, Ledger()
    for section in of_models(stage):
        name = section["name"]
        asked = {"section": section, "seed": seed, "sets": _described(data)}
        path = folder.measured / f"{name}-{fingerprint(asked)[:20]}.json"
        kept = processes.once(lambda: _kept(path))  # noqa: B023 - called at once
        if kept is None:
            method = registry.build("evaluate", section, "evaluate")
            before: dict[str, np.ndarray] = {}
            cost = Ledger()
            if "base_predictions" in method.needs:
                before, cost = _before(stage, folder, data, task, predict, stage_seed, precision, notify, processes)
            view = StageModel(stage, task, stage_seed, data, folder, precision, probabilities, before)
            kept = processes.once(lambda: _measured(path, method, view, seed, cost))  # noqa: B023 - called at once
        found[name], spent = kept
        ledger = ledger.merge(Ledger.from_json(spent))
    return found, ledger


def _measured(path: Path, method: Any, view: StageModel, seed: int, cost: Ledger) -> tuple[Mapping[str, Any], dict[str, Any]]:
    started = time.perf_counter()
    figures = method.evaluate(view, seed=seed)
    cost.add("evaluation", seconds=time.perf_counter() - started)
    write_manifest(path, {"figures": dict(figures), "ledger": cost.to_json()}, kind="measured", version=VERSION)
    kept = _kept(path)
    assert kept is not None
    return kept


def _kept(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]] | None:
    """What was measured before; None where nothing was, or where its file is damaged."""
    try:
        document = read_guarded(path, kind="measured", version=VERSION)
        return document["figures"], document["ledger"]
    except (UserError, KeyError):
        return None


def _before(
    stage: Stage,
    folder: StageFolder,
    data: LoadedData,
    task: Task,
    predict: Predict,
    seed: int,
    precision: Any,
    notify: Callable[[dict[str, Any]], None],
    processes: Processes,
) -> tuple[dict[str, np.ndarray], Ledger]:
    """What the model said before training of the sets that hold earlier knowledge."""
    earlier = {name: one for name, one in data.evaluation.items() if one.role == "forget"}

    def load() -> Ready:
        loaded = _base(stage, task, data, seed, precision, require_head=True)
        return ready(loaded.model, loaded.processor, precision)

    reduced = dataclasses.replace(data, evaluation=earlier)
    return predict(folder.predictions_before, reduced, task, load, notify, processes)


def _base(stage: Stage, task: Task, data: LoadedData, seed: int, precision: str, *, require_head: bool = False) -> LoadedModel:
    """The model a stage begins with, in the precision it was trained in."""
    names, dtype = data.train.label_names, weights_in(precision)
    return load_model(stage.model, task.model, names, seed=seed, dtype=dtype, require_head=require_head)


def _described(data: LoadedData) -> dict[str, Any]:
    return {name: [one.examples.fingerprint, one.role, one.merge] for name, one in data.evaluation.items()}
