"""The bootstrap against a naive resample-and-recompute, its coverage, its seeds, its clusters."""

import numpy as np
import pyarrow as pa
import pytest

from ftft.tasks import intervals, metrics


def draw(n, k, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(k, size=n)
    z = generator.normal(size=(n, k))
    z[np.arange(n), labels] += 1.0
    return labels, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_equal_those_of_resampled_rows_recomputed_one_by_one(k, clustered):
    labels, p = draw(70, k, seed=0)
    clusters = np.arange(70) // 3 if clustered else None
    found = intervals.bootstrap_intervals(
        lambda counts: metrics.all_metrics(labels, p, counts), 70, clusters=clusters, resamples=25, seed=5
    )
    naive = {name: [] for name in metrics.METRICS}
    generator = np.random.default_rng(5)
    for _ in range(25):
        if clusters is None:
            rows = generator.integers(70, size=70)
        else:
            rows = np.concatenate([np.flatnonzero(clusters == c) for c in generator.integers(24, size=24)])
        for name, metric in metrics.METRICS.items():
            naive[name].append(metric(labels[rows], p[rows]))
    for name, values in naive.items():
        assert found[name] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12), name


def test_intervals_of_a_proportion_cover_it_nineteen_times_in_twenty():
    trials, covered = 400, 0
    generator = np.random.default_rng(1)
    for trial in range(trials):
        correct = (generator.random(200) < 0.7).astype(np.float64)
        low, high = intervals.bootstrap_intervals(
            lambda counts, correct=correct: {"x": counts @ correct / 200}, 200, clusters=None, resamples=300, seed=trial
        )["x"]
        covered += low <= 0.7 <= high
    # Four standard errors of a proportion of .95 over 400 trials are .044.
    assert abs(covered / trials - 0.95) < 0.044


def test_duplicated_rows_widen_the_interval_only_when_their_cluster_is_known():
    correct = np.repeat((np.random.default_rng(2).random(100) < 0.6).astype(np.float64), 9)
    clusters = np.repeat(np.arange(100), 9)

    def width(clusters):
        low, high = intervals.bootstrap_intervals(
            lambda counts: {"x": (counts @ correct) / counts.sum(axis=1)}, 900, clusters=clusters, resamples=500, seed=0
        )["x"]
        return high - low

    assert width(clusters) / width(None) == pytest.approx(3.0, rel=0.2)  # the square root of nine copies


def test_members_of_a_cluster_are_drawn_together():
    clusters = np.array(["b", "a", "b", "c", "a", "b"])
    drawn = intervals.bootstrap_multiplicities(6, clusters, 50, 0)
    assert drawn.shape == (50, 6) and drawn.dtype == np.int32
    for name in "abc":
        members = drawn[:, clusters == name]
        assert (members == members[:, :1]).all()
    assert (drawn[:, [1, 0, 3]].sum(axis=1) == 3).all()


def test_every_resample_draws_as_many_examples_as_there_are():
    drawn = intervals.bootstrap_multiplicities(40, None, 100, 3)
    assert (drawn.sum(axis=1) == 40).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(40), abs=0.5)


def test_draws_depend_on_seed_and_set_name_and_not_on_the_block_size(monkeypatch):
    def drawn(seed, name):
        return intervals.bootstrap_multiplicities(30, None, 20, intervals.seed_for(seed, name))

    first = drawn(0, "dev")
    assert np.array_equal(first, drawn(0, "dev"))
    assert not np.array_equal(first, drawn(1, "dev"))
    assert not np.array_equal(first, drawn(0, "test"))
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 70)
    assert np.array_equal(first, drawn(0, "dev"))


def test_undefined_resamples_are_left_out():
    assert intervals.percentile_interval(np.array([np.nan, 1.0, 2.0, 3.0]), 0.5) == (1.5, 2.5)
    assert np.isnan(intervals.percentile_interval(np.array([np.nan, np.nan]))).all()
    assert np.isnan(intervals.percentile_interval(np.zeros(0))).all()


def test_missing_cluster_names_are_clusters_of_their_own():
    assert intervals.codes(pa.array(["x", None, "y", "x", None])).tolist() == [0, 2, 1, 0, 3]


def test_no_examples_and_no_resamples_are_no_error():
    assert intervals.bootstrap_multiplicities(0, None, 4, 0).shape == (4, 0)
    assert intervals.bootstrap_multiplicities(3, None, 0, 0).shape == (0, 3)


