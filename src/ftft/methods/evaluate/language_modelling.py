"""How good is a language model on one evaluation set: loss, perplexity and token accuracy, each with a bootstrap interval.

    loss = -(sum over target tokens of log p) / (number of target tokens), in nats;   perplexity = exp(loss)

over all target tokens of the set, so that a long row counts as often as it has tokens. On a set with the role ``forget`` these
figures say what was unlearned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ftft.data.examples import EvaluationSet
from ftft.errors import UserError
from ftft.settings import setting
from ftft.tasks import intervals, sequences


@dataclass(frozen=True)
class LanguageModelling:
    """Figures of sequences with percentile bootstrap intervals, over clusters where the set has them and over rows elsewhere.

    A resample draws rows (or clusters), never single tokens: those of one row are not independent of each other.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "bootstrap: Efron and Tibshirani 1993"

    resamples: int = setting(1000, "bootstrap resamples; 0 gives no intervals", origin="Efron and Tibshirani 1993", ge=0)
    level: float = setting(0.95, "coverage of the intervals", gt=0, lt=1)

    def evaluate(
        self, evaluation_set: EvaluationSet, predictions: np.ndarray, *, seed: int, context: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Measure ``predictions`` (:data:`ftft.tasks.sequences.PREDICTIONS`, float64 [N, K]) on a set of N rows.

        Gives ``n``; ``tokens``, the target tokens; ``metrics`` {name: {"value", "low", "high"}}, what
        :func:`ftft.tasks.sequences.measure` gives; and ``bootstrap``, how the intervals were made. Raises UserError for
        predictions that are not finite.
        """
        if not np.isfinite(predictions).all():
            raise UserError(
                f'the model\'s loss on the evaluation set "{evaluation_set.name}" is NaN or infinite, so it cannot be '
                "measured; the training has probably diverged: try a lower learning rate or precision fp32"
            )
        examples = evaluation_set.examples
        n, clusters = len(examples), None if examples.clusters is None else intervals.codes(examples.clusters)
        limits = intervals.bootstrap_intervals(
            lambda counts: {name: np.asarray(values) for name, values in sequences.measure(predictions, counts).items()},
            n,
            clusters=clusters,
            resamples=self.resamples,
            seed=intervals.seed_for(seed, evaluation_set.name),
            level=self.level,
        )
        unknown = (float("nan"), float("nan"))
        return {
            "n": n,
            "tokens": int(predictions[:, sequences.PREDICTIONS.index("tokens")].sum()),
            "metrics": {
                name: {"value": float(value), **dict(zip(("low", "high"), limits.get(name, unknown)))}
                for name, value in sequences.measure(predictions).items()
            },
            "bootstrap": {
                "resamples": self.resamples,
                "level": self.level,
                "over": "examples" if clusters is None else "clusters",
                "units": n if clusters is None else len(np.unique(clusters)),
            },
        }
