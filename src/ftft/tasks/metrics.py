"""Classification metrics in float64 numpy, each a function of labels, predictions and multiplicities.

Common shapes, N examples over K classes:

``labels``         int64 [N], the gold class
``probabilities``  float64 [N, K], rows summing to 1
``counts``         how often each example stands in the sample: None (once each), [N], or [R, N] for R resamples

Every metric gives a float for ``counts`` None or [N], and float64 [R] for [R, N]: a bootstrap resample is a row of
multiplicities, so that sorting and argmax are done once for a whole block of resamples. A metric that is undefined for
a sample (no examples, one class only) is NaN there. The class with the largest probability is predicted, the first of
equals. In the binary case class 1 is the positive one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Values = float | np.ndarray
Metric = Callable[..., Values]
LOWER_IS_BETTER = ("ece", "brier", "log_loss", "loss", "perplexity")
UNBOUNDED = ("log_loss", "loss", "perplexity")  # no shares, so not told in per cent
LOG_FLOOR = float(np.finfo(np.float64).eps)  # scikit-learn's floor for a float64 probability under the logarithm


def accuracy(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Share of right predictions; ``predictions`` are classes int [N], or probabilities [N, K]."""
    correct = (predicted_classes(predictions) == labels).astype(np.float64)
    return _mean(correct, counts)


