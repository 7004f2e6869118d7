"""Run a recipe from its data to its result: the stages in order, the evaluation, the bill, the report."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftft.data.examples import Examples, LoadedData
from ftft.data.loading import load_data
from ftft.engine.checkpoint import warn_user
from ftft.engine.processes import Processes, join_processes
from ftft.engine.provenance import provenance
from ftft.errors import UserError
from ftft.files import (
    FolderLock,
    atomic_path,
    copy_file,
    copy_folder,
    explain_os_error,
    fingerprint,
    remove_killed_writes,
    write_text,
)
from ftft.methods import registry
from ftft.methods.created import FILE as CREATED
from ftft.methods.predictors import load_finished
from ftft.methods.selection import read_selection
from ftft.paths import expand
from ftft.run.costs import ErmCost, erm_cost, given_dynamics, lengths_of, upstream, whole_cost
from ftft.run.evaluating import (
    Evaluation,
    Ready,
    evaluate,
    predictions_on_all,
    ready,
    said_of,
    sets_searched,
    sets_seen,
    write_named_predictions,
)
from ftft.run.evaluators import of_predictions
from ftft.run.finished import FinishedStage, begun_with
from ftft.run.measuring import measure
from ftft.run.other_models import require_other_models
from ftft.run.portable import portable_model, portable_path, portable_recipe, portable_sentences
from ftft.run.reading import recipe_to_yaml
from ftft.run.recipe import OneStage, Recipe
from ftft.run.recipe import result_stage as result_stage
from ftft.run.requiring import require_heads, require_methods, require_packing
from ftft.run.search_space import require_sampler
from ftft.run.selections import learned_prior, plan_selections
from ftft.run.stages import StageRun
from ftft.run.store import StageFolder, Store
from ftft.run.telling import data_summary, stamps, tell_more
from ftft.run.trainer_rows import trainer_rows
from ftft.state.manifest import read_guarded, write_manifest
from ftft.tasks.contract import Task, quantities_of
from ftft.tracking.events import EventLog

RESULT_VERSION = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Notify = Callable[[dict[str, Any]], None]


def run_folder(recipe: Recipe) -> Path:
    """The folder that gets this run's files."""
    return expand(recipe.output, "output") / (recipe.name or "run")


def run_store(recipe: Recipe, warn: Callable[[str], None] = warn_user, *, make: bool = True) -> Store:
    """Where finished stages are kept; not to be made where it is only read."""
    root = expand(recipe.store, "store") if recipe.store else expand(recipe.output, "output") / ".store"
    return Store(root, warn, make=make)


@dataclass(frozen=True)
class FinishedRun:
    """A run as it stands when its result is written: what ``result.json`` says, and what it was computed from."""

    data: LoadedData
    evaluations: Mapping[str, Evaluation]
    result: Mapping[str, Any]


def run_recipe(
    recipe: Recipe, *, notify: Notify = lambda event: None, keep: Callable[[FinishedRun], None] = lambda run: None
) -> Path:
    """Run what is not finished yet and write the result; returns the run's folder. ``keep`` is called with the finished
    run, on the first process.

    Raises UserError for anything the user can mend, a full disk included, and Interrupted after Ctrl-C (a checkpoint has
    been saved). Under torchrun or ``accelerate launch`` every process calls it; the first one tells, and writes the files.
    """
    processes = join_processes()
    folder = run_folder(recipe)
    is_new = not folder.exists()
    with processes.holding(FolderLock(folder)):
        try:
            _run_in(folder, recipe, notify, keep, processes)
        except UserError:
            if is_new and processes.is_first and [entry.name for entry in folder.iterdir()] == [FolderLock.FILE]:
                shutil.rmtree(folder, ignore_errors=True)  # refused before anything was done: as if it had not been called
            raise
        except OSError as error:
            # What we write says so itself; this is for a full disk met inside a library (a cache, a temporary file).
            if error.errno not in FULL:
                raise
            raise explain_os_error(error, error.filename or folder) from error
    return folder


