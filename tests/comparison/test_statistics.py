"""Intervals over seeds and examples: against scipy and statsmodels where they know the same quantity, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ftft.comparison.statistics import critical_value, critical_values, crossed, holm
from ftft.tasks.intervals import paired_draws

NOTHING_DRAWN = np.empty((0, 5))


def test_without_uncertain_examples_the_interval_is_students() -> None:
    values = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    found = crossed(values, NOTHING_DRAWN)
    expected = stats.ttest_1samp(values, 0.0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.seed_share == 1.0


def test_non_inferiority_without_uncertain_examples_is_students_one_sided_test() -> None:
    values = np.array([-0.004, 0.003, -0.006, 0.001, -0.002])
    found = crossed(values, NOTHING_DRAWN)
    expected = stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
    assert found.one_sided_p(-0.01) == pytest.approx(expected, rel=1e-2)


def test_without_differing_seeds_the_interval_is_that_of_the_bootstrap() -> None:
    generator = np.random.default_rng(0)
    examples = generator.normal(0.1, 1.0, 400)
    draws = generator.multinomial(400, np.full(400, 1 / 400), size=4000) @ examples / 400
    found = crossed(np.full(5, examples.mean()), np.repeat(draws[:, None], 5, axis=1))
    error = examples.std() / math.sqrt(400)
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.high - found.value == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.05)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(examples.mean()) / error), rel=0.3)


def test_one_seed_gives_an_interval_over_examples_alone() -> None:
    generator = np.random.default_rng(0)
    found = crossed(np.array([0.5]), generator.normal(0.5, 0.1, (2000, 1)))
    assert (found.low, found.high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=0.01)
    assert math.isnan(found.seed_share) and found.seeds == 1
    alone = crossed(np.array([0.5]), np.empty((0, 1)))
    assert math.isnan(alone.low) and alone.sign == "0"


def test_the_parts_of_the_variance_are_found_again() -> None:
    """Seeds, examples and their interaction with known variances: the estimate's square error is their sum, on average."""
    generator, seeds, n = np.random.default_rng(1), 4, 200
    of_seed, of_example, of_both = 0.03, 0.4, 0.6
    squared, estimated = [], []
    for _ in range(400):
        table = generator.normal(0, of_seed, seeds) + generator.normal(0, of_example, (n, 1))
        table = table + generator.normal(0, of_both, (n, seeds))
        drawn = generator.multinomial(n, np.full(n, 1 / n), size=100) / n
        found = crossed(table.mean(axis=0), drawn @ table)
        squared.append(found.value**2)
        estimated.append(found.error**2)
    true = of_seed**2 / seeds + of_example**2 / n + of_both**2 / (n * seeds)
    assert np.mean(squared) == pytest.approx(true, rel=0.25)
    assert np.mean(estimated) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("freedom", [2, 3, 5, 9])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_critical_values_are_exact_whatever_the_share_of_the_seeds(freedom: int, level: float) -> None:
    """Integrated over the chi-square distribution with another grid than they were solved on."""
    chi = stats.chi2.ppf((np.arange(5000) + 0.5) / 5000, freedom) / freedom
    for share in np.linspace(0, 1, 31):
        total = share * chi + 1 - share
        misses = 2 * stats.norm.sf(critical_values(freedom, level)(share * chi / total) * np.sqrt(total))
        assert misses.mean() == pytest.approx(1 - level, abs=0.002)


def test_critical_values_go_from_the_normal_to_students() -> None:
    for freedom in (1, 2, 9, 15, 16, 40):
        assert critical_value(freedom, 0.0) == pytest.approx(stats.norm.ppf(0.975))
        assert critical_value(freedom, 1.0) == pytest.approx(stats.t.ppf(0.975, freedom))
        values = [critical_value(freedom, share) for share in np.linspace(0, 1, 50)]
        assert values == sorted(values)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("seed_effect", [0.0, 0.25], ids=["seeds alike", "seeds differ"])
def test_a_true_null_is_rejected_in_five_per_cent_of_simulated_suites(seeds: int, seed_effect: float) -> None:
    """2,000 suites of two rows that differ by chance alone: classifiers whose skill varies with the seed, on examples
    whose difficulty varies by cluster; the differences' intervals go through the resamples a table is made from."""
    generator, suites, clusters, each = np.random.default_rng(seeds), 2000, 60, 3
    labels = np.tile([0, 1, 1], clusters)
    cluster_of = np.repeat(np.arange(clusters), each)
    rejected = 0
    for suite in range(suites):
        difficulty = generator.normal(1.0, 1.0, clusters)[cluster_of]
        # What one row finds easier than the other, cluster by cluster, is a property of the drawn examples.
        taste = generator.normal(0.0, 0.5, (2, 1, clusters))[:, :, cluster_of]
        skill = generator.normal(0.0, seed_effect, (2, seeds, 1))
        right = difficulty + taste + skill + generator.normal(0.0, 1.0, (2, seeds, len(labels))) > 0
        predictions = np.where(right, labels, 1 - labels).reshape(2 * seeds, -1)
        drawn = paired_draws(labels, predictions, clusters=cluster_of, resamples=100, seed=suite)["accuracy"]
        difference = drawn[:, :seeds] - drawn[:, seeds:]
        rejected += crossed(difference[0], difference[1:]).sign != "0"
    error = math.sqrt(0.05 * 0.95 / suites)
    assert rejected / suites == pytest.approx(0.05, abs=3 * error)


def test_holm_is_statsmodels() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.9, 0.0001, 0.04]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([]) == []


def test_an_unanswered_question_counts_in_the_correction() -> None:
    corrected = holm([0.02, math.nan, 0.01])
    assert corrected[2] == pytest.approx(0.03) and corrected[0] == pytest.approx(0.04) and math.isnan(corrected[1])
