"""Every score against the known table, its properties, and its refusals."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.dynamics import score_names
from ftft.dynamics.scores import SCORES, available_scores, choose_epochs, compute_score, compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError

PLAIN = ["confidence", "variability", "correctness", "forgetting", "threshold_closeness", "aum", "el2n", "dyn_unc", "dual"]


def permuted(dynamics: Dynamics, order: np.ndarray) -> Dynamics:
    return Dynamics(
        dynamics.ids.take(pa.array(order)),
        dynamics.epochs,
        dynamics.seen[:, order],
        gold=dynamics.gold[order],
        logits=dynamics.logits[:, order],
    )


@pytest.mark.parametrize("name", PLAIN)
def test_score_equals_the_known_table(fixture_a, name):
    np.testing.assert_allclose(compute_score(fixture_a.dynamics, name), fixture_a.expected[name], atol=1e-6)


def test_sample_and_confidence_interval_variability_equal_the_known_table(fixture_a):
    sample = compute_score(fixture_a.dynamics, "variability", ddof=1)
    with_ci = compute_score(fixture_a.dynamics, "variability", include_ci=True)
    np.testing.assert_allclose(sample, fixture_a.expected["sample_std"], atol=1e-6)
    np.testing.assert_allclose(with_ci, fixture_a.expected["with_ci"], atol=1e-6)


def test_burn_out_of_two_keeps_the_first_two_epochs(fixture_a):
    chosen = choose_epochs(fixture_a.dynamics, first=2)
    scores = compute_scores(fixture_a.dynamics, ["confidence", "variability", "correctness", "forgetting"], epochs=chosen)
    rows = [fixture_a.ids.index(letter) for letter in "cdfi"]
    expected = {
        "confidence": [0.25, 0.55, 0.20, 0.92],
        "variability": [0.15, 0.25, 0.0, 0.07],
        "correctness": [0, 1, 0, 2],
        "forgetting": [1000, 1, 1000, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name][rows], values, atol=1e-6)


def test_entropy_and_loss_equal_their_binary_formulas(fixture_a):
    p = fixture_a.p_true
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=0)
    np.testing.assert_allclose(compute_score(fixture_a.dynamics, "entropy"), entropy, atol=1e-6)
    np.testing.assert_allclose(compute_score(fixture_a.dynamics, "loss"), -np.log(p).mean(axis=0), atol=1e-6)


def test_the_first_of_tied_classes_is_the_prediction():
    logits = np.zeros((2, 2, 3), dtype=np.float32)
    dynamics = Dynamics(
        pa.array(["x", "y"]), (0, 1), np.ones((2, 2), dtype=bool), gold=np.array([0, 1], np.int32), logits=logits
    )
    assert compute_score(dynamics, "correctness").tolist() == [2, 0]


def reference_scores(logits: np.ndarray, gold: int, window: int) -> dict[str, float]:
    """One example's scores, [E, C] logits of its seen epochs, written plainly with the math module."""
    p, correct, margins, entropies, losses, errors = [], [], [], [], [], []
    for row in logits.astype(float):
        total = math.fsum(math.exp(z - max(row)) for z in row)
        shares = [math.exp(z - max(row)) / total for z in row]
        p.append(shares[gold])
        correct.append(list(row).index(max(row)) == gold)
        margins.append(row[gold] - max(z for index, z in enumerate(row) if index != gold))
        entropies.append(-math.fsum(s * math.log(s) for s in shares if s > 0))
        losses.append(-math.log(shares[gold]))
        errors.append(math.sqrt(math.fsum((s - (index == gold)) ** 2 for index, s in enumerate(shares))))

    def mean(values):
        return math.fsum(values) / len(values)

    def std(values, ddof):
        return math.sqrt(math.fsum((v - mean(values)) ** 2 for v in values) / (len(values) - ddof))

    parts = [p[start : start + window] for start in range(len(p) - window + 1)]
    return {
        "confidence": mean(p),
        "variability": std(p, 0) if len(p) > 1 else math.nan,
        "correctness": sum(correct),
        "forgetting": sum(a and not b for a, b in zip(correct, correct[1:])) if any(correct) else 1000,
        "threshold_closeness": mean(p) * (1 - mean(p)),
        "entropy": mean(entropies),
        "aum": mean(margins),
        "el2n": errors[-1],
        "dyn_unc": mean([std(part, 1) for part in parts]) if parts else math.nan,
        "dual": mean([std(part, 1) * (1 - mean(part)) for part in parts]) if parts else math.nan,
        "loss": mean(losses),
    }