def _run_in(folder: Path, recipe: Recipe, notify: Notify, keep: Callable[[FinishedRun], None], processes: Processes) -> None:
    log: list[EventLog] = []
    told: list[dict[str, Any]] = []  # before the run had begun

    def begin() -> None:
        stages = [folder / "stages" / name for name in recipe.stages]
        for place in (folder, folder / "model", *stages, *(stage / "predictions" for stage in stages)):
            remove_killed_writes(place)
        write_text(folder / "recipe.yaml", recipe_to_yaml(recipe))
        log.append(EventLog(folder / "events.jsonl"))
        for event in told:
            note(event)
        write_groups(folder / "groups.parquet", data.train)

    def note(event: dict[str, Any]) -> None:
        if event["event"] != "step":
            log[0].write(event["event"], {key: value for key, value in event.items() if key != "event"})

    def tell(event: dict[str, Any]) -> None:
        if not processes.is_first:
            return
        if log:
            note(event)
        else:
            told.append(event)
        notify(event)

    warnings: list[str] = []

    def warn(sentence: str) -> None:
        warnings.append(sentence)
        tell({"event": "warning", "text": sentence})

    started = time.perf_counter()
    tell({"event": "start", "recipe": recipe.name})
    task = registry.build_task(recipe.task)
    data = load_data(recipe.data, inputs=task.inputs, progress=lambda text: tell({"event": "data", "text": text}))
    own, said = trainer_rows(recipe, data, progress=lambda text: tell({"event": "data", "text": text}))
    plan_selections(recipe, data.train, {name: one.train for name, one in own.items()})  # refuses before anything is trained
    seen = sets_seen(recipe)
    require_heads(recipe, task, data.train.label_names)
    require_other_models(recipe, task)
    require_sampler(recipe)
    require_packing(recipe, task, data.train.label_names)
    require_methods(recipe, task, data.train.label_names)
    processes.once(begin)
    for sentence in [*data.warnings, *said, *said_of(seen, sets_searched(recipe))]:
        warn(sentence)
    run = _Run(recipe, data, own, seen, folder, tell, warn, processes)
    run.stages_in_order()

    def finish() -> None:
        result = {**run.result(warnings), "wall_seconds": time.perf_counter() - started}
        write_manifest(folder / "result.json", result, kind="result", version=RESULT_VERSION)
        keep(FinishedRun(data, run.evaluations, result))
        tell({"event": "finished", "folder": str(folder)})

    processes.once(finish)


def write_groups(path: Path, train: Examples) -> None:
    """The group of every training row as Parquet, columns ``id`` and ``group``, for the report; no file where the data
    have none (one of an earlier run is removed)."""
    if train.groups is None:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary:
        pq.write_table(
            pa.table({"id": train.ids, "group": train.groups}), temporary, compression="zstd", write_page_checksum=True
        )


