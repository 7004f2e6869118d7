"""Every cell's metrics on every set, and on the same resamples of it: what all intervals of a comparison are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ftft.comparison.cells import Cell, CellFolder, SetData
from ftft.comparison.suite import METRICS
from ftft.methods.registry import build_task
from ftft.tasks import intervals, metrics
from ftft.tasks.contract import Task, quantities_of

SEED = 0  # of the resamples: a comparison's intervals do not depend on when or where they are made


@dataclass
class Measures:
    """``of(cell, set)`` gives {metric: float64 [1 + R]}: the value on the set, then on its R resamples. What was measured
    once is kept, so that a table that grows costs its new cells only."""

    folder: CellFolder
    resamples: int
    _known: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)
    _sets: dict[str, SetData] = field(default_factory=dict)

    def of(self, cell: Cell, name: str) -> dict[str, np.ndarray]:
        """The measures of a cell on one of its sets. Raises UserError where a stored file is damaged."""
        stamp = (f"{cell.key} {cell.document['created']}", name)
        if stamp not in self._known:
            known_as = cell.sets[name]["set"]
            if known_as not in self._sets:
                self._sets[known_as] = self.folder.set_data(known_as)
            kept = cell.statistics(name)
            if kept is not None:
                task = build_task(cell.document["recipe"]["task"])
                self._known[stamp] = measure_rows(self._sets[known_as], kept, task, name=name, resamples=self.resamples)
                return self._known[stamp]
            corrected = cell.sets[name]["figures"].get("prior_corrected")
            prior = None if corrected is None else np.asarray(corrected["training_prior"], dtype=np.float64)
            self._known[stamp] = measure(
                self._sets[known_as], cell.probabilities(name), prior, name=name, resamples=self.resamples
            )
        return self._known[stamp]


def measure(
    data: SetData, probabilities: np.ndarray, training_prior: np.ndarray | None, *, name: str, resamples: int
) -> dict[str, np.ndarray]:
    """{metric of ``METRICS``: float64 [1 + R]} of probabilities [N, K] on a set called ``name``.

    The resamples depend on name, size and clusters alone, so those of two models are the same. ``training_prior`` [K]
    over the set's own classes; without it the prior-corrected figures are NaN.
    """
    labels, seed = data.labels, intervals.seed_for(SEED, name)
    predictions = [metrics.predicted_classes(probabilities)]
    if training_prior is not None:
        own = metrics.class_prior(labels, probabilities.shape[1])
        predictions.append(metrics.predicted_classes(metrics.correct_prior(probabilities, training_prior, own)))
    drawn = intervals.paired_draws(labels, np.stack(predictions), clusters=data.clusters, resamples=resamples, seed=seed)
    found = {f"{prefix}{metric}": values[:, column] for metric, values in drawn.items() for column, prefix in _prefixes(drawn)}
    ranked: dict[str, list[np.ndarray]] = {"auroc": [], "ece": []}
    blocks = intervals.multiplicity_blocks(len(labels), data.clusters, resamples, seed)
    for counts in (np.ones((1, len(labels))), *(block.astype(np.float64) for block in blocks)):
        ranked["auroc"].append(np.asarray(metrics.auroc(labels, probabilities, counts)))
        ranked["ece"].append(np.asarray(metrics.ece(labels, probabilities, counts)))
    found |= {metric: np.concatenate(parts) for metric, parts in ranked.items()}
    unknown = np.full(1 + resamples, np.nan)
    return {metric: found.get(metric, unknown) for metric in METRICS}


def measure_rows(data: SetData, predictions: np.ndarray, task: Task, *, name: str, resamples: int) -> dict[str, np.ndarray]:
    """As :func:`measure`, of what a task predicts [N, K] where that is no probabilities: {metric that the task compares models
    by: float64 [1 + R]}."""
    drawn = intervals.paired_measures(
        lambda values, counts: task.measure(data.labels, values, counts),
        [predictions],
        clusters=data.clusters,
        resamples=resamples,
        seed=intervals.seed_for(SEED, name),
    )
    return {metric: drawn[metric][:, 0] for metric in quantities_of(task).compared}


def _prefixes(drawn: Mapping[str, np.ndarray]) -> list[tuple[int, str]]:
    columns = next(iter(drawn.values())).shape[1]
    return list(enumerate(("", "prior_corrected.")[:columns]))
