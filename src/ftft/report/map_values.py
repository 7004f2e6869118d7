"""One data map in full, from dynamics of any kind: coordinates, trajectories, scores to choose by, likely label errors.

Where dynamics hold the probability of the label, that is what the map is drawn from. Others get the same map from what comes
nearest to it: preference dynamics from the sigmoid of their margin (the Bradley-Terry probability that the preferred answer
wins), rollouts from their pass rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from ftft.data.row_texts import names_of_classes
from ftft.dynamics.choosing import rank, subset_size
from ftft.dynamics.scores import available_scores, compute_scores
from ftft.dynamics.table import Dynamics
from ftft.dynamics.trajectories import quantities
from ftft.errors import UserError
from ftft.methods.selection import ExamplesOfDynamics
from ftft.report.map_points import MapPoints

REGIONS = ("ambiguous", "hard to learn", "easy to learn")
REGION_SHARE = 0.33
RATES = ("pass_rate", "success_rate", "reward_rate")  # statistics that are shares of right answers
DRAWN = ("confidence", "variability", "correctness")  # the scores that a drawing shows
CHUNK = 65_536


@dataclass(frozen=True)
class MapValues:
    """A map of N examples. ``name``: whose dynamics, in words; ``source``: what a recipe writes as ``use_dynamics_of``, None
    where it can name none. ``quantity``: what ``trajectory`` (float32 [E, N], NaN where not seen) is, in words.

    ``confidence``, ``variability`` (population) and, where the dynamics say it, ``correctness`` (epochs) and ``aum``: float64
    [N], NaN without a score; ``seen``: epochs, int [N]. ``region``: index into ``REGIONS``, -1 for none. ``preferred``: the
    class of the largest mean probability, int [N], -1 for none, or None. ``scores``: what a rule can rank by, float64 [N]
    each, as the selectors compute them by default; ``by_recipe``: whether a recipe's selectors give the same scores.
    ``selections``: by name, the examples chosen, bool [N].
    """

    name: str
    source: str | None
    quantity: str
    ids: pa.Array
    epochs: tuple[int, ...]
    trajectory: np.ndarray
    confidence: np.ndarray
    variability: np.ndarray
    correctness: np.ndarray | None
    aum: np.ndarray | None
    seen: np.ndarray
    region: np.ndarray
    preferred: np.ndarray | None
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    by_recipe: bool
    selections: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def classes_are_numbers(self) -> bool:
        """Whether the classes have no names but their indices."""
        return self.label_names == tuple(map(str, range(len(self.label_names))))

    def points(self) -> MapPoints:
        """What a drawing needs of it; selected are those of the first selection."""
        share = np.full(len(self.ids), np.nan, dtype=np.float32)
        if self.correctness is not None:
            np.divide(self.correctness, self.seen, out=share, where=self.seen > 0, casting="same_kind")
        return MapPoints(
            name=self.name,
            ids=self.ids,
            confidence=self.confidence.astype(np.float32),
            variability=self.variability.astype(np.float32),
            correctness=share,
            quantity=self.quantity,
            labels=self.labels,
            label_names=self.label_names,
            selected=next(iter(self.selections.values()), None),
        )


def map_values(dynamics: Dynamics, name: str, source: str | None = None, *, to_draw: bool = False) -> MapValues:
    """The map of dynamics; UserError where they hold nothing that a map can be drawn from, or fewer than two epochs.

    ``to_draw``: only what a drawing needs, of many millions of examples: no ``scores`` but the map's own, and neither
    trajectories ([E, 0]), regions ([0]) nor preferred classes.
    """
    held, quantity = _with_probability(dynamics)
    if len(held.epochs) < 2:
        raise UserError(f"a data map needs probabilities in at least 2 epochs, and {len(held.epochs)} were recorded")
    names = [one for one in available_scores(held) if one in DRAWN or not (to_draw or one == "random")]
    scores = compute_scores(held, names)
    confidence, variability = scores["confidence"], scores["variability"]
    view = ExamplesOfDynamics.of(dynamics)
    told = "correctness" in scores
    trajectory, region = np.empty((len(dynamics.epochs), 0), dtype=np.float32), np.empty(0, dtype=np.int64)
    probability = trajectory if told and to_draw else _trajectory(held)
    correctness = scores["correctness"] if told else _sign_correctness(held, probability, quantity)
    if not to_draw:
        trajectory = np.where(dynamics.seen, probability, np.float32(np.nan))
        region = _regions(confidence, variability, dynamics.ids)
    return MapValues(
        name=name,
        source=source,
        quantity=quantity,
        ids=dynamics.ids.cast(pa.string()),
        epochs=dynamics.epochs,
        trajectory=trajectory,
        confidence=confidence,
        variability=variability,
        correctness=correctness,
        aum=scores.get("aum"),
        seen=dynamics.seen.sum(axis=0),
        region=region,
        preferred=None if to_draw else _preferred(dynamics),
        labels=view.labels,
        label_names=view.label_names,
        scores=scores,
        by_recipe=held is dynamics,
    )


def with_selection(values: MapValues, name: str, chosen: np.ndarray) -> MapValues:
    """The map with one more selection, bool [N]."""
    return replace(values, selections={**values.selections, name: chosen})


def with_class_names(values: MapValues, labels: Mapping[str, str]) -> MapValues:
    """The map whose classes, where they have no names, have those that ``labels`` (id -> name) agree on."""
    if values.labels is None or not values.classes_are_numbers:
        return values
    names = names_of_classes(dict(zip(values.ids.to_pylist(), values.labels.tolist())), labels)
    return replace(values, label_names=tuple(names.get(code, name) for code, name in enumerate(values.label_names)))


def _with_probability(dynamics: Dynamics) -> tuple[Dynamics, str]:
    """Dynamics that hold a probability in every epoch, the given ones where they do, and what it is in words."""
    if "probability" in quantities(dynamics):
        whole = dynamics.logits is not None or dynamics.pair_probability is not None
        return (
            dynamics,
            "probability of the gold label" if whole else "probability of the target, geometric mean over its tokens",
        )
    rate = next((name for name in RATES if name in dynamics.statistics), None)
    if rate is not None:
        values, words = dynamics.statistics[rate], rate.replace("_", " ")
        inside = values[dynamics.seen]
        if len(inside) and not (inside.min() >= 0 and inside.max() <= 1):
            raise UserError(f"the statistic {rate} must lie between 0 and 1, and ranges from {inside.min()} to {inside.max()}")
    else:
        margin = dynamics.statistics.get("margin")
        if margin is None and dynamics.pair_logits is not None:
            margin = dynamics.pair_logits[:, :, 0] - dynamics.pair_logits[:, :, 1]
        if margin is None:
            raise UserError(
                "a data map needs the probability of the label in every epoch, a margin or a pass rate, and these dynamics "
                f"hold {', '.join(dynamics.statistics) or 'logits without labels'}"
            )
        values, words = _sigmoid(margin), "sigmoid of the margin"
    held = replace(dynamics, logits=None, pair_probability=values.astype(np.float32), metadata=_without_classes(dynamics))
    return held, words


def _without_classes(dynamics: Dynamics) -> dict[str, object]:
    return {key: value for key, value in dynamics.metadata.items() if key != "num_classes"}


def _sigmoid(values: np.ndarray) -> np.ndarray:
    wide = np.exp(-np.abs(values.astype(np.float64)))
    return np.where(values >= 0, 1.0, wide) / (1.0 + wide)


def _sign_correctness(held: Dynamics, trajectory: np.ndarray, quantity: str) -> np.ndarray | None:
    """Epochs in which a margin was positive, or more than half of the rollouts passed; None of plain probabilities, which
    do not say what was predicted."""
    if quantity.startswith("probability"):
        return None
    right = ((trajectory > 0.5) & held.seen).sum(axis=0).astype(np.float64)
    return np.where(held.seen.any(axis=0), right, np.nan)


def _trajectory(dynamics: Dynamics) -> np.ndarray:
    """The probability of the label in every epoch, float32 [E, N]; arbitrary where not seen."""
    if dynamics.logits is not None and dynamics.gold is not None:
        out = np.empty(dynamics.seen.shape, dtype=np.float32)
        for start in range(0, len(dynamics), CHUNK):
            rows = slice(start, start + CHUNK)
            p = _softmax(dynamics.logits[:, rows])
            out[:, rows] = np.take_along_axis(p, dynamics.gold[rows][None, :, None].astype(np.int64), axis=2)[:, :, 0]
        return out
    if dynamics.pair_probability is not None:
        return dynamics.pair_probability
    if "probability" in dynamics.statistics:
        return dynamics.statistics["probability"]
    return np.exp(dynamics.statistics["mean_log_probability"])


def _softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=2, keepdims=True)
    np.exp(wide, out=wide)
    return wide / wide.sum(axis=2, keepdims=True)


def _preferred(dynamics: Dynamics) -> np.ndarray | None:
    """The class with the largest mean probability over the seen epochs, int [N], of equal ones the first."""
    if dynamics.logits is None:
        if dynamics.gold is None or dynamics.pair_probability is None or dynamics.metadata.get("num_classes") != 2:
            return None
        # Of two classes the other one has the rest of the probability.
        total = np.where(dynamics.seen, dynamics.pair_probability - 0.5, 0.0).sum(axis=0)
        found = np.where(total >= 0, dynamics.gold, 1 - dynamics.gold)
        return np.where(dynamics.seen.any(axis=0), found, -1)
    out = np.full(len(dynamics), -1, dtype=np.int64)
    for start in range(0, len(dynamics), CHUNK):
        rows = slice(start, start + CHUNK)
        seen = dynamics.seen[:, rows]
        p = np.where(seen[:, :, None], _softmax(np.where(seen[:, :, None], dynamics.logits[:, rows], 0.0)), 0.0).sum(axis=0)
        out[rows] = np.where(seen.any(axis=0), p.argmax(axis=1), -1)
    return out


def _regions(confidence: np.ndarray, variability: np.ndarray, ids: pa.Array) -> np.ndarray:
    """Ambiguous: the 33 % of highest variability; hard: of the rest those among the 33 % of lowest confidence; easy: the
    others (Swayamdipta et al. 2020; the share is FTFT's). int [N], -1 without a score."""
    region = np.full(len(ids), -1, dtype=np.int64)
    scored = np.flatnonzero(~np.isnan(confidence) & ~np.isnan(variability))
    if len(scored):
        k = subset_size(REGION_SHARE, len(scored))
        region[scored] = 2
        region[rank(-confidence, ids, scored, k)] = 1
        region[rank(variability, ids, scored, k)] = 0
    return region
