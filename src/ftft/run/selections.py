"""What a selection means for a stage: the rows and weights it learns from, and their class prior; and every stage's selection
made once before anything is trained, so that one that cannot work costs nothing.

Dynamics of a file are read. Those that an earlier stage will record are stood in for by random logits of the same shape
(its examples, its planned epochs, the last one perhaps in part): what refuses them refuses the real ones, such as a count
above the pool, shares for labels that do not exist, or epochs that will not be recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.examples import Examples
from ftft.dynamics.parquet import open_dynamics
from ftft.dynamics.table import Dynamics
from ftft.engine.assembly import needs_of
from ftft.engine.batches import planned_steps
from ftft.engine.schedule import ending_step
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import Sampler, ScoringModel, Selection
from ftft.paths import expand
from ftft.run.recipe import OneStage, Recipe, Stage
from ftft.run.stand_ins import stand_in
from ftft.run.trainer_combinations import learned_rows
from ftft.tasks.contract import quantities_of


@dataclass(frozen=True)
class PlannedSelection:
    """What a stage will learn from: ``examples`` (rows, copies counted) of the pool, ``exact`` unless the dynamics that
    are still to be recorded can change the number; and the ``steps`` it takes without an early stop. ``sampled``: it is chosen
    anew for every epoch what is learned from in it, and both numbers are those of all of them. ``selection``: these examples of
    ``pool``, or as many at random where dynamics or a model that are still to come will choose."""

    examples: int
    steps: int
    exact: bool
    selection: Selection
    pool: Examples
    sampled: bool = False


def plan_selections(recipe: Recipe, train: Examples, own: Mapping[str, Examples] | None = None) -> dict[str, PlannedSelection]:
    """The planned selection of every stage by its name, from ``train`` or its ``own`` rows; UserError, led by the stage's path,
    for one that cannot work."""
    plans: dict[str, PlannedSelection] = {}
    made: dict[str, Selection] = {}
    pools: dict[str, Examples] = {}
    quantities = quantities_of(registry.build_task(recipe.task))
    statistics, columns = quantities.dynamics, len(quantities.predictions or train.label_names)
    for name, stage in recipe.stages.items():
        where = f"stages.{name}.select"
        pool = pools[name] = stand_in(stage, (own or {}).get(name, train), f"stages.{name}.create")
        source = stage.use_dynamics_of
        dynamics = None
        if source in recipe.stages:
            dynamics = _stand_in(pools[source], recipe.stages[source], made[source], plans[source].steps, statistics)
        elif source is not None:
            dynamics = open_dynamics(expand(source, f"stages.{name}.use_dynamics_of"))
        selector = registry.build("select", stage.select, where)
        seed = OneStage(recipe, name).seed
        try:
            chosen = select_with(selector, pool, dynamics, seed=seed, scoring=OnePoint(pool, columns))
            made[name], sampler = selection_and_sampler(chosen)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        learned = len(made[name]) if stage.trainer is None else learned_rows(recipe, name, len(made[name]))
        steps = planned_steps(learned, stage.train.batch_size, epochs=stage.train.epochs, steps=stage.train.steps)
        steps = ending_step(steps, stage.train.end_at)
        exact = source not in recipe.stages and stage.create is None and (sampler is None or stage.train.steps is not None)
        plans[name] = PlannedSelection(len(made[name]), steps, exact, made[name], pool, sampled=sampler is not None)
    return plans


def _stand_in(train: Examples, reference: Stage, selection: Selection, steps: int, statistics: Sequence[str]) -> Dynamics:
    """Dynamics as the reference stage will record them, with random logits (or the named statistics, at random)."""
    rows = np.unique(pc.index_in(selection.ids, value_set=train.ids).to_numpy(zero_copy_only=False).astype(np.int64))
    steps_per_epoch = max(1, math.ceil(len(selection) / reference.train.batch_size))
    epochs = max(1, math.ceil(steps / steps_per_epoch))
    left = steps - (epochs - 1) * steps_per_epoch  # steps of the last epoch
    seen = np.zeros((epochs, len(train)), dtype=bool)
    seen[:, rows] = True
    if reference.dynamics is None or reference.dynamics.mode == "online":
        seen[-1, rows[left * reference.train.batch_size :]] = False
    classes, most = len(train.label_names), 64 if reference.dynamics is None else reference.dynamics.max_classes
    generator, about = np.random.default_rng(0), {"data_fingerprint": train.fingerprint}
    if statistics:
        drawn = {name: generator.random((epochs, len(train)), dtype=np.float32) for name in statistics}
        return Dynamics(train.ids, tuple(range(epochs)), seen, None, statistics=drawn, metadata=about)
    gold = train.labels.astype(np.int32)
    if classes <= most:
        logits = generator.standard_normal((epochs, len(train), classes), dtype=np.float32)
        return Dynamics(train.ids, tuple(range(epochs)), seen, gold, logits=logits, metadata=about)
    pair = generator.standard_normal((epochs, len(train), 2), dtype=np.float32)
    probability = generator.random((epochs, len(train)), dtype=np.float32)
    return Dynamics(train.ids, tuple(range(epochs)), seen, gold, pair_logits=pair, pair_probability=probability, metadata=about)


@dataclass(frozen=True)
class OnePoint:
    """Stands in for a scoring model before anything is computed: every example is the same, and any will do as a target."""

    examples: Examples
    columns: int = 1  # of what the task keeps of an example

    def embed(self, examples: Examples) -> np.ndarray:
        return np.zeros((len(examples), 1), dtype=np.float32)

    def predictions(self, examples: Examples) -> np.ndarray:
        return np.zeros((len(examples), self.columns), dtype=np.float32)

    def target(self, name: str) -> Examples:
        return self.examples.take(np.arange(min(len(self.examples), 1)))


def select_with(
    selector: Any, train: Examples, dynamics: Dynamics | None, *, seed: int, scoring: ScoringModel
) -> Selection | Sampler:
    """What a selector chooses, given the scoring model if that is what it needs."""
    given = {"scoring": scoring} if "scoring_model" in needs_of(selector) else {}
    return selector.select(train, dynamics, seed=seed, **given)


def selection_and_sampler(chosen: Selection | Sampler) -> tuple[Selection, Sampler | None]:
    """The examples that a stage may learn from, and who chooses among them while it trains, if anybody does."""
    return (chosen, None) if isinstance(chosen, Selection) else (chosen.selection, chosen)


def rows_and_weights(selection: Selection, ids: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows (int64 [K], positions in ``ids``) a selection learns from, and one weight a row of the data (float64 [N])
    or None where all weigh the same."""
    positions = pc.index_in(selection.ids, value_set=ids)
    if positions.null_count:
        raise UserError("the selection holds ids that the training data does not; it was made from other data")
    rows = positions.to_numpy(zero_copy_only=False).astype(np.int64)
    if np.all(selection.weights == 1.0):
        return rows, None
    weights = np.zeros(len(ids), dtype=np.float64)
    weights[rows] = selection.weights
    return rows, weights


def learned_prior(selection: Selection, train: Examples) -> np.ndarray:
    """The class shares, float64 [C], of what a stage learns from: the selected rows, copies and weights counted."""
    rows, weights = rows_and_weights(selection, train.ids)
    amount = None if weights is None else weights[rows]
    shares = np.bincount(train.labels[rows], weights=amount, minlength=len(train.label_names))
    return np.asarray(shares / shares.sum())