@pytest.mark.parametrize("classes", [2, 4, 40])
@pytest.mark.parametrize("unseen", [0.0, 0.4])
def test_scores_equal_a_plain_computation_over_the_seen_epochs(random_dynamics, unseen, classes):
    dynamics = random_dynamics(60, 5, classes, seed=3, unseen=unseen)
    scores = compute_scores(dynamics)
    for row in range(len(dynamics)):
        seen = dynamics.seen[:, row]
        if not seen.any():
            continue
        expected = reference_scores(dynamics.logits[seen, row], int(dynamics.gold[row]), window=3)
        for name, value in expected.items():
            np.testing.assert_allclose(scores[name][row], value, atol=1e-9, err_msg=f"{name} of row {row}")


def test_an_example_that_was_never_seen_has_no_score_but_a_random_one(random_dynamics):
    dynamics = random_dynamics(5)
    dynamics.seen[:, 2] = False
    dynamics.seen[1:, 3] = False
    scores = compute_scores(dynamics)
    for name, values in scores.items():
        assert np.isnan(values[2]) == (name != "random"), name
    assert np.isnan([scores[name][3] for name in ("variability", "dyn_unc", "dual")]).all()
    assert np.isfinite(scores["confidence"][3])


def test_values_where_an_example_was_not_seen_do_not_matter(random_dynamics):
    dynamics, other = random_dynamics(30, unseen=0.3), random_dynamics(30, unseen=0.3)
    other.logits[~other.seen] = np.nan
    for name, values in compute_scores(dynamics).items():
        np.testing.assert_array_equal(values, compute_scores(other)[name])


def test_a_row_of_zeros_is_a_prediction_like_any_other():
    logits = np.zeros((2, 1, 2), dtype=np.float32)
    dynamics = Dynamics(pa.array(["x"]), (0, 1), np.ones((2, 1), dtype=bool), gold=np.zeros(1, np.int32), logits=logits)
    assert compute_score(dynamics, "confidence").tolist() == [0.5]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), epochs=st.integers(3, 6), classes=st.integers(2, 5), unseen=st.sampled_from([0.0, 0.3]))
def test_scores_do_not_depend_on_row_order_class_names_or_a_constant(random_dynamics, seed, epochs, classes, unseen):
    dynamics = random_dynamics(23, epochs, classes, seed, unseen)
    scores = compute_scores(dynamics)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(dynamics))
    for name, values in compute_scores(permuted(dynamics, order)).items():
        np.testing.assert_array_equal(values, scores[name][order], err_msg=name)
    renamed = generator.permutation(classes)
    other = Dynamics(
        dynamics.ids,
        dynamics.epochs,
        dynamics.seen,
        gold=np.argsort(renamed)[dynamics.gold].astype(np.int32),
        logits=dynamics.logits[:, :, renamed] + np.float32(4.0),
    )
    for name, values in compute_scores(other).items():
        np.testing.assert_allclose(values, scores[name], atol=1e-5, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), epochs=st.integers(2, 7))
def test_population_variability_is_bounded_and_in_fixed_ratio_to_the_sample_one(random_dynamics, seed, epochs):
    dynamics = random_dynamics(31, epochs, 3, seed)
    population, sample = (compute_score(dynamics, "variability", ddof=ddof) for ddof in (0, 1))
    confidence = compute_score(dynamics, "confidence")
    assert ((population >= 0) & (population <= 0.5)).all()
    assert (population <= np.sqrt(confidence * (1 - confidence)) + 1e-12).all()
    np.testing.assert_allclose(sample, population * math.sqrt(epochs / (epochs - 1)), rtol=1e-9)


def test_random_depends_on_the_id_and_the_seed_alone(random_dynamics):
    dynamics = random_dynamics(500)
    scores = compute_score(dynamics, "random", seed=1)
    part = permuted(dynamics, np.arange(499, 99, -3))
    np.testing.assert_array_equal(compute_score(part, "random", seed=1), scores[499:99:-3])
    assert (compute_score(dynamics, "random", seed=2) != scores).all()
    assert len(np.unique(scores)) == 500 and abs(scores.mean() - 0.5) < 0.05 and scores.min() >= 0 and scores.max() < 1


def test_random_tells_ids_of_any_length_apart():
    ids = ["", "a", "a\0", "aaaaaaaa", "aaaaaaaaa", "aaaaaaab", "é" * 40, "x" * 100_000, "x" * 99_999 + "y"]
    dynamics = Dynamics(pa.array(ids), (0,), np.ones((1, len(ids)), dtype=bool))
    whole = compute_score(dynamics, "random")
    assert len(set(whole.tolist())) == len(ids)
    alone = Dynamics(pa.array(ids).slice(6, 1), (0,), np.ones((1, 1), dtype=bool))
    assert compute_score(alone, "random")[0] == whole[6]


def test_gold_probabilities_alone_give_the_scores_that_they_determine(fixture_a):
    a = fixture_a.dynamics
    probability = fixture_a.p_true.astype(np.float32)
    dynamics = Dynamics(a.ids, a.epochs, a.seen, gold=a.gold, pair_probability=probability)
    assert " ".join(available_scores(dynamics)) == "confidence variability threshold_closeness dyn_unc dual loss random"
    dynamics.metadata["num_classes"] = 2
    scores = compute_scores(dynamics)
    for name in set(PLAIN) - {"aum"}:
        np.testing.assert_allclose(scores[name], fixture_a.expected[name], atol=1e-6, err_msg=name)
    with pytest.raises(UserError, match='"aum" needs the logit of the gold class'):
        compute_score(dynamics, "aum")


