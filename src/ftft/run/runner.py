"""Run a recipe from its data to its result: the stages in order, the evaluation, the bill, the report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ftft.data.examples import Examples, LoadedData
from ftft.data.loading import load_data
from ftft.engine.provenance import provenance
from ftft.files import FolderLock, atomic_path, fingerprint, read_json, write_json, write_text
from ftft.methods import registry
from ftft.models.headers import inspect
from ftft.models.known import contamination
from ftft.models.loading import load_saved
from ftft.paths import expand
from ftft.run.costs import estimate_erm_flops, upstream, whole_cost
from ftft.run.evaluating import Evaluation, evaluate
from ftft.run.reading import recipe_to_dict, recipe_to_yaml
from ftft.run.recipe import Recipe
from ftft.run.stages import FinishedStage, StageRun
from ftft.run.store import Store
from ftft.tasks.contract import Task
from ftft.tracking.events import EventLog

RESULT_VERSION = 1

Notify = Callable[[dict[str, Any]], None]


def run_folder(recipe: Recipe) -> Path:
    """The folder that gets this run's files."""
    return expand(recipe.output, "output") / (recipe.name or "run")


def run_store(recipe: Recipe) -> Store:
    """Where finished stages are kept."""
    root = expand(recipe.store, "store") if recipe.store else expand(recipe.output, "output") / ".store"
    return Store(root)


def result_stage(recipe: Recipe) -> str:
    """The stage whose model is the run's result: ``main`` as named, else the last that is not the baseline."""
    if recipe.main is not None:
        return recipe.main
    others = [name for name in recipe.stages if name != recipe.baseline]
    return (others or list(recipe.stages))[-1]


def run_recipe(recipe: Recipe, *, notify: Notify = lambda event: None) -> Path:
    """Run what is not finished yet and write the result; returns the run's folder.

    Raises UserError for anything the user can mend, and Interrupted after Ctrl-C (a checkpoint has been saved).
    """
    folder = run_folder(recipe)
    with FolderLock(folder):
        write_text(folder / "recipe.yaml", recipe_to_yaml(recipe))
        events = EventLog(folder / "events.jsonl")
        started = time.perf_counter()

        def tell(event: dict[str, Any]) -> None:
            if event["event"] != "step":
                events.write(event["event"], {key: value for key, value in event.items() if key != "event"})
            notify(event)

        warnings: list[str] = []

        def warn(sentence: str) -> None:
            warnings.append(sentence)
            tell({"event": "warning", "text": sentence})

        tell({"event": "start", "recipe": recipe.name})
        data = load_data(recipe.data, progress=lambda text: tell({"event": "data", "text": text}))
        write_groups(folder / "groups.parquet", data.train)
        for sentence in [*data.warnings, *_contamination(recipe)]:
            warn(sentence)
        result = _Run(recipe, data, folder, tell, warn).result(warnings)
        result["wall_seconds"] = time.perf_counter() - started
        write_json(folder / "result.json", result, kind="result", version=RESULT_VERSION)
        tell({"event": "finished", "folder": str(folder)})
    return folder


def write_groups(path: Path, train: Examples) -> None:
    """The group of every training row as Parquet, columns ``id`` and ``group``, for the report; no file where the data
    have none (one of an earlier run is removed)."""
    if train.groups is None:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"id": train.ids, "group": train.groups}), temporary, compression="zstd")


def _contamination(recipe: Recipe) -> list[str]:
    found: list[str] = []
    for name, stage in recipe.stages.items():
        header = inspect(stage.model, f"stages.{name}.model")
        for set_name, file in recipe.data.evaluation.items():
            found += [sentence for sentence in contamination(header, file, set_name) if sentence not in found]
    return found