class _Run:
    """One run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        data: LoadedData,
        own: Mapping[str, LoadedData],  # of stages that learn from other rows
        seen: Mapping[str, Mapping[str, Sequence[str]]],
        folder: Path,
        tell: Notify,
        warn: Callable[[str], None],
        processes: Processes,
    ) -> None:
        self.seen, self.own = seen, own
        self.not_averaged = {*seen, *sets_searched(recipe)}  # of OOD sets
        self.recipe, self.data, self.folder, self.tell, self.warn = recipe, data, folder, tell, warn
        self.processes = processes
        self.task: Task = registry.build_task(recipe.task)
        self.compared = quantities_of(self.task).compared
        self.store = processes.in_turn(lambda: run_store(recipe, warn))
        self.stages: dict[str, FinishedStage] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.measured: dict[str, dict[str, Mapping[str, Any]]] = {}  # stage -> evaluator of models -> its figures
        self.predictions: dict[str, dict[str, str]] = {}  # stage -> set -> path in the stage's folder
        self._erm: ErmCost | None = None

    def stages_in_order(self) -> None:
        """Train and evaluate the stages; all processes together."""
        for name in self.recipe.stages:
            data = self.own.get(name, self.data)
            stage = StageRun(
                self.recipe, name, data, self.task, self.store, self.stages, self.tell, self.warn, self.processes
            ).run()
            self.stages[name] = stage
            with self._locked(stage) as kept:
                self.evaluations[name] = self._evaluate(stage, kept)
                self._measure(stage, kept)
            if self.processes.is_first:
                sets, cost = _headline(self.evaluations[name], self.not_averaged, self.compared), self._cost(name)
                self.tell({"event": "evaluated", "stage": name, "metric": self.compared[0], "sets": sets, "cost": cost})

    def result(self, warnings: list[str]) -> dict[str, Any]:
        """What ``result.json`` says of the finished stages, whose files are copied to the run's folder."""
        main = result_stage(self.recipe)
        copy_folder(self.stages[main].model_folder, self.folder / "model")
        columns = quantities_of(self.task).predictions
        for name, stage in self.stages.items():
            if stage.dynamics_path is not None:
                copy_file(stage.dynamics_path, self.folder / "stages" / name / "dynamics.parquet")
            for file in ("selection.parquet", "selection.parquet.json", *([CREATED] if stage.creation_key else [])):
                copy_file(stage.folder / file, self.folder / "stages" / name / file)
            place = self.folder / "stages" / name
            self.predictions[name] = write_named_predictions(place, self.evaluations[name], self.data, columns)
        recipe = portable_recipe(self.recipe)
        told = tell_more(self.recipe, self.data, self.stages, self.evaluations, self.not_averaged, self.folder, main)
        return {
            "name": self.recipe.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "recipe": recipe,
            "recipe_hash": fingerprint(recipe),
            "seed": self.recipe.seed,
            "main": main,
            "baseline": self.recipe.baseline,
            "provenance": provenance(),
            "data": data_summary(self.data, self.seen),
            "compared": list(self.compared),
            "stages": {name: {**self._stage_summary(name), **told[name]} for name in self.stages},
            "warnings": portable_sentences(warnings, self.recipe),
            "stamps": portable_sentences(stamps(self.recipe, self.stages, self.data), self.recipe),
        }

    @contextmanager
    def _locked(self, stage: FinishedStage) -> Iterator[StageFolder]:
        """A finished stage's folder, in which nobody else writes: another run that shares the stage finds what is made of its
        model instead of making it too."""
        folder = self.store.stage_folder(stage.key)
        lock = folder.lock(wait=lambda text: self.tell({"event": "waiting", "stage": stage.name, "text": text}))
        with self.processes.holding(lock):
            for place in folder.made_later:
                self.processes.once(partial(remove_killed_writes, place))
            yield folder

    def _evaluate(self, stage: FinishedStage, kept: StageFolder) -> Evaluation:
        def load() -> Ready:
            return ready(*load_finished(stage.model_folder, self.task.model), stage.summary["precision"])

        return evaluate(
            kept.predictions,
            self.data,
            self.task,
            of_predictions(self.recipe.stages[stage.name]),
            where=f"stages.{stage.name}.evaluate",
            seed=self.recipe.seed,
            training_prior=self._learned_prior(stage),
            load_model=load,
            notify=lambda event: self.tell({"stage": stage.name, **event}),
            processes=self.processes,
        )

    def _measure(self, stage: FinishedStage, kept: StageFolder) -> None:
        """What the evaluators say that look at the model; what that cost joins what the evaluation did."""
        own, settings = self.evaluations[stage.name], self.recipe.stages[stage.name]
        settings = replace(settings, model=begun_with(settings.model, self.stages))
        self.measured[stage.name], cost = measure(
            settings,
            kept,
            self.data,
            self.task,
            own.predictions,
            predictions_on_all,
            seed=self.recipe.seed,
            stage_seed=OneStage(self.recipe, stage.name).seed,
            precision=stage.summary["precision"],
            notify=lambda event: self.tell({"stage": stage.name, **event}),
            processes=self.processes,
        )
        self.evaluations[stage.name] = replace(own, ledger=own.ledger.merge(cost))

    def _learned_prior(self, stage: FinishedStage) -> np.ndarray | None:
        try:
            return learned_prior(read_selection(stage.folder / "selection.parquet"), self.data.train)
        except UserError:  # a stage whose selection is damaged is still a finished stage, without corrected figures
            return None

    def _erm_cost(self) -> ErmCost:
        """The unit of cost, as far as it is known by now."""
        if self._erm is None or self._erm.flops is None:
            main = result_stage(self.recipe)
            ledgers = {name: stage.ledger for name, stage in self.stages.items()}
            summaries = {name: stage.summary for name, stage in self.stages.items()}
            self._erm = erm_cost(self.recipe, main, ledgers, summaries, lambda: self._lengths(main))
        return self._erm

    def _lengths(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        _, processor = load_finished(self.stages[name].model_folder, self.task.model)
        return lengths_of(self.task, self.task.prepare(self.data.train, processor))

    def _cost(self, name: str) -> dict[str, Any]:
        ledgers = {other: stage.ledger for other, stage in self.stages.items()}
        creations = {other: stage.creation_key for other, stage in self.stages.items() if stage.creation_key is not None}
        total = whole_cost(ledgers, self.recipe.stages, name, creations)
        erm = self._erm_cost()
        return {
            "ledger": total.to_json(),
            "flops": total.total().flops,
            "seconds": total.total().seconds,
            "erm_flops": erm.flops,
            "erm_source": erm.source,
            "fraction_of_erm": total.fraction_of(erm.flops) if erm.flops else None,
            "uses": upstream(self.recipe.stages, name),
            "not_counted": [portable_path(source) for source in given_dynamics(self.recipe.stages, name)],
            "reused": [other for other in [*upstream(self.recipe.stages, name), name] if self.stages[other].reused],
        }

    def _stage_summary(self, name: str) -> dict[str, Any]:
        stage, evaluation = self.stages[name], self.evaluations[name]
        summary = {key: value for key, value in stage.summary.items() if key != "flops_by_shape"}
        return {
            "key": stage.key,
            "reused": stage.reused,
            **summary,
            "model": portable_model(stage.summary["model"]),
            "dynamics": f"stages/{name}/dynamics.parquet" if stage.dynamics_path else None,
            "ledger": stage.ledger.to_json(),
            "cost": self._cost(name),
            "reporting_ledger": evaluation.ledger.to_json(),
            **({"measured": self.measured[name]} if self.measured[name] else {}),
            "evaluation": {
                set_name: {**figures, "predictions": f"stages/{name}/{self.predictions[name][set_name]}"}
                for set_name, figures in evaluation.sets.items()
            },
        }


def _headline(evaluation: Evaluation, seen: Collection[str], compared: Sequence[str]) -> dict[str, Any]:
    return {
        set_name: {
            "role": one["role"],
            "seen": set_name in seen,
            **{name: one["metrics"][name]["value"] for name in compared},
        }
        for set_name, one in evaluation.sets.items()
    }


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished run; UserError where there is none, or a damaged one."""
    return read_guarded(folder / "result.json", kind="result", version=RESULT_VERSION)
