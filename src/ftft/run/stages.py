"""One stage of a recipe: build the model, select, train, combine; taken from the store when it was finished before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ftft.data.examples import EvaluationSet, LoadedData
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.dynamics.parquet import fingerprint_dynamics, open_dynamics, read_dynamics
from ftft.dynamics.table import Dynamics
from ftft.engine import precision as precisions
from ftft.engine.assembly import Assembled, assemble, needs_of
from ftft.engine.batches import Schedule
from ftft.engine.calibrating import CountedCalibration
from ftft.engine.choosing import schedule_for
from ftft.engine.ledger import Ledger
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.processes import ALONE, Processes
from ftft.engine.provenance import provenance
from ftft.engine.scoring import CountedScoring
from ftft.engine.settings import ModelSettings, StopSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import UserError
from ftft.files import fingerprint, sha256_file
from ftft.methods import registry
from ftft.methods.contract import Objective, Sampler, Selection
from ftft.methods.selection import write_selection
from ftft.models.loading import LoadedModel, load_model, load_saved
from ftft.models.packing import require_separate
from ftft.paths import expand
from ftft.run import trainer_stages
from ftft.run.creating import Creation, create
from ftft.run.finished import FinishedStage, begun_with, stage_event
from ftft.run.finishing import Trained
from ftft.run.other_models import fingerprints
from ftft.run.portable import portable_model
from ftft.run.recipe import LATER_IN_STAGE, OneStage, Stage, without_later
from ftft.run.search_space import applied
from ftft.run.searching import StageSearch, search_sets
from ftft.run.selections import rows_and_weights, select_with, selection_and_sampler
from ftft.run.sharding import cutter, is_measured_while_training
from ftft.run.store import StageFolder, Store, stage_key
from ftft.run.validating import SteeringSets, sets_that_steer
from ftft.tasks.contract import Prepared, Task, coupling_of, files_of, quantities_of

OUTCOME_VERSION = 1  # raised whenever a change to the engine changes what a stage computes
ENDLESS = 10**9

Notify = Callable[[dict[str, Any]], None]


@dataclass
class StageRun(OneStage):
    """Everything one stage is run with."""

    data: LoadedData
    task: Task
    store: Store
    earlier: Mapping[str, FinishedStage]
    notify: Notify
    warn: Callable[[str], None]
    processes: Processes = ALONE
    creation: Creation | None = None

    # -- the key ---------------------------------------------------------------------------------------------------

    def steering_sets(self) -> dict[str, EvaluationSet]:
        """The validation sets whose scores decide when to stop and which checkpoint is best."""
        return sets_that_steer(self.stage, self.data.evaluation, self.where)

    def with_settings(self, found: Mapping[str, float]) -> StageRun:
        """The stage with what its search has found, to be trained."""
        return self.with_stage(replace(applied(self.stage, found, self.where), search=None))

    def with_stage(self, stage: Stage) -> StageRun:
        """The same with other settings of the stage."""
        return replace(self, recipe=replace(self.recipe, stages={**self.recipe.stages, self.name: stage}))

    def selection_target(self) -> EvaluationSet | None:
        """The validation set that the selector selects towards, where it is one that does."""
        selector = registry.build("select", self.stage.select, f"{self.where}.select")
        if "scoring_model" not in needs_of(selector) or getattr(selector, "target", None) is None:
            return None
        return self.data.evaluation[selector.target]

    def validates(self) -> bool:
        """Whether the training is measured on the way."""
        return is_measured_while_training(self.stage, self.where)

    def spec(self, model_fingerprint: str, precision: str, dynamics_key: str | None) -> dict[str, Any]:
        """Everything that determines this stage's outcome, and nothing else; its hash is the stage's key."""
        stage = without_later(asdict(self.stage), LATER_IN_STAGE)
        for irrelevant in ("evaluate", "model", "seed", "use_dynamics_of", "data"):
            stage.pop(irrelevant, None)  # data: the rows' fingerprint stands for it
        if self.stage.use_models_of:
            stage["use_models_of"] = [self.earlier[name].key for name in self.stage.use_models_of]
        if self.stage.use_model_of is not None:
            stage["use_model_of"] = self.earlier[self.stage.use_model_of].key
        if self.stage.other_models:
            stage["other_models"] = fingerprints(self.stage, self.data.train.label_names, self.where)
        target, searched = self.selection_target(), search_sets(self)
        for of_processes in ("checkpoint_seconds", "sharding"):
            stage["train"].pop(of_processes, None)  # "none" is already left out
        made = ("create",) if self.stage.create is not None else ()
        for question in (*made, "select", "adapt", "objective", "optimize", "combine"):
            method = registry.build(question, stage[question], f"{self.where}.{question}")
            stage[question] = {"name": stage[question]["name"], **asdict(method)}
        files = {name: sha256_file(expand(path, f"task.{name}")) for name, path in files_of(self.task).items()}
        steering = {name: [one.examples.fingerprint, one.merge] for name, one in self.steering_sets().items()}
        return {
            "version": OUTCOME_VERSION,
            "task": {name: value for name, value in self.recipe.task.items() if name not in files},
            "stage": stage,
            "seed": self.seed,
            "model": model_fingerprint,
            "precision": precision,
            "train": self.data.train.fingerprint,
            "labels": list(self.data.train.label_names),
            "steering": steering if self.validates() else {},
            "dynamics": dynamics_key,
            **({} if target is None else {"target": target.examples.fingerprint}),
            **({"search": {name: [one.examples.fingerprint, one.merge] for name, one in searched.items()}} if searched else {}),
            **({"task_files": files} if files else {}),
            **({"short_batch": "filled"} if coupling_of(self.task) == "batch" else {}),
        }

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> FinishedStage:
        """Take the stage from the store, or train it (resuming where it was interrupted)."""
        self.notify(stage_event(self.recipe, self.name))
        if self.processes.count > 1 and self.stage.trainer is not None:
            raise UserError(f"{self.where}: a trainer of TRL trains in one process; start it without torchrun")
        if self.processes.count > 1 and coupling_of(self.task) == "batch":
            raise UserError(
                f"{self.where}: in {self.task.name} the loss of an example depends on its batch, which several processes would "
                "cut into shares; run it in one process"
            )
        on_cpu = self.processes.count > 1 and self.processes.device == "cpu"
        accelerator = Accelerator(cpu=on_cpu)
        precision = self._precision(accelerator.device)
        model = self.load(precisions.weights_in(precision))
        self.learn_from(create(self, model, accelerator.device))
        dynamics, dynamics_key = self.dynamics_to_use()
        spec = self.spec(model.fingerprint, precision, dynamics_key)
        key = stage_key(spec)
        folder = self.store.stage_folder(key)
        self.processes.require_same(key, f"data, model or dynamics for {self.where}")
        lock = folder.lock(wait=lambda text: self.notify({"event": "waiting", "stage": self.name, "text": text}))
        # The first process locks and writes the folder; the others only read what it has left there.
        with self.processes.holding(lock):
            if not self.processes.once(folder.verify):
                self.processes.once(lambda: folder.describe(spec))
                self.processes.require_shared(folder.folder)
                self._train(folder, model, dynamics, accelerator, precision)
                return self._finished(folder, key, reused=False)
            self.processes.once(folder.remove_checkpoints)  # a kill may have come between the record and their removal
        self.notify({"event": "reused", "stage": self.name})
        return self._finished(folder, key, reused=True)

    def learn_from(self, creation: Creation | None) -> None:
        """From here on what was created is the stage's training data."""
        self.creation = creation
        if creation is not None:
            self.data = replace(self.data, train=creation.created.examples)

    def load(self, dtype: torch.dtype | None = None) -> LoadedModel:
        """The pretrained model the stage begins with, loaded anew: training changes the weights in place."""
        loaded = load_model(self.model, self.task.model, self.data.train.label_names, seed=self.seed, dtype=dtype)
        source = self.stage.model.stage
        return loaded if source is None else replace(loaded, description={**loaded.description, "source": f"stage {source}"})

    @property
    def model(self) -> ModelSettings:
        """Where the model is that the stage begins with: that of an earlier stage in its folder."""
        return begun_with(self.stage.model, self.earlier)

    def _precision(self, device: torch.device) -> precisions.Precision:
        setting = self.stage.train.precision
        if setting != "auto":
            return setting
        here = provenance()
        condition = fingerprint(
            {name: here[name] for name in ("processor", "processor_flags", "threads", "device", "versions")}
        )
        chosen = self.processes.once(
            lambda: self.store.remembered("precision", condition, lambda: precisions.resolve("auto", device))
        )
        return "bf16" if chosen == "bf16" else "fp32"

    def _finished(self, folder: StageFolder, key: str, *, reused: bool) -> FinishedStage:
        payload = folder.payload()
        ledger = Ledger.from_json(payload["ledger"])
        ledger = ledger.as_reused() if reused else ledger
        return FinishedStage(self.name, key, folder.folder, reused, payload["summary"], ledger)

    def dynamics_to_use(self) -> tuple[Dynamics | None, str | None]:
        """The dynamics that this stage selects by, and what they add to its key."""
        source = self.stage.use_dynamics_of
        if source is None:
            return None, None
        if source in self.earlier:
            path = self.earlier[source].dynamics_path
            assert path is not None, f"stage {source} recorded no dynamics although the recipe was checked"
            return read_dynamics(path), self.earlier[source].key
        dynamics = open_dynamics(expand(source, f"{self.where}.use_dynamics_of"))
        return dynamics, fingerprint_dynamics(dynamics)

    def _train(
        self, folder: StageFolder, model: LoadedModel, dynamics: Dynamics | None, accelerator: Accelerator, precision: Any
    ) -> None:
        started = time.perf_counter()
        ledger = Ledger()
        chosen = self.processes.once(lambda: self._select(folder, model, dynamics, ledger, accelerator.device))
        if self.stage.trainer is not None:
            selection, _ = selection_and_sampler(chosen)
            rows, _ = rows_and_weights(selection, self.data.train.ids)
            preparing = time.perf_counter() - started
            trained = trainer_stages.train(self, folder, model, rows, ledger, accelerator, precision)
            return trained.finish(folder, selection, preparing)
        run, searched = self, None
        if self.stage.search is not None:
            searched = StageSearch(self, folder, model, chosen, accelerator, precision).find()
            assert searched.best is not None
            run = self.with_settings(searched.best.settings)
            started = time.perf_counter()  # what the search took is in its own books
        training, assembled = run.prepare(chosen, model, ledger, accelerator, precision, folder.folder)
        preparing = time.perf_counter() - started
        outcome = TrainingLoop(training, environment={**provenance(), "sharding": assembled.sharding}).run()
        assembled.leave_shards()
        selection, _ = selection_and_sampler(chosen)
        trained = Trained(run, model, assembled.adapted, training, outcome, searched)
        self.processes.once(lambda: trained.finish(folder, selection, preparing))

    def prepare(
        self,
        chosen: Selection | Sampler,
        model: LoadedModel,
        ledger: Ledger,
        accelerator: Accelerator,
        precision: Any,
        folder: Path | None,
    ) -> tuple[Training, Assembled]:
        """The training of this stage from its beginning; it resumes from what it finds in ``folder``, and writes nothing
        without one."""
        selection, sampler = selection_and_sampler(chosen)
        rows, weights = rows_and_weights(selection, self.data.train.ids)
        torch.manual_seed(self.processes.seed(self.seed))
        np.random.seed(self.processes.seed(self.seed) % 2**32)
        prepared = self.task.prepare(self.data.train, model.processor)
        objective = registry.build("objective", self.stage.objective, f"{self.where}.objective")
        assembled = assemble(
            model.model,
            registry.build("adapt", self.stage.adapt, f"{self.where}.adapt"),
            objective,
            registry.build("optimize", self.stage.optimize, f"{self.where}.optimize"),
            CountedCalibration(self.task, prepared, rows, self.seed, ledger),
            seed=self.seed,
            shard=cutter(self.stage, self.processes, self.where, self.warn),
        )
        if self.stage.train.pack:  # an adapter can undo what the model alone does
            require_separate(assembled.adapted.model, f"{self.where}.train.pack")
        schedule = schedule_for(
            self.stage.train,
            rows,
            prepared.lengths[rows],
            seed=self.seed,
            sampler=sampler,
            processes=self.processes,
            fill=coupling_of(self.task) == "batch",
        )
        training = self._training(
            folder, assembled, objective, model, prepared, schedule, weights, ledger, accelerator, precision
        )
        return training, assembled

    def select(
        self, model: LoadedModel, dynamics: Dynamics | None, ledger: Ledger, device: torch.device
    ) -> Selection | Sampler:
        """What the stage learns from; UserError where nothing is chosen."""
        selector = registry.build("select", self.stage.select, f"{self.where}.select")

        def load() -> tuple[torch.nn.Module, Any]:
            if self.stage.use_model_of is None:
                return model.model, model.processor
            return load_saved(self.earlier[self.stage.use_model_of].model_folder, self.task.model)

        scoring = CountedScoring(load, self.task, self.data.evaluation, ledger, device, self.where)
        chosen = select_with(selector, self.data.train, dynamics, seed=self.seed, scoring=scoring)
        selection, _ = selection_and_sampler(chosen)
        if len(selection) == 0:
            raise UserError(f"{self.where}.select chose no example of {len(self.data.train)}")
        return chosen

    def _select(
        self, folder: StageFolder, model: LoadedModel, dynamics: Dynamics | None, ledger: Ledger, device: torch.device
    ) -> Selection | Sampler:
        chosen = self.select(model, dynamics, ledger, device)
        selection, _ = selection_and_sampler(chosen)
        write_selection(selection, folder.path("selection.parquet"))
        self.notify({"event": "selected", "stage": self.name, "selected": len(selection), "pool": len(self.data.train)})
        return chosen

    def _training(
        self,
        folder: Path | None,
        assembled: Assembled,
        objective: Objective,
        model: LoadedModel,
        prepared: Prepared,
        schedule: Schedule,
        weights: np.ndarray | None,
        ledger: Ledger,
        accelerator: Accelerator,
        precision: Any,
    ) -> Training:
        stage, train = self.stage, self.stage.train
        combiner = registry.build("combine", stage.combine, f"{self.where}.combine")
        training = Training(
            models=assembled.models,
            task=self.task,
            data=prepared,
            schedule=schedule,
            objective=objective,
            optimizer=assembled.optimizer,
            before_step=assembled.before_step,
            settings=train,
            precision=precision,
            accelerator=accelerator,
            weights=weights,
            dynamics=self._buffer(model) if stage.dynamics else None,
            dynamics_mode=stage.dynamics.mode if stage.dynamics else "online",
            keep_best=combiner.needs_best,
            ledger=ledger,
            folder=folder,
            notify=lambda event: self.notify({"stage": self.name, **event}),
            warn=self.warn,
        )
        if self.validates():
            steering = self.steering(model, training)
            training.stopping = EarlyStopping(steering.settings)
            training.stop_score = steering.mean
            training.validate = lambda current: steering.scores(current, self.processes)
        return training

    def _buffer(self, model: LoadedModel) -> DynamicsBuffer:
        assert self.stage.dynamics is not None
        train, statistics = self.data.train, quantities_of(self.task).dynamics
        return DynamicsBuffer(
            train.ids,
            None if statistics else train.labels.astype(np.int32),
            num_classes=None if statistics else len(train.label_names),
            max_classes=self.stage.dynamics.max_classes,
            statistics=statistics,
            metadata={
                "source": self.stage.dynamics.mode,
                "data_fingerprint": train.fingerprint,
                "label_names": list(train.label_names),
                "model": portable_model(model.description),
            },
        )

    def steering(self, model: LoadedModel, training: Training) -> SteeringSets:
        """What measures the stage's models on its validation sets; UserError where it has none."""
        sets = self.steering_sets()
        if not sets:
            raise UserError(f"{self.where} needs a validation set to stop or to keep the best checkpoint, and there is none")
        prepared = {name: self.task.prepare(one.examples, model.processor) for name, one in sets.items()}
        settings = self.stage.stop or StopSettings(patience=ENDLESS, metric=self.task.steering[0])
        return SteeringSets(self.task, sets, prepared, settings, training.precision, training.flops, lambda: training.ledger)