class _Run:
    """One run in progress."""

    def __init__(self, recipe: Recipe, data: LoadedData, folder: Path, tell: Notify, warn: Callable[[str], None]) -> None:
        self.recipe, self.data, self.folder, self.tell, self.warn = recipe, data, folder, tell, warn
        self.task: Task = registry.build_task(recipe.task)
        self.store = run_store(recipe)
        self.stages: dict[str, FinishedStage] = {}
        self.evaluations: dict[str, Evaluation] = {}

    def result(self, warnings: list[str]) -> dict[str, Any]:
        for name in self.recipe.stages:
            stage = StageRun(self.recipe, name, self.data, self.task, self.store, self.stages, self.tell, self.warn).run()
            self.stages[name] = stage
            self.evaluations[name] = self._evaluate(stage)
            self.tell(
                {"event": "evaluated", "stage": name, "sets": _headline(self.evaluations[name]), "cost": self._cost(name)}
            )
        main = result_stage(self.recipe)
        copy_folder(self.stages[main].model_folder, self.folder / "model")
        for name, stage in self.stages.items():
            if stage.dynamics_path is not None:
                copy_file(stage.dynamics_path, self.folder / "stages" / name / "dynamics.parquet")
            for file in ("selection.parquet", "selection.parquet.json"):
                copy_file(stage.folder / file, self.folder / "stages" / name / file)
        recipe = recipe_to_dict(self.recipe)
        return {
            "name": self.recipe.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "recipe": recipe,
            "recipe_hash": fingerprint(recipe),
            "seed": self.recipe.seed,
            "main": main,
            "baseline": self.recipe.baseline,
            "provenance": provenance(),
            "data": self._data_summary(),
            "stages": {name: self._stage_summary(name) for name in self.stages},
            "warnings": warnings,
            "stamps": self._stamps(),
        }

    def _evaluate(self, stage: FinishedStage) -> Evaluation:
        def load() -> tuple[Any, Any, Any]:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            model, tokenizer = load_saved(stage.model_folder)
            return model.to(device), tokenizer, stage.summary["precision"]

        return evaluate(
            stage.folder / "predictions",
            self.data,
            self.task,
            self.recipe.stages[stage.name].evaluate,
            where=f"stages.{stage.name}.evaluate",
            seed=self.recipe.seed,
            load_model=load,
            notify=lambda event: self.tell({"stage": stage.name, **event}),
        )

    def _erm_flops(self, name: str) -> tuple[float | None, str]:
        """(training FLOPs of plain fine-tuning, how they are known)."""
        baseline = self.recipe.baseline
        if baseline is not None:
            if baseline not in self.stages:
                return None, "not yet"
            return self.stages[baseline].ledger.total().flops, f"measured: stage {baseline}"
        stage = self.recipe.stages[name]
        if stage.use_dynamics_of is None and len(self.data.train) == self.stages[name].summary["selection"]["examples"]:
            return self.stages[name].ledger.total().flops, "this stage is plain fine-tuning"
        shapes = self.stages[name].summary["flops_by_shape"]
        lengths = self._padded_lengths(name)
        return estimate_erm_flops(shapes, lengths, stage.train, self.recipe.seed), "estimated from this stage's counted batches"

    def _padded_lengths(self, name: str) -> np.ndarray:
        _, tokenizer = load_saved(self.stages[name].model_folder)
        lengths = self.task.prepare(self.data.train, tokenizer).lengths
        return ((lengths + 7) // 8 * 8).astype(np.int32)

    def _cost(self, name: str) -> dict[str, Any]:
        ledgers = {other: stage.ledger for other, stage in self.stages.items()}
        total = whole_cost(ledgers, self.recipe.stages, name)
        erm, source = self._erm_flops(name)
        return {
            "ledger": total.to_json(),
            "flops": total.total().flops,
            "seconds": total.total().seconds,
            "erm_flops": erm,
            "erm_source": source,
            "fraction_of_erm": total.fraction_of(erm) if erm else None,
            "uses": upstream(self.recipe.stages, name),
            "reused": [other for other in [*upstream(self.recipe.stages, name), name] if self.stages[other].reused],
        }

    def _stage_summary(self, name: str) -> dict[str, Any]:
        stage, evaluation = self.stages[name], self.evaluations[name]
        summary = {key: value for key, value in stage.summary.items() if key != "flops_by_shape"}
        return {
            "key": stage.key,
            "reused": stage.reused,
            **summary,
            "dynamics": f"stages/{name}/dynamics.parquet" if stage.dynamics_path else None,
            "ledger": stage.ledger.to_json(),
            "cost": self._cost(name),
            "reporting_ledger": evaluation.ledger.to_json(),
            "evaluation": evaluation.sets,
        }

    def _data_summary(self) -> dict[str, Any]:
        train = self.data.train
        counts = np.bincount(train.labels, minlength=len(train.label_names))
        sets = {
            name: {"role": one.role, "split": one.split, "n": len(one.examples), "fingerprint": one.examples.fingerprint}
            for name, one in self.data.evaluation.items()
        }
        return {
            "label_names": list(train.label_names),
            "train": {
                "n": len(train),
                "fingerprint": train.fingerprint,
                "classes": {label: int(count) for label, count in zip(train.label_names, counts)},
            },
            "evaluation": sets,
        }

    def _stamps(self) -> list[str]:
        """What a reader of the figures must know."""
        stamps = []
        for name, stage in self.stages.items():
            steering = [one for one, role in stage.summary["steered_by"].items() if role == "ood"]
            if steering:
                stamps.append(f"stage {name} was steered by out-of-distribution validation data: {', '.join(steering)}")
            if stage.summary["resume_differences"]:
                stamps.append(
                    f"stage {name} was resumed under other conditions: {'; '.join(stage.summary['resume_differences'])}"
                )
        return stamps


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    return {
        name: {
            "role": one["role"],
            "accuracy": one["metrics"]["accuracy"]["value"],
            "macro_f1": one["metrics"]["macro_f1"]["value"],
        }
        for name, one in evaluation.sets.items()
    }


def copy_file(source: Path, target: Path) -> None:
    """Link (or, across file systems, copy) a finished file of the store into the run's folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder's files. Copies, not links: a user who edits the model in place must not edit the store."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        temporary = target / f".{path.name}.tmp"
        shutil.copyfile(path, temporary)
        os.replace(temporary, target / path.name)


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished run; UserError where there is none."""
    return read_json(folder / "result.json", kind="result", version=RESULT_VERSION)
