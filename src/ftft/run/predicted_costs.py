"""What a recipe will cost, before anything is trained or a model's weights are read: ``ftft check --cost``.

Every stage is put together as for its run, on a model of its shapes without numbers, and its training is walked through to the
planned end (:mod:`ftft.engine.predicting`). What comes out is a ledger, charged to whole models as those of a run are
(:mod:`ftft.run.costs`). Whatever only training can tell is taken at its largest or is not known, and either is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ftft.data.examples import EvaluationSet, Examples, LoadedData
from ftft.engine.assembly import Assembled, assemble
from ftft.engine.choosing import schedule_for
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import PHASES, Ledger
from ftft.engine.precision import weights_in
from ftft.engine.predicting import OneProcess, PredictedTraining, Shapes, bytes_of, predicted_pass
from ftft.engine.processes import ALONE
from ftft.engine.shapes_only import ShapesOnly
from ftft.engine.training import Training
from ftft.errors import UserError
from ftft.methods import registry
from ftft.models.loading import load_shapes
from ftft.models.settings import ModelSettings
from ftft.run.costs import ErmCost, erm_cost, given_dynamics, upstream, whole_cost
from ftft.run.evaluators import of_models
from ftft.run.other_models import is_predictor_stage
from ftft.run.recipe import OneStage, Recipe, Stage, pretrained, result_stage
from ftft.run.selections import PlannedSelection, rows_and_weights
from ftft.run.sharding import is_measured_while_training
from ftft.run.validating import sets_that_steer
from ftft.tasks.contract import Task, coupling_of


@dataclass
class PredictedStage:
    """What a stage will cost at most. ``ledger``: its own bill as far as it is known; ``unknown``: why it is not known whole;
    ``largest``: what can make it smaller; ``about``: why it is not exact. ``reporting``: the operations of the evaluation after
    training, ``memory``: the bytes of weights, gradients and optimizer state; both None where they are not known."""

    examples: int | None = None
    steps: int | None = None
    ledger: Ledger = field(default_factory=Ledger)
    unknown: list[str] = field(default_factory=list)
    largest: list[str] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    reporting: int | None = None
    memory: int | None = None
    flops_by_shape: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class PredictedCosts:
    """The stages by name, and what plain fine-tuning costs, as :func:`ftft.run.costs.erm_cost` says."""

    recipe: Recipe
    stages: Mapping[str, PredictedStage]
    erm: ErmCost

    def whole(self, name: str) -> int | None:
        """The operations of a stage and all it uses; None where they are not all known."""
        needed = [*upstream(self.recipe.stages, name), name]
        if any(self.stages[other].unknown for other in needed):
            return None
        ledgers = {other: one.ledger for other, one in self.stages.items()}
        return whole_cost(ledgers, self.recipe.stages, name).total().flops

    def fraction(self, name: str) -> float | None:
        """:meth:`whole` as a share of plain fine-tuning's; None where one of them is not known."""
        whole = self.whole(name)
        return None if whole is None or not self.erm.flops else whole / self.erm.flops

    def not_counted(self) -> list[str]:
        """The files of dynamics that stages use: what recording them cost is not known."""
        return sorted({source for name in self.stages for source in given_dynamics(self.recipe.stages, name)})


