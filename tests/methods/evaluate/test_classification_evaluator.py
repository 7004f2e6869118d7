"""What the evaluator reports for one set: figures with intervals, tuning without leaks, merges, groups, clusters."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from ftft.data.examples import EvaluationSet, Examples
from ftft.errors import UserError
from ftft.files import write_json
from ftft.methods.contract import Evaluator
from ftft.methods.evaluate.classification import Classification
from ftft.tasks import metrics, thresholds

NOTHING = {"train_prior": None, "validation": None, "tuned": None}


def draw(n, k, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(k, size=n)
    z = generator.normal(size=(n, k))
    z[np.arange(n), labels] += 1.5
    z[:, 0] += shift
    return labels, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def make_set(labels, k, name="test", role="ood", split="test", merge=None, groups=None, clusters=None):
    examples = Examples(
        ids=pa.array([str(i) for i in range(len(labels))]),
        inputs={},
        labels=labels,
        label_names=tuple(f"c{i}" for i in range(k)),
        fingerprint="f",
        groups=None if groups is None else pa.array(groups),
        clusters=None if clusters is None else pa.array(clusters),
    )
    return EvaluationSet(name, examples, role, split, merge)


def test_every_metric_has_its_value_inside_a_seeded_interval():
    labels, p = draw(300, 3, seed=0)
    evaluator, one = Classification(resamples=200), make_set(labels, 3)
    report = evaluator.evaluate(one, p, seed=1, context=NOTHING)
    assert isinstance(evaluator, Evaluator)
    assert report["n"] == 300
    assert set(report["metrics"]) == set(metrics.METRICS)
    for name, entry in report["metrics"].items():
        assert entry["value"] == pytest.approx(metrics.METRICS[name](labels, p), abs=1e-12)
        assert entry["low"] < entry["high"]
        if name != "ece":  # resampling noise pushes the calibration error up
            assert entry["low"] < entry["value"] < entry["high"]
    assert report["class_prior"]["c1"] == pytest.approx(np.mean(labels == 1))
    assert report["worst_group"] is report["prior_corrected"] is report["tuned_threshold"] is None
    assert report["metrics"] == evaluator.evaluate(one, p, seed=1, context=NOTHING)["metrics"]
    assert report["metrics"] != evaluator.evaluate(one, p, seed=2, context=NOTHING)["metrics"]


def test_tuned_figures_use_the_rule_of_the_validation_set():
    labels, p = draw(400, 2, seed=1, shift=1.5)
    validation = draw(400, 2, seed=2, shift=1.5)
    evaluator = Classification(resamples=50)
    context = {**NOTHING, "validation": validation}
    tuned = evaluator.evaluate(make_set(labels, 2), p, seed=0, context=context)["tuned_threshold"]
    expected = thresholds.apply(thresholds.tune(*validation), p)
    assert tuned["macro_f1"]["value"] == pytest.approx(f1_score(labels, expected, average="macro"))
    assert tuned["macro_f1"]["value"] > metrics.macro_f1(labels, p) + 0.02
    assert tuned["tuned_on_itself"] is False
    given = {**NOTHING, "tuned": evaluator.tune(*validation)}
    assert evaluator.evaluate(make_set(labels, 2), p, seed=0, context=given)["tuned_threshold"] == tuned


def test_test_labels_do_not_reach_the_tuned_rule():
    labels, p = draw(200, 2, seed=3)
    context = {**NOTHING, "validation": draw(200, 2, seed=4)}
    evaluator = Classification(resamples=10)
    rules = [
        evaluator.evaluate(make_set(given, 2), p, seed=0, context=context)["tuned_threshold"]["rule"]
        for given in (labels, 1 - labels)
    ]
    assert rules[0] == rules[1]


@pytest.mark.parametrize(
    ("made", "context"),
    [
        ({"role": "id", "split": "validation"}, {}),
        ({"role": "ood", "split": "validation"}, {"is_validation": True}),
        ({"role": "ood", "split": "test"}, {}),  # the same data under another name
    ],
)
def test_figures_tuned_on_the_set_itself_are_marked(made, context):
    labels, p = draw(100, 2, seed=5)
    report = Classification(resamples=10).evaluate(
        make_set(labels, 2, **made), p, seed=0, context={**NOTHING, "validation": (labels, p), **context}
    )
    assert report["tuned_threshold"]["tuned_on_itself"] is True


def test_another_id_validation_set_than_the_tuning_one_is_not_marked():
    labels, p = draw(100, 2, seed=5)
    context = {**NOTHING, "validation": draw(100, 2, seed=6), "is_validation": False}
    report = Classification(resamples=10).evaluate(
        make_set(labels, 2, role="id", split="validation"), p, seed=0, context=context
    )
    assert report["tuned_threshold"]["tuned_on_itself"] is False


def test_a_merging_set_is_tuned_and_prior_corrected_on_merged_probabilities():
    merge = ((2,), (0, 1))
    labels3, p3 = draw(300, 3, seed=6)
    validation = draw(300, 3, seed=7)
    labels, p = metrics.merge_labels(labels3, merge, 3), metrics.merge_probabilities(p3, merge)
    context = {
        "train_prior": np.array([0.2, 0.3, 0.5]),
        "validation": validation,
        "tuned": {"offsets": [0.0, 0.0, 0.0]},  # of the three classes: must not be used here
    }
    report = Classification(resamples=20).evaluate(make_set(labels, 2, merge=merge), p, seed=0, context=context)
    own = metrics.merge_labels(validation[0], merge, 3), metrics.merge_probabilities(validation[1], merge)
    assert report["tuned_threshold"]["rule"] == thresholds.tune(*own)
    assert report["prior_corrected"]["training_prior"] == pytest.approx([0.5, 0.5])


def test_validation_examples_of_classes_the_set_lacks_are_left_out_of_the_tuning():
    merge = ((0,), (1,))
    labels, p = draw(100, 2, seed=8)
    context = {**NOTHING, "validation": draw(300, 3, seed=9)}
    rule = Classification(resamples=5).evaluate(make_set(labels, 2, merge=merge), p, seed=0, context=context)
    assert rule["tuned_threshold"]["rule"]["n"] == int(np.sum(context["validation"][0] < 2))


def test_prior_correction_makes_up_for_a_shifted_class_prior():
    labels, p = draw(2000, 2, seed=10)
    rare = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:60]])
    context = {**NOTHING, "train_prior": np.array([0.5, 0.5])}
    report = Classification(resamples=20).evaluate(make_set(labels[rare], 2), p[rare], seed=0, context=context)
    assert report["prior_corrected"]["accuracy"]["value"] > report["metrics"]["accuracy"]["value"] + 0.05
    assert report["prior_corrected"]["uses_test_labels"] is True


def test_worst_group_is_the_least_accurate_of_those_large_enough():
    labels = np.zeros(60, dtype=np.int64)
    wrong = np.zeros(60, dtype=bool)
    groups = ["easy"] * 30 + ["hard"] * 20 + ["tiny"] * 5 + [None] * 5
    wrong[[0, 30, 31, 32, 33, 34]] = True
    wrong[50:] = True  # wrong throughout, but few, or without a group
    p = np.where(wrong[:, None], [0.1, 0.9], [0.9, 0.1])
    report = Classification(resamples=300).evaluate(make_set(labels, 2, groups=groups), p, seed=0, context=NOTHING)
    worst = report["worst_group"]
    assert (worst["group"], worst["n"], worst["groups"]) == ("hard", 20, 2)
    assert worst["accuracy"]["value"] == pytest.approx(0.75)
    assert worst["accuracy"]["low"] < 0.75 < worst["accuracy"]["high"]
    smaller = Classification(resamples=5, min_group=5).evaluate(make_set(labels, 2, groups=groups), p, seed=0, context=NOTHING)
    assert smaller["worst_group"]["group"] == "tiny"
    larger = Classification(resamples=5, min_group=31).evaluate(make_set(labels, 2, groups=groups), p, seed=0, context=NOTHING)
    assert larger["worst_group"] is None


def test_a_cluster_column_widens_the_intervals_of_duplicated_rows():
    labels, p = draw(60, 2, seed=11)
    labels, p = np.repeat(labels, 9), np.repeat(p, 9, axis=0)
    clusters = [str(i // 9) for i in range(len(labels))]
    widths = {}
    for name, given in (("examples", None), ("clusters", clusters)):
        report = Classification(resamples=300).evaluate(make_set(labels, 2, clusters=given), p, seed=0, context=NOTHING)
        assert report["bootstrap"]["over"] == name
        widths[name] = report["metrics"]["accuracy"]["high"] - report["metrics"]["accuracy"]["low"]
    assert widths["clusters"] > 2 * widths["examples"]


def test_the_same_seed_gives_two_models_the_same_resamples():
    labels, p = draw(200, 2, seed=12)
    evaluator, one = Classification(resamples=50), make_set(labels, 2)
    first = evaluator.evaluate(one, p, seed=0, context=NOTHING)["metrics"]["accuracy"]
    other = evaluator.evaluate(one, p[:, ::-1], seed=0, context=NOTHING)["metrics"]["accuracy"]
    assert first["low"] == pytest.approx(1 - other["high"])


def test_a_set_with_one_class_is_reported_with_undefined_rankings_as_null(tmp_path):
    _, p = draw(40, 2, seed=13)
    context = {"train_prior": np.array([0.5, 0.5]), "validation": draw(50, 2, seed=14), "tuned": None}
    report = Classification(resamples=20).evaluate(make_set(np.ones(40, dtype=np.int64), 2), p, seed=0, context=context)
    assert np.isnan(report["metrics"]["auroc"]["value"])
    write_json(tmp_path / "result.json", report, kind="result")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["metrics"]["auroc"] == {"value": None, "low": None, "high": None}
    assert stored["metrics"]["accuracy"]["value"] is not None


def test_without_resamples_there_are_values_and_no_intervals():
    labels, p = draw(30, 2, seed=15)
    entry = Classification(resamples=0).evaluate(make_set(labels, 2), p, seed=0, context=NOTHING)["metrics"]["accuracy"]
    assert entry["value"] > 0 and np.isnan(entry["low"]) and np.isnan(entry["high"])


def test_probabilities_that_do_not_fit_are_refused():
    labels, p = draw(30, 2, seed=16)
    p[3, 0] = np.nan
    with pytest.raises(UserError, match='"test" contain NaN'):
        Classification().evaluate(make_set(labels, 2), p, seed=0, context=NOTHING)
    with pytest.raises(ValueError, match="shape"):
        Classification().evaluate(make_set(labels, 2), p[:10], seed=0, context=NOTHING)


@pytest.mark.slow
def test_a_thousand_resamples_of_eight_thousand_examples_take_seconds():
    labels, p = draw(8000, 3, seed=17)
    context = {"train_prior": np.ones(3) / 3, "validation": draw(8000, 3, seed=18), "tuned": None}
    started = time.process_time()
    Classification().evaluate(make_set(labels, 3), p, seed=0, context=context)
    assert time.process_time() - started < 20  # about 2 on an idle machine