def macro_f1(labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Unweighted mean of F1_c = 2 TP_c / (gold_c + predicted_c); ``predictions`` as in :func:`accuracy`.

    The mean runs over the classes that occur in the gold labels or the predictions *of the sample* (a resample drops
    the classes it lost), which is what scikit-learn's ``average="macro"`` does by default.
    """
    classes = predicted_classes(predictions)
    w, scalar = _weights(counts, len(labels))
    k = 1 + int(max(labels.max(initial=0), classes.max(initial=0)))
    gold, guessed = sums_by(labels, k, w), sums_by(classes, k, w)
    right = sums_by(labels, k, w * (classes == labels))
    return _give(mean_f1(right, gold, guessed), scalar)


def auroc(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Area under the ROC curve: P(score of a positive > score of a negative) + P(equal) / 2.

    Binary: of the probability of class 1. More classes: one-vs-rest, unweighted mean over the classes that have both
    positives and negatives in the sample. NaN where no class has.
    """
    return _one_vs_rest((_auroc,), labels, probabilities, counts)[0]


def average_precision(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Average precision: sum over thresholds of (recall step) * precision, without interpolation; equal scores are one
    threshold (scikit-learn's definition). Classes as in :func:`auroc`."""
    return _one_vs_rest((_average_precision,), labels, probabilities, counts)[0]


def ece(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None, *, bins: int = 15) -> Values:
    """Expected calibration error of the top probability over equal-width bins (Guo et al. 2017, eq. 5).

    sum_b n_b/n |accuracy_b - mean confidence_b|, bin b holding the confidences in ((b-1)/bins, b/bins]. Its absolute
    values only add up under resampling noise, so a bootstrap interval lies somewhat above the value it belongs to.
    """
    w, scalar = _weights(counts, len(labels))
    confidence = probabilities.max(axis=1, initial=0.0)
    gap = confidence - (predicted_classes(probabilities) == labels)
    bin_of = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence, side="left")
    return _give(_ratio(np.abs(sums_by(bin_of, bins, w * gap)).sum(axis=1), w.sum(axis=1)), scalar)


def brier(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Brier score, the original sum over all classes: mean of sum_c (p_c - [c = gold])^2, from 0 to 2.

    For two classes it is twice the one-probability form that some libraries give.
    """
    at_gold = probabilities[np.arange(len(labels)), labels]
    return _mean(np.square(probabilities).sum(axis=1) - 2.0 * at_gold + 1.0, counts)


def log_loss(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> Values:
    """Mean of -ln p(gold), in nats, with p not below the float64 epsilon."""
    at_gold = probabilities[np.arange(len(labels)), labels]
    return _mean(-np.log(np.clip(at_gold, LOG_FLOOR, 1.0)), counts)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
    "average_precision": average_precision,
    "ece": ece,
    "brier": brier,
    "log_loss": log_loss,
}


def all_metrics(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None, *, bins: int = 15
) -> dict[str, Values]:
    """Every metric of ``METRICS`` by name; the rankings, which take most of the time, are made once for both that use them."""
    predictions = predicted_classes(probabilities)
    area, precision = _one_vs_rest((_auroc, _average_precision), labels, probabilities, counts)
    return {
        "accuracy": accuracy(labels, predictions, counts),
        "macro_f1": macro_f1(labels, predictions, counts),
        "auroc": area,
        "average_precision": precision,
        "ece": ece(labels, probabilities, counts, bins=bins),
        "brier": brier(labels, probabilities, counts),
        "log_loss": log_loss(labels, probabilities, counts),
    }


STEERING = ("accuracy", "macro_f1", "auroc", "average_precision", "loss")


def steering_scores(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None) -> dict[str, Values]:
    """The scores a training can be steered by, of probabilities [N, K] that need not be normalised."""
    found = all_metrics(labels, normalise(probabilities), counts)
    return {name: found["log_loss" if name == "loss" else name] for name in STEERING}


def predicted_classes(predictions: np.ndarray) -> np.ndarray:
    """int64 [N]: the classes themselves where ``predictions`` is [N], the argmax of probabilities [N, K]."""
    return predictions if predictions.ndim == 1 else predictions.argmax(axis=1)


def normalise(probabilities: np.ndarray) -> np.ndarray:
    """Rows divided by their sum, float64: undoes float32 rounding; a row of zeros (nothing of the model's mass lies on
    the set's classes) becomes uniform."""
    p = np.asarray(probabilities, dtype=np.float64)
    total = p.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, p / np.where(total > 0.0, total, 1.0), 1.0 / p.shape[1])


def merge_probabilities(probabilities: np.ndarray, merge: Sequence[Sequence[int]]) -> np.ndarray:
    """Sum the model's classes into a set's own: [N, C] -> float64 [N, K], column k summing the columns ``merge[k]``.

    Model classes that no group lists are left out, and rows then sum to less than 1. ValueError where a class stands
    in two groups or does not exist.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    _check_merge(merge, probabilities.shape[1])
    return np.stack([probabilities[:, list(group)].sum(axis=1) for group in merge], axis=1)


def merge_labels(labels: np.ndarray, merge: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """The model's classes int [N] as the set's own, int64 [N]; -1 for a class that no group of ``merge`` lists."""
    _check_merge(merge, num_classes)
    target = np.full(num_classes, -1, dtype=np.int64)
    for k, group in enumerate(merge):
        target[list(group)] = k
    return target[labels]


def class_prior(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The share of each class, float64 [K]; NaN without examples."""
    return _ratio(np.bincount(labels, minlength=num_classes).astype(np.float64), np.float64(len(labels)))


def correct_prior(probabilities: np.ndarray, training_prior: np.ndarray, target_prior: np.ndarray) -> np.ndarray:
    """Posterior under another class prior: p'(c|x) proportional to p(c|x) target(c) / training(c), float64 [N, K].

    Bayes' rule for label shift (Saerens et al. 2002, eq. 2.4) with the target prior given, so without their EM. With
    the evaluation set's own class counts as the target it uses test labels: a diagnostic that shows how much of a
    difference is mere prior shift, never an estimate of what a deployed model reaches. A class that training never
    showed keeps its weight (nothing is known to divide by); a row left without mass becomes the target prior.
    """
    target, training = np.asarray(target_prior, dtype=np.float64), np.asarray(training_prior, dtype=np.float64)
    known = training > 0.0
    reweighted = probabilities * np.where(known, target / np.where(known, training, 1.0), 1.0)
    total = reweighted.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, reweighted / np.where(total > 0.0, total, 1.0), target)


def sums_by(codes: np.ndarray, k: int, weights: np.ndarray) -> np.ndarray:
    """Sums of ``weights`` [R, N] over the examples of each code 0 <= ``codes`` [N] < k: float64 [R, k]."""
    sums = np.zeros((weights.shape[0], k))
    if len(codes):
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _check_merge(merge: Sequence[Sequence[int]], num_classes: int) -> None:
    listed = [c for group in merge for c in group]
    if len(set(listed)) != len(listed) or not all(0 <= c < num_classes for c in listed):
        raise ValueError(f"merge {merge} must list each of the model's {num_classes} classes at most once")


def _weights(counts: np.ndarray | None, n: int) -> tuple[np.ndarray, bool]:
    """Multiplicities as float64 [R, N], and whether the caller wants a single float back."""
    if counts is None:
        return np.ones((1, n)), True
    w = np.asarray(counts, dtype=np.float64)
    return (w[None, :], True) if w.ndim == 1 else (w, False)


def _give(values: np.ndarray, scalar: bool) -> Values:
    return float(values[0]) if scalar else values


def _ratio(numerator: np.ndarray, denominator: np.ndarray | np.float64) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=np.broadcast_to(denominator != 0, shape))


def _mean(values: np.ndarray, counts: np.ndarray | None) -> Values:
    w, scalar = _weights(counts, len(values))
    return _give(_ratio(w @ values, w.sum(axis=1)), scalar)


def mean_f1(right: np.ndarray, gold: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """From sums per class, each [R, K]: the mean F1 over the classes with any gold or predicted example, [R]."""
    either = gold + guessed
    f1 = np.divide(2.0 * right, either, out=np.zeros_like(either), where=either > 0)
    return _ratio(f1.sum(axis=1), (either > 0).sum(axis=1))


def _one_vs_rest(
    functions: Sequence[Callable[[_Ranking], np.ndarray]],
    labels: np.ndarray,
    probabilities: np.ndarray,
    counts: np.ndarray | None,
) -> list[Values]:
    """Each function of the rankings, averaged over the classes for which it is defined in the sample."""
    w, scalar = _weights(counts, len(labels))
    binary = probabilities.shape[1] == 2
    classes = np.array([1]) if binary else np.unique(labels)
    total, defined = np.zeros((len(functions), len(w))), np.zeros((len(functions), len(w)))
    for c in classes:
        ranking = _Ranking(probabilities[:, c], labels == c, w)
        for i, function in enumerate(functions):
            value = function(ranking)
            total[i] += np.nan_to_num(value)
            defined[i] += ~np.isnan(value)
    return [_give(mean, scalar) for mean in _ratio(total, defined)]


class _Ranking:
    """Weighted counts at each of the P positives of a ranking from the highest score down, for R samples at once.

    ``w`` [R, P]: the positives' multiplicities. ``*_above`` and ``*_down_to`` [R, P]: how many (``all``, or positives
    ``hits``) score strictly above a positive, and at least as high. Only positives enter the sums, which keeps
    one-vs-rest over many classes cheap.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, at = scores[order], np.flatnonzero(positive[order])
        first = np.searchsorted(-ranked, -ranked[at], side="left")
        end = np.searchsorted(-ranked, -ranked[at], side="right")
        everyone = _cumulative(weights[:, order])
        self.w = weights[:, order[at]]
        hits = _cumulative(self.w)
        self.all_above, self.all_down_to = everyone[:, first], everyone[:, end]
        self.hits_above = hits[:, np.searchsorted(at, first, side="left")]
        self.hits_down_to = hits[:, np.searchsorted(at, end, side="left")]
        self.positives = hits[:, -1]
        self.negatives = everyone[:, -1] - self.positives


def _cumulative(values: np.ndarray) -> np.ndarray:
    """Cumulative sums along the rows with a zero in front: [R, N] -> [R, N + 1]."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _auroc(r: _Ranking) -> np.ndarray:
    misses_above, misses_down_to = r.all_above - r.hits_above, r.all_down_to - r.hits_down_to
    # A positive beats the negatives below it and half of those level with it (mid-ranks).
    beaten = r.negatives[:, None] - 0.5 * (misses_above + misses_down_to)
    return _ratio((r.w * beaten).sum(axis=1), r.positives * r.negatives)


def _average_precision(r: _Ranking) -> np.ndarray:
    precision = np.divide(r.hits_down_to, r.all_down_to, out=np.zeros_like(r.w), where=r.all_down_to > 0)
    value = _ratio((r.w * precision).sum(axis=1), r.positives)
    return np.where(r.negatives > 0, value, np.nan)