def predict_costs(
    recipe: Recipe,
    task: Task,
    data: LoadedData,
    plans: Mapping[str, PlannedSelection],
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> PredictedCosts:
    """The cost of every stage of a recipe that was checked, whose selections are planned. Nothing is trained or written."""
    known = _Sets(task)
    found: dict[str, PredictedStage] = {}
    for name in recipe.stages:
        progress(f"predicting the cost of stage {name}")
        found[name] = _PredictStage(recipe, name, task, data, plans[name], known).predicted()
    whole = {name: one.ledger for name, one in found.items() if not one.unknown}
    summaries = {name: {"flops_by_shape": one.flops_by_shape} for name, one in found.items()}
    main = result_stage(recipe)

    def lengths() -> tuple[np.ndarray, np.ndarray]:
        settings = pretrained(recipe, main)
        _, processor = load_shapes(settings, task.model, data.train.label_names, inside=ShapesOnly())
        shapes = known.of(data.train, processor, settings)
        return shapes.tokens, shapes.widths

    return PredictedCosts(recipe, found, erm_cost(recipe, main, whole, summaries, lengths))


@dataclass
class _Sets:
    """The shapes of sets of examples, each tokenised once by each model's tokenizer."""

    task: Task
    _known: dict[Any, Shapes] = field(default_factory=dict)

    def of(self, examples: Examples, processor: Any, model: ModelSettings) -> Shapes:
        key = (examples.fingerprint, len(examples), model.path, model.hub, model.package)
        if key not in self._known:
            self._known[key] = Shapes.of(self.task, examples, processor)
        return self._known[key]


@dataclass
class _PredictStage(OneStage):
    task: Task
    data: LoadedData
    plan: PlannedSelection
    sets: _Sets
    shapes: ShapesOnly = field(default_factory=ShapesOnly)

    def predicted(self) -> PredictedStage:
        stage, found = self.stage, PredictedStage(self.plan.examples, self.plan.steps)
        self._said_before(found)
        if self._is_not_ours(found):
            return found
        dtype = weights_in(stage.train.precision)
        settings = pretrained(self.recipe, self.name)
        names = self.data.train.label_names
        where = f"{self.where}.model"
        model, processor = load_shapes(settings, self.task.model, names, where=where, dtype=dtype, inside=self.shapes)
        pool = self.sets.of(self.plan.pool, processor, settings)
        steering = [self.sets.of(one.examples, processor, settings) for one in self._steering().values()]
        searched = stage.search.on if stage.search is not None else []
        trials = [self.sets.of(self.data.evaluation[name].examples, processor, settings) for name in searched]
        every = {name: self.sets.of(one.examples, processor, settings) for name, one in self.data.evaluation.items()}
        if any(one.sampled for one in [pool, *every.values()]):
            found.about.append("lengths are those of a sample")
        try:
            with self.shapes:
                self._evaluated(found, model, every)
                if stage.search is not None:
                    self._searched(found, pool, trials, dtype)
                self._trained(found, model, pool, steering)
        except UserError:
            raise
        except Exception as error:  # a method may ask its tensors for anything
            found.unknown.append(f"a method of the stage cannot do without numbers ({type(error).__name__})")
        return found

    def _said_before(self, found: PredictedStage) -> None:
        """What is known without counting: what makes the cost smaller, and what nobody can know."""
        stage = self.stage
        if stage.stop is not None:
            found.largest.append("early stopping")
        if self.plan.sampled:
            found.largest.append(f"select {stage.select['name']}, which leaves examples out")
        if stage.search is not None:
            found.largest.append("trials that diverge")
        if stage.create is not None:
            found.unknown.append(f"what create: {stage.create['name']} writes is not known before")
        if "scoring_model" in registry.header("select", stage.select["name"]).needs:
            found.unknown.append(f"what select: {stage.select['name']} looks at is not counted")
        if "calibration" in registry.header("adapt", stage.adapt["name"]).needs:
            found.unknown.append(f"adapt: {stage.adapt['name']} looks at examples first, and at what the weights make of them")
        if "validation" in registry.header("combine", stage.combine["name"]).needs:
            found.unknown.append(f"combine: {stage.combine['name']} measures as many models as it needs")
        if getattr(self.task, "answer", None) is not None and is_measured_while_training(stage, self.where):
            found.unknown.append("how much the model writes to be measured is not known before")
        if not self.plan.exact and not self.plan.sampled and stage.create is None:
            found.about.append("as many examples at random stand for those that dynamics will choose")

    def _is_not_ours(self, found: PredictedStage) -> bool:
        """Whether a trainer of TRL runs the stage, or what it trains is not known."""
        if self.stage.trainer is not None:
            found.unknown.append(f"the trainer {self.stage.trainer['name']} of TRL computes in its own way")
        return self.stage.trainer is not None

    def _steering(self) -> dict[str, EvaluationSet]:
        if not is_measured_while_training(self.stage, self.where):
            return {}
        return sets_that_steer(self.stage, self.data.evaluation, self.where)

    def _trained(self, found: PredictedStage, model: torch.nn.Module, pool: Shapes, steering: list[Shapes]) -> None:
        if "calibration" in registry.header("adapt", self.stage.adapt["name"]).needs:
            return
        training, assembled = self._training(self.stage, model, pool)
        counting = PredictedTraining(training, pool, steering)
        found.ledger = found.ledger.merge(counting.count())
        found.flops_by_shape = [list(one) for one in training.flops.state()["known"]]  # type: ignore[attr-defined]
        if counting.estimated:
            found.about.append("the cost of some lengths follows from that of others")
        if counting.trains_the_same:
            found.memory = _memory(training, assembled)

    def _searched(self, found: PredictedStage, pool: Shapes, on: list[Shapes], dtype: torch.dtype) -> None:
        """All trials at the cost of the first: settings that are searched are numbers, and change no shape."""
        search = self.stage.search
        assert search is not None
        train = replace(
            self.stage.train, steps=search.steps, epochs=None, schedule="constant", warmup=0.0, end_at=None, evaluate_every=None
        )
        settings, names = pretrained(self.recipe, self.name), self.data.train.label_names
        model, _ = load_shapes(settings, self.task.model, names, where=self.where, dtype=dtype, inside=self.shapes)
        training, _ = self._training(replace(self.stage, train=train, dynamics=None), model, pool)
        PredictedTraining(training, pool).count()
        for one in on:
            flops = predicted_pass(training.models.main, self.task, one, training.flops, device=training.accelerator.device)
            training.ledger.add("evaluation", flops=flops, examples=len(one), tokens=int(one.tokens.sum()))
        trial = training.ledger.moved(dict.fromkeys(PHASES, "search"))
        for _ in range(search.trials):
            found.ledger = found.ledger.merge(trial)

    def _training(self, stage: Stage, model: torch.nn.Module, pool: Shapes) -> tuple[Training, Assembled]:
        """The stage's training as for its run, on shapes."""
        rows, _ = rows_and_weights(self.plan.selection, self.plan.pool.ids)
        objective = registry.build("objective", stage.objective, f"{self.where}.objective")
        assembled = assemble(
            model,
            registry.build("adapt", stage.adapt, f"{self.where}.adapt"),
            objective,
            registry.build("optimize", stage.optimize, f"{self.where}.optimize"),
            None,
            seed=self.seed,
        )
        fill = coupling_of(self.task) == "batch"
        accelerator: Any = OneProcess(self.shapes.device)
        training = Training(
            models=assembled.models,
            task=self.task,
            data=pool.prepared,
            schedule=schedule_for(
                stage.train, rows, pool.tokens[rows], seed=self.seed, sampler=None, processes=ALONE, fill=fill
            ),
            objective=objective,
            optimizer=assembled.optimizer,
            settings=stage.train,
            precision="fp32" if stage.train.precision == "auto" else stage.train.precision,
            accelerator=accelerator,
            dynamics_mode=stage.dynamics.mode if stage.dynamics else "online",
            before_step=assembled.before_step,
        )
        return training, assembled

    def _evaluated(self, found: PredictedStage, model: torch.nn.Module, sets: Mapping[str, Shapes]) -> None:
        """The evaluation after training, of plain weights."""
        if is_predictor_stage(self.stage) or getattr(self.task, "answer", None) is not None:
            return
        flops, device = FlopCounter(), self.shapes.device
        cost = {name: predicted_pass(model, self.task, one, flops, device=device) for name, one in sets.items()}
        found.reporting = sum(cost.values())
        for section in of_models(self.stage):
            if "base_predictions" in registry.header("evaluate", section["name"]).needs:
                found.reporting += sum(cost[name] for name, one in self.data.evaluation.items() if one.role == "forget")


def _memory(training: Training, assembled: Assembled) -> int:
    """The bytes of all weights, of the gradients that a step leaves, and of the optimizer's state after it."""
    if not getattr(training.optimizer, "needs_closure", False):
        training.optimizer.step()
    models = [assembled.models.main, *assembled.models.others.values()]
    weights = [value for model in models for value in (*model.parameters(), *model.buffers())]
    gradients = [one.grad for one in assembled.models.main.parameters() if one.grad is not None]
    return bytes_of([weights, gradients, list(training.optimizer.state.values())])
