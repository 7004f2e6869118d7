"""Tuned decision rules against brute force."""

import numpy as np
import pytest

from ftft.tasks import thresholds
from ftft.tasks.metrics import macro_f1


def binary(p1):
    p1 = np.asarray(p1, dtype=np.float64)
    return np.stack([1.0 - p1, p1], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_beats_the_tuned_one(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random(80) < 0.2).astype(np.int64)
    p1 = np.round(np.clip(0.3 * labels + generator.random(80) * 0.6, 0, 1), 2)
    rule = thresholds.tune(labels, binary(p1))
    every = [macro_f1(labels, (p1 > t).astype(np.int64)) for t in np.linspace(0, 1, 1001)]
    assert rule["macro_f1"] == pytest.approx(max(every), abs=1e-12)
    assert rule["macro_f1"] == pytest.approx(macro_f1(labels, thresholds.apply(rule, binary(p1))))


def test_of_equally_good_thresholds_the_one_closest_to_a_half_is_taken():
    labels = np.array([0, 0, 1, 1])
    assert thresholds.tune(labels, binary([0.1, 0.4, 0.6, 0.9]))["threshold"] == 0.5
    assert thresholds.tune(labels, binary([0.1, 0.2, 0.3, 0.9]))["threshold"] == pytest.approx(0.25)
    assert thresholds.tune(labels, binary([0.1, 0.7, 0.8, 0.9]))["threshold"] == pytest.approx(0.75)


def test_a_cut_between_neighbouring_floats_separates_them():
    low = 0.7
    high = np.nextafter(low, 1.0)
    rule = thresholds.tune(np.array([0, 1]), binary([low, high]))
    assert rule["macro_f1"] == 1.0
    assert thresholds.apply(rule, binary([low, high])).tolist() == [0, 1]


def test_offsets_undo_a_shifted_prior():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=900)
    z = generator.normal(size=(900, 3))
    z[np.arange(900), labels] += 2.0
    shifted = z + np.array([2.0, 0.0, -1.5])
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rule = thresholds.tune(labels, p)
    untouched, ideal = macro_f1(labels, p.argmax(axis=1)), macro_f1(labels, z.argmax(axis=1))
    assert rule["macro_f1"] >= ideal - 0.005 > untouched + 0.1
    assert rule["macro_f1"] == pytest.approx(macro_f1(labels, thresholds.apply(rule, p)))
    assert rule == thresholds.tune(labels, p)


def test_no_single_offset_can_be_improved_afterwards():
    generator = np.random.default_rng(1)
    labels = generator.choice(4, p=[0.6, 0.2, 0.15, 0.05], size=150)
    z = generator.normal(size=(150, 4))
    z[np.arange(150), labels] += 0.8
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    rule = thresholds.tune(labels, p, sweeps=50)
    assert rule["macro_f1"] > macro_f1(labels, p.argmax(axis=1))
    for c in range(4):
        for value in np.linspace(-6, 6, 481):
            offsets = list(rule["offsets"])
            offsets[c] = value
            assert macro_f1(labels, thresholds.apply({"offsets": offsets}, p)) <= rule["macro_f1"] + 1e-12


def test_perfect_predictions_need_no_offsets():
    labels = np.array([0, 1, 2, 1])
    assert thresholds.tune(labels, 0.9 * np.eye(3)[labels] + 0.1 / 3)["offsets"] == [0.0, 0.0, 0.0]


def test_one_class_gives_nothing_to_tune():
    assert thresholds.tune(np.array([1, 1]), binary([0.2, 0.8])) is None
    assert thresholds.tune(np.zeros(0, dtype=np.int64), np.zeros((0, 2))) is None


def test_an_offset_moves_only_where_macro_f1_rises():
    # All three log-probabilities are far apart and every cut of class 0 within a wide range is equally good.
    labels = np.array([0, 0, 1, 1, 2, 2])
    p = np.array([[0.9, 0.06, 0.04]] * 2 + [[0.5, 0.3, 0.2]] * 2 + [[0.1, 0.2, 0.7]] * 2)
    rule = thresholds.tune(labels, p)
    assert rule["macro_f1"] == 1.0
    assert rule["offsets"][1:] == [0.0, 0.0]  # lowering class 0 was enough
    assert rule["offsets"][0] < 0.0