def test_pairs_of_logits_give_the_scores_of_all_logits(random_dynamics):
    from ftft.dynamics.buffer import gold_and_largest_other

    full = random_dynamics(20, 4, 5)
    pairs = [gold_and_largest_other(logits, full.gold) for logits in full.logits]
    pair = Dynamics(
        full.ids,
        full.epochs,
        full.seen,
        gold=full.gold,
        pair_logits=np.stack([p for p, _ in pairs]),
        pair_probability=np.stack([q for _, q in pairs]),
    )
    expected = compute_scores(full)
    scores = compute_scores(pair)
    assert set(expected) - set(scores) == {"entropy", "el2n"}
    for name, values in scores.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)


def test_sequence_statistics_are_scored_by_their_probability():
    mean_log = np.log(np.array([[0.2], [0.4], [0.6]], dtype=np.float32))
    statistics = {"mean_log_probability": mean_log, "entropy": np.array([[1.0], [2.0], [6.0]], np.float32)}
    dynamics = Dynamics(pa.array(["s"]), (0, 1, 2), np.ones((3, 1), dtype=bool), statistics=statistics)
    scores = compute_scores(dynamics)
    np.testing.assert_allclose(scores["confidence"], [0.4], atol=1e-6)
    np.testing.assert_allclose(scores["loss"], -mean_log.mean(), atol=1e-6)
    np.testing.assert_allclose(scores["entropy"], [3.0])
    assert "correctness" not in scores


@pytest.mark.parametrize(
    ("name", "epochs", "sentence"),
    [
        ("variability", 1, "needs at least 2 epochs, and there is 1"),
        ("dual", 2, "needs at least 3 epochs"),
        ("dyn_unc", 2, "needs at least 3 epochs"),
        ("variabilty", 4, 'did you mean "variability"'),
    ],
)
def test_impossible_scores_are_refused(random_dynamics, name, epochs, sentence):
    with pytest.raises(UserError, match=sentence):
        compute_score(random_dynamics(5, epochs), name)


def test_logits_that_are_not_finite_are_refused_by_id_and_epoch(random_dynamics):
    for bad in (np.nan, np.inf, -np.inf):
        dynamics = random_dynamics(7)
        dynamics.logits[2, 4, 1] = bad
        name = dynamics.ids[4].as_py()
        with pytest.raises(UserError, match=f'the logit of example "{name}" in epoch 2 is not a finite number'):
            compute_score(dynamics, "confidence")
        assert np.isfinite(compute_score(dynamics, "confidence", epochs=[0, 1, 3])).all()


def test_unfit_settings_are_refused(random_dynamics):
    dynamics = random_dynamics(5)
    with pytest.raises(UserError, match="a window of 5 epochs"):
        compute_score(dynamics, "dual", window=5)
    with pytest.raises(UserError, match="ddof is 2"):
        compute_score(dynamics, "variability", ddof=2)
    with pytest.raises(UserError, match=r"epochs \[9\] are not in these dynamics"):
        compute_score(dynamics, "confidence", epochs=[0, 9])


def test_epochs_are_chosen_by_every_rule(random_dynamics):
    dynamics = random_dynamics(3, 5)
    assert choose_epochs(dynamics) == [0, 1, 2, 3, 4]
    assert choose_epochs(dynamics, drop_first=1) == [1, 2, 3, 4]
    assert choose_epochs(dynamics, drop_first=1, first=2) == [1, 2]
    assert choose_epochs(dynamics, last=2) == [3, 4]
    assert choose_epochs(dynamics, only=[3, 0]) == [0, 3]
    for unfit in ({"drop_first": 5}, {"first": 0}, {"only": []}, {"first": 1, "last": 1}, {"drop_first": -1}):
        with pytest.raises(UserError):
            choose_epochs(dynamics, **unfit)


def test_every_listed_score_can_be_computed():
    assert set(SCORES) == set(score_names.SCORES)


def test_many_examples_are_scored_by_threads_to_the_same_bits(random_dynamics, monkeypatch):
    dynamics = random_dynamics(300, unseen=0.2)
    straight = compute_scores(dynamics)
    monkeypatch.setattr("ftft.dynamics.scores.CHUNK", 7)
    for name, values in compute_scores(dynamics).items():
        np.testing.assert_array_equal(values, straight[name], err_msg=name)
    monkeypatch.setattr("ftft.dynamics.scores.CHUNK_VALUES", 1)  # as of very many classes
    for name, values in compute_scores(dynamics).items():
        np.testing.assert_array_equal(values, straight[name], err_msg=name)
