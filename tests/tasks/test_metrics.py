"""Every metric against scikit-learn, on a sample and on samples with multiplicities."""

import numpy as np
import pytest
from sklearn import metrics as sk

from ftft.tasks import metrics


def draw(n, k, seed, decimals=None):
    """Labels and informative probabilities; ``decimals`` rounds the scores, which makes many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(k, size=n)
    z = generator.normal(size=(n, k))
    z[np.arange(n), labels] += 1.0
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if decimals is not None:
        p = np.round(p, decimals) + 1e-9
        p /= p.sum(axis=1, keepdims=True)
    return labels, p


def sk_one_vs_rest(function, labels, p):
    if p.shape[1] == 2:
        return function(labels == 1, p[:, 1])
    return np.mean([function(labels == c, p[:, c]) for c in np.unique(labels)])


def sk_all(labels, p):
    one_hot = np.eye(p.shape[1])[labels]
    return {
        "accuracy": sk.accuracy_score(labels, p.argmax(axis=1)),
        "macro_f1": sk.f1_score(labels, p.argmax(axis=1), average="macro"),
        "auroc": sk_one_vs_rest(sk.roc_auc_score, labels, p),
        "average_precision": sk_one_vs_rest(sk.average_precision_score, labels, p),
        "brier": np.mean(((p - one_hot) ** 2).sum(axis=1)),
        "log_loss": sk.log_loss(labels, p, labels=np.arange(p.shape[1])),
    }


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("decimals", [None, 1])
def test_every_metric_equals_scikit_learn_with_and_without_ties(k, decimals):
    labels, p = draw(400, k, seed=k, decimals=decimals)
    for name, expected in sk_all(labels, p).items():
        assert metrics.METRICS[name](labels, p) == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("k", [2, 4])
def test_multiplicities_mean_the_same_as_repeated_rows(k):
    labels, p = draw(120, k, seed=1, decimals=1)
    counts = np.random.default_rng(2).integers(0, 4, size=(9, 120))
    for name, metric in metrics.METRICS.items():
        repeated = [metric(np.repeat(labels, row), np.repeat(p, row, axis=0)) for row in counts]
        np.testing.assert_allclose(metric(labels, p, counts), repeated, atol=1e-12, err_msg=name)
        assert metric(labels, p, counts[0]) == pytest.approx(repeated[0], abs=1e-12)


def test_all_metrics_gives_what_the_single_functions_give():
    labels, p = draw(150, 3, seed=3, decimals=1)
    counts = np.random.default_rng(4).integers(0, 3, size=(5, 150))
    together = metrics.all_metrics(labels, p, counts)
    assert list(together) == list(metrics.METRICS)
    for name, metric in metrics.METRICS.items():
        np.testing.assert_array_equal(together[name], metric(labels, p, counts))


def test_macro_f1_leaves_out_classes_that_are_neither_gold_nor_predicted():
    labels, predictions = np.array([0, 0, 2]), np.array([0, 2, 2])
    assert metrics.macro_f1(labels, predictions) == pytest.approx(2 / 3)  # class 1 does not pull the mean down
    assert metrics.macro_f1(np.array([0, 0]), np.array([0, 1])) == pytest.approx(1 / 3)  # predicted only: F1 is 0


def test_ranking_metrics_are_undefined_for_one_class_and_skip_it_among_many():
    p = np.array([[0.2, 0.8], [0.6, 0.4]])
    for metric in (metrics.auroc, metrics.average_precision):
        assert np.isnan(metric(np.array([1, 1]), p))
        assert np.isnan(metric(np.array([0, 0]), p))
    labels, p = draw(90, 3, seed=5)
    labels[labels == 2] = 0
    expected = np.mean([sk.roc_auc_score(labels == c, p[:, c]) for c in (0, 1)])
    assert metrics.auroc(labels, p) == pytest.approx(expected, abs=1e-12)


def test_a_resample_that_lost_a_class_is_nan_and_the_others_are_not():
    labels, p = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    counts = np.array([[0, 2, 1], [1, 1, 1]])
    assert np.isnan(metrics.auroc(labels, p, counts)).tolist() == [True, False]
    assert np.isnan(metrics.average_precision(labels, p, counts)).tolist() == [True, False]


def test_no_examples_give_nan_everywhere():
    for name, metric in metrics.METRICS.items():
        assert np.isnan(metric(np.zeros(0, dtype=np.int64), np.zeros((0, 2)))), name


def test_ece_by_hand_with_edges_in_the_lower_bin():
    p = np.array([[0.4, 0.6], [0.2, 0.8], [0.2, 0.8], [0.05, 0.95]])
    labels = np.array([1, 0, 1, 1])
    # Bins of 1/5: (.4, .6] holds .6; (.6, .8] holds both .8; (.8, 1] holds .95.
    expected = (abs(0.6 - 1) + abs(1.6 - 1) + abs(0.95 - 1)) / 4
    assert metrics.ece(labels, p, bins=5) == pytest.approx(expected)


def test_log_loss_is_finite_for_a_probability_of_zero():
    assert metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(np.finfo(float).eps))


def test_merging_sums_classes_and_maps_labels():
    p = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(metrics.merge_probabilities(p, [(0,), (1, 2)]), [[0.2, 0.8], [0.6, 0.4]])
    assert metrics.merge_labels(np.array([2, 0, 1]), [(0,), (1,)], 3).tolist() == [-1, 0, 1]
    for wrong in ([(0,), (0, 1)], [(0,), (3,)]):
        with pytest.raises(ValueError, match="at most once"):
            metrics.merge_probabilities(p, wrong)


def test_prior_correction_recovers_the_posterior_under_the_other_prior():
    # Two Gaussians with unit variance at -1 and 1: the posterior is known under every prior.
    x = np.linspace(-4, 4, 41)
    likelihood = np.exp(-0.5 * (x[:, None] - np.array([-1.0, 1.0])) ** 2)

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    train, target = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    np.testing.assert_allclose(metrics.correct_prior(posterior(train), train, target), posterior(target), atol=1e-12)


def test_prior_correction_survives_classes_unseen_in_training_and_rows_without_mass():
    p = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    corrected = metrics.correct_prior(p, np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5]))
    np.testing.assert_allclose(corrected, [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])


def test_normalise_makes_rows_sum_to_one_and_an_empty_row_uniform():
    p = metrics.normalise(np.array([[0.2, 0.2], [0.0, 0.0]], dtype=np.float32))
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, 0.5)
