"""How much of what the model knew before training is lost: its accuracy on earlier knowledge, now minus before, paired.

    d = A(trained) - A(base)         over the same examples of an evaluation set with the role ``forget``

with the bootstrap interval of the difference: both models are measured on the same resamples (of clusters where the set has
them), so that what is common to both drops out. Over several sets their unweighted mean, each set resampled by itself. Below
0 something was forgotten.

The measure is that of sequential tasks: Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 3 (backward transfer) with two
tasks. The base must bring a head for the recipe's labels: a head that was drawn at random knows nothing to forget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ftft.settings import setting
from ftft.tasks import intervals

if TYPE_CHECKING:
    from ftft.methods.contract import Measured


@dataclass(frozen=True)
class Forgetting:
    """Accuracy on the sets with role forget, minus that of the model before training, with paired intervals."""

    needs: ClassVar[tuple[str, ...]] = ("base_predictions",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Lopez-Paz and Ranzato 2017, arXiv 1706.08840 (backward transfer)"

    resamples: int = setting(1000, "bootstrap resamples; 0 gives no intervals", origin="as classification", ge=0)
    level: float = setting(0.95, "coverage of the intervals", gt=0, lt=1)

    def evaluate(self, measured: Measured, *, seed: int) -> Mapping[str, Any]:
        """``sets``: for each forget set ``n`` and, for accuracy and macro-F1, ``now``, ``before`` and ``difference``, each
        {"value", "low", "high"}; ``mean``: their mean differences; ``sentence``."""
        draws = {}
        for name, one in measured.sets.items():
            if one.role == "forget":
                now, before = measured.probabilities(name), measured.base_probabilities(name)
                draws[name] = intervals.paired_draws(
                    one.examples.labels,
                    np.stack([now.argmax(axis=1), before.argmax(axis=1)]),
                    clusters=None if one.examples.clusters is None else intervals.codes(one.examples.clusters),
                    resamples=self.resamples,
                    seed=intervals.seed_for(seed, name),
                )
        sets = {
            name: {
                "n": len(measured.sets[name].examples),
                **{metric: self._figures(values) for metric, values in found.items()},
            }
            for name, found in draws.items()
        }
        means = {
            metric: self._figures(intervals.mean_of_sets([found[metric] for found in draws.values()]))
            for metric in ("accuracy", "macro_f1")
        }
        over = next(iter(sets)) if len(sets) == 1 else f"{len(sets)} sets of earlier knowledge"
        return {"sets": sets, "mean": means, "sentence": f"on {over} {_said(means['accuracy'])}"}

    def _figures(self, draws: np.ndarray) -> dict[str, dict[str, float]]:
        """Of paired draws [1 + R, 2]: now, before and their difference."""
        now, before = draws[:, 0], draws[:, 1]
        parts = {"now": now, "before": before, "difference": now - before}
        return {name: intervals.interval_of(values, self.level) for name, values in parts.items()}


def _said(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    difference = accuracy["difference"]
    points = f"{100 * difference['value']:+.1f} points"
    if np.isfinite([difference["low"], difference["high"]]).all():
        points += f" [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    return f"accuracy {100 * accuracy['now']['value']:.1f} % after {100 * accuracy['before']['value']:.1f} % before: {points}"