def three_models(n, k, seed):
    """Labels and the predictions of three models, two of them alike."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(k, size=n)
    first = np.where(generator.random(n) < 0.6, labels, generator.integers(k, size=n))
    second = np.where(generator.random(n) < 0.9, first, generator.integers(k, size=n))
    return labels, np.stack([first, second, generator.integers(k, size=n)])


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("clustered", [False, True])
def test_paired_draws_equal_resampled_rows_recomputed_one_by_one(k, clustered, monkeypatch):
    labels, predictions = three_models(70, k, seed=3)
    clusters = np.array([f"c{row // 3}" for row in range(70)]) if clustered else None
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 200)  # several blocks
    found = intervals.paired_draws(labels, predictions, clusters=clusters, resamples=25, seed=5)
    generator = np.random.default_rng(5)
    samples = [np.arange(70)]
    for _ in range(25):
        if clusters is None:
            samples.append(generator.integers(70, size=70))
        else:
            names = np.unique(clusters)[generator.integers(24, size=24)]
            samples.append(np.concatenate([np.flatnonzero(clusters == name) for name in names]))
    for name, metric in (("accuracy", metrics.accuracy), ("macro_f1", metrics.macro_f1)):
        naive = [[metric(labels[rows], one[rows]) for one in predictions] for rows in samples]
        assert found[name].shape == (26, 3)
        assert np.abs(found[name] - np.array(naive)).max() < 1e-12, name


def test_paired_draws_are_those_of_the_plain_intervals():
    labels, predictions = three_models(300, 3, seed=4)
    clusters = np.arange(300) // 4
    for units in (None, clusters):
        seed = intervals.seed_for(7, "a set")
        draws = intervals.paired_draws(labels, predictions, clusters=units, resamples=400, seed=seed)
        plain = intervals.bootstrap_intervals(
            lambda counts: {"accuracy": metrics.accuracy(labels, predictions[1], counts)},
            300,
            clusters=units,
            resamples=400,
            seed=seed,
        )
        found = intervals.interval_of(draws["accuracy"][:, 1])
        assert (found["low"], found["high"]) == pytest.approx(plain["accuracy"], abs=1e-12)
        assert found["value"] == pytest.approx(metrics.accuracy(labels, predictions[1]), abs=1e-15)


def test_pairing_narrows_the_interval_of_a_difference():
    labels, predictions = three_models(400, 2, seed=6)
    draws = intervals.paired_draws(labels, predictions, clusters=None, resamples=800, seed=0)["accuracy"]
    others = intervals.paired_draws(labels, predictions, clusters=None, resamples=800, seed=1)["accuracy"]
    paired, unpaired = draws[1:, 1] - draws[1:, 0], draws[1:, 1] - others[1:, 0]
    # Var(a - b) = Var(a) + Var(b) - 2 Cov(a, b), and the two models mostly err together.
    right = predictions[:2] == labels
    expected = np.cov(right[1].astype(float) - right[0], ddof=0) / 400
    assert paired.var() == pytest.approx(expected, rel=0.15)
    assert paired.std() < 0.6 * unpaired.std()


def test_a_mean_of_sets_varies_as_its_independent_parts():
    draws = []
    for index, n in enumerate((200, 400, 800)):
        labels, predictions = three_models(n, 2, seed=index)
        draws.append(intervals.paired_draws(labels, predictions, clusters=None, resamples=2000, seed=index)["accuracy"])
    mean = intervals.mean_of_sets(draws)
    assert mean[0] == pytest.approx(np.mean([one[0] for one in draws], axis=0), abs=1e-15)
    assert mean[1:].var(axis=0) == pytest.approx(sum(one[1:].var(axis=0) for one in draws) / 9, rel=0.1)


def test_a_paired_interval_without_resamples_is_undefined_and_the_value_stays():
    labels, predictions = three_models(30, 2, seed=0)
    draws = intervals.paired_draws(labels, predictions, clusters=None, resamples=0, seed=0)
    found = intervals.interval_of(draws["accuracy"][:, 0])
    assert found["value"] == metrics.accuracy(labels, predictions[0]) and np.isnan(found["low"])
    empty = intervals.paired_draws(np.zeros(0, int), np.zeros((2, 0), int), clusters=None, resamples=3, seed=0)
    assert np.isnan(empty["accuracy"]).all()


def test_ten_sets_of_five_thousand_take_seconds():
    labels, predictions = three_models(5000, 3, seed=0)
    import time

    started = time.process_time()
    for clusters in (None, np.arange(5000) // 2):
        intervals.paired_draws(labels, predictions, clusters=clusters, resamples=2000, seed=0)
    assert time.process_time() - started < 2.0  # some 0.3 s on an idle core: 10 sets take 1.5 s


@pytest.mark.parametrize(("n", "clustered"), [(1, False), (7, False), (33, True), (1000, False), (20_000, True)])
def test_resamples_are_those_of_drawing_one_after_another(n: int, clustered: bool) -> None:
    clusters = np.arange(n) // 3 if clustered else None
    member = np.arange(n) if clusters is None else clusters
    units, generator = member[-1] + 1, np.random.default_rng(5)
    expected = [np.bincount(generator.integers(units, size=units), minlength=units)[member] for _ in range(70)]
    assert np.array_equal(intervals.bootstrap_multiplicities(n, clusters, 70, 5), expected)
