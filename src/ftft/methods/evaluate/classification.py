"""How good is a classifier on one evaluation set: the field's metrics, each with a bootstrap 95 % interval.

Next to the plain metrics stand two that tell a better model from a shifted class prior: accuracy and macro-F1 with the
decision threshold tuned on ID validation, and after correction to the set's own class prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ftft.data.examples import EvaluationSet
from ftft.errors import UserError
from ftft.settings import setting
from ftft.tasks import intervals, metrics, thresholds

# From multiplicities (None: the set itself) to values by name.
Measure = Callable[[np.ndarray | None], Mapping[str, metrics.Values]]


@dataclass(frozen=True)
class Classification:
    """Metrics with percentile bootstrap intervals, over clusters where the set has them and over examples elsewhere.

    What is fitted to data (threshold, offsets, class prior, the choice of the worst group) is held fixed in the resamples:
    the intervals are those of the evaluation set's sampling, not of the fitting.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "image_classification", "image_text")
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "ECE: Guo et al. 2017; prior correction: Saerens et al. 2002; bootstrap: Efron and Tibshirani 1993"

    resamples: int = setting(1000, "bootstrap resamples; 0 gives no intervals", origin="Efron and Tibshirani 1993", ge=0)
    level: float = setting(0.95, "coverage of the intervals", gt=0, lt=1)
    ece_bins: int = setting(15, "equal-width bins of the calibration error", origin="Guo et al. 2017", ge=1)
    min_group: int = setting(10, "examples a group needs to count for the worst group", ge=1)

    def tune(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any] | None:
        """The decision rule fitted to ID validation (see :func:`ftft.tasks.thresholds.tune`), for ``context["tuned"]``."""
        return thresholds.tune(labels, metrics.normalise(probabilities))

    def evaluate(
        self, evaluation_set: EvaluationSet, probabilities: np.ndarray, *, seed: int, context: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Measure ``probabilities`` [N, K] (over the set's own classes, merged where it merges) on a set of N examples.

        ``context``: ``train_prior`` (float64 [C] over the model's classes, or None); ``validation`` (ID validation
        labels int64 [M] and probabilities [M, C] over the model's classes, or None), on which a merging set has its own
        threshold tuned; ``tuned`` (what :meth:`tune` gave on it, or None), which saves the tuning for the other sets.
        ``is_validation`` (by default, whether it is an ID set that may steer): this set is that validation set, and what
        is tuned on it and reported for it is marked ``tuned_on_itself``.

        Gives ``n``; ``metrics`` {name: {"value", "low", "high"}}; ``prior_corrected`` and ``tuned_threshold``, each with
        ``accuracy`` and ``macro_f1`` in that form and with what was fitted, or None; ``worst_group`` {"group", "n",
        "groups", "accuracy"} or None; ``class_prior`` {label: share}; and ``bootstrap``, how the intervals were made.
        Undefined values are NaN. Raises UserError for probabilities that are not finite.
        """
        probabilities = _checked(evaluation_set, probabilities)
        examples = evaluation_set.examples
        labels, n = examples.labels, len(examples)
        clusters = None if examples.clusters is None else intervals.codes(examples.clusters)
        prior = metrics.class_prior(labels, probabilities.shape[1])

        measures: list[Measure] = [lambda counts: metrics.all_metrics(labels, probabilities, counts, bins=self.ece_bins)]
        training_prior = _training_prior(evaluation_set, context)
        if training_prior is not None:
            corrected = metrics.correct_prior(probabilities, training_prior, prior)
            measures.append(_decisions("prior_corrected", labels, metrics.predicted_classes(corrected)))
        rule, on_itself = self._rule(evaluation_set, probabilities, context)
        if rule is not None:
            measures.append(_decisions("tuned_threshold", labels, thresholds.apply(rule, probabilities)))
        group = self._worst_group(evaluation_set, probabilities)
        if group is not None:
            measures.append(_accuracy_within(group.pop("members"), labels, metrics.predicted_classes(probabilities)))

        found = self._measured(measures, n, clusters, intervals.seed_for(seed, evaluation_set.name))
        return {
            "n": n,
            "metrics": {name: found[name] for name in metrics.METRICS},
            "prior_corrected": None
            if training_prior is None
            else {**_under(found, "prior_corrected"), "training_prior": training_prior.tolist(), "uses_test_labels": True},
            "tuned_threshold": None
            if rule is None
            else {**_under(found, "tuned_threshold"), "rule": rule, "tuned_on_itself": on_itself},
            "worst_group": None if group is None else {**group, **_under(found, "worst_group")},
            "class_prior": dict(zip(examples.label_names, prior.tolist())),
            "bootstrap": {
                "resamples": self.resamples,
                "level": self.level,
                "over": "examples" if clusters is None else "clusters",
                "units": n if clusters is None else len(np.unique(clusters)),
            },
        }

    def _measured(
        self, measures: Sequence[Measure], n: int, clusters: np.ndarray | None, seed: np.random.SeedSequence
    ) -> dict[str, dict[str, float]]:
        ranges = intervals.bootstrap_intervals(
            lambda counts: {name: np.asarray(v) for measure in measures for name, v in measure(counts).items()},
            n,
            clusters=clusters,
            resamples=self.resamples,
            seed=seed,
            level=self.level,
        )
        nothing = (float("nan"), float("nan"))
        return {
            name: {"value": float(value), **dict(zip(("low", "high"), ranges.get(name, nothing)))}
            for measure in measures
            for name, value in measure(None).items()
        }

    def _rule(
        self, evaluation_set: EvaluationSet, probabilities: np.ndarray, context: Mapping[str, Any]
    ) -> tuple[dict[str, Any] | None, bool]:
        """The decision rule for this set, and whether the set is the very data it was tuned on."""
        validation = _validation_as(evaluation_set, context)
        tuned = context.get("tuned") if evaluation_set.merge is None else None
        if tuned is None and validation is not None:
            tuned = thresholds.tune(*validation)
        on_itself = context.get("is_validation", evaluation_set.role == "id" and evaluation_set.split == "validation")
        if validation is not None and not on_itself:
            # The same data may stand under two names; then the model said the same about it.
            own = (evaluation_set.examples.labels, probabilities)
            on_itself = all(np.array_equal(mine, theirs) for mine, theirs in zip(own, validation))
        return tuned, bool(on_itself)

    def _worst_group(self, evaluation_set: EvaluationSet, probabilities: np.ndarray) -> dict[str, Any] | None:
        """The group with the lowest accuracy among those with ``min_group`` examples or more; of equals the first name."""
        groups = evaluation_set.examples.groups
        if groups is None:
            return None
        encoded = groups.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        correct = metrics.predicted_classes(probabilities) == evaluation_set.examples.labels
        candidates = []
        for code, name in enumerate(names):
            members = np.flatnonzero(indices == code)
            if len(members) >= self.min_group:
                candidates.append((float(correct[members].mean()), str(name), members))
        if not candidates:
            return None
        _, name, members = min(candidates, key=lambda candidate: candidate[:2])
        return {"group": name, "n": len(members), "groups": len(candidates), "members": members}


def _checked(evaluation_set: EvaluationSet, probabilities: np.ndarray) -> np.ndarray:
    """The probabilities as normalised float64 [N, K]; an error where they cannot be those of this set."""
    examples = evaluation_set.examples
    expected = (len(examples), len(examples.label_names))
    if probabilities.shape != expected:
        raise ValueError(f'the probabilities for "{evaluation_set.name}" have the shape {probabilities.shape}, not {expected}')
    if not np.isfinite(probabilities).all():
        raise UserError(
            f'the model\'s probabilities on the evaluation set "{evaluation_set.name}" contain NaN or infinity, so it cannot '
            "be measured; the training has probably diverged: try a lower learning rate or precision fp32"
        )
    return metrics.normalise(probabilities)


def _training_prior(evaluation_set: EvaluationSet, context: Mapping[str, Any]) -> np.ndarray | None:
    """The training classes' shares as the set's own classes, float64 [K] summing to 1."""
    prior = context.get("train_prior")
    if prior is None:
        return None
    row = np.asarray(prior, dtype=np.float64)[None, :]
    return metrics.normalise(row if evaluation_set.merge is None else metrics.merge_probabilities(row, evaluation_set.merge))[0]


def _validation_as(evaluation_set: EvaluationSet, context: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """ID validation seen through the set's merge; examples of classes that the set does not have are left out."""
    validation = context.get("validation")
    if validation is None:
        return None
    labels, probabilities = validation
    merge = evaluation_set.merge
    if merge is None:
        return labels, metrics.normalise(probabilities)
    merged = metrics.merge_labels(labels, merge, probabilities.shape[1])
    kept = merged >= 0
    return merged[kept], metrics.normalise(metrics.merge_probabilities(probabilities[kept], merge))


def _decisions(prefix: str, labels: np.ndarray, predictions: np.ndarray) -> Measure:
    return lambda counts: {
        f"{prefix}.accuracy": metrics.accuracy(labels, predictions, counts),
        f"{prefix}.macro_f1": metrics.macro_f1(labels, predictions, counts),
    }


def _accuracy_within(members: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> Measure:
    return lambda counts: {
        "worst_group.accuracy": metrics.accuracy(
            labels[members], predictions[members], None if counts is None else counts[:, members]
        )
    }


def _under(found: Mapping[str, dict[str, float]], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}."): entry for name, entry in found.items() if name.startswith(f"{prefix}.")}
