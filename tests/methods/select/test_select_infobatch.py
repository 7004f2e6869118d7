"""InfoBatch: what is left out, what is weighed up, when it ends; the expected gradient is that of all examples."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from ftft.methods.select.infobatch import InfoBatch
from ftft.methods.selection import ExamplesOfDynamics

LOSSES = np.array([0.1, 5.0, 0.3, 0.2, 4.0, 0.4])  # mean 1.67: all but the second and the fifth lie below it
BELOW = [0, 2, 3, 5]


def sampler(n=6, *, seed=0, **settings):
    examples = ExamplesOfDynamics(pa.array([f"x{i:05d}" for i in range(n)]), None, (), "f")
    return InfoBatch(**settings).select(examples, None, seed=seed)


def shown(losses=LOSSES, **settings):
    one = sampler(len(losses), **settings)
    one.observe(np.arange(len(losses)), losses)
    return one


def factors(choice, n=6):
    """The factor of every example's loss, 0 where it is left out."""
    found = np.zeros(n)
    found[choice.positions] = 1.0 if choice.weights is None else choice.weights
    return found


def test_the_first_epoch_takes_everything_as_it_is():
    assert factors(sampler().choose(0, 0.0)).tolist() == [1.0] * 6


@pytest.mark.parametrize("prune", [0.5, 0.3])
def test_only_losses_below_the_mean_are_left_out_or_weighed_up(prune):
    one = shown(prune=prune)
    for epoch in range(1, 30):
        found = factors(one.choose(epoch, 0.1))
        assert found[[1, 4]].tolist() == [1.0, 1.0]
        assert set(found[BELOW]) <= {0.0, 1.0 / (1.0 - prune)}


def test_the_expected_gradient_is_the_sum_over_all_examples():
    """Exact: every outcome of the four coins is met, and weighed with its probability in float64."""
    prune, gradients = 0.3, np.random.default_rng(1).standard_normal((6, 5))
    one, outcomes = shown(prune=prune), {}
    for epoch in range(1, 600):
        found = factors(one.choose(epoch, 0.1))
        outcomes[tuple(found[BELOW] > 0)] = found
    assert len(outcomes) == 2 ** len(BELOW)
    expected = np.zeros(5)
    for kept in itertools.product([False, True], repeat=len(BELOW)):
        probability = np.prod([1 - prune if one else prune for one in kept])
        expected += probability * outcomes[kept] @ gradients
    np.testing.assert_allclose(expected, gradients.sum(axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("prune", [0.25, 0.7])
def test_every_example_is_left_out_with_the_given_probability(prune):
    losses = np.concatenate([np.zeros(4000), np.full(4000, 2.0)])
    one = shown(losses, prune=prune)
    kept = np.array([factors(one.choose(epoch, 0.1), 8000)[:4000] > 0 for epoch in range(1, 9)])
    assert abs(kept.mean() - (1 - prune)) < 4 * np.sqrt(prune * (1 - prune) / kept.size)
    # Coins of different epochs have nothing to do with one another.
    both = (kept[:-1] & kept[1:]).mean()
    assert abs(both - (1 - prune) ** 2) < 0.02


def test_everything_is_learned_from_after_delta():
    """Eight epochs: with 0.875 the last one is whole, and the one before is not."""
    one = shown(prune=0.9)
    shares = [(factors(one.choose(epoch, epoch / 8)) > 0).all() for epoch in range(1, 8)]
    assert shares == [False] * 6 + [True]
    assert one.choose(7, 7 / 8).weights is None
    assert (factors(shown(prune=0.9, delta=0.0).choose(3, 0.1)) == 1.0).all()
    # 3 of 5 epochs is 0.6 in decimal fractions only.
    assert (factors(shown(prune=0.9, delta=0.6).choose(3, (1 / 5) * 3)) == 1.0).all()
    assert (factors(shown(prune=0.9, delta=0.6).choose(3, 0.6 - 1e-12)) == 1.0).all()
    assert not (factors(shown(prune=0.9, delta=1.0).choose(99, 0.999)) == 1.0).all()


def test_an_example_left_out_keeps_its_last_loss():
    one = shown()
    one.observe(np.array([1]), np.array([0.05]))
    # The mean is now 0.84: the second example lies below, by its newer loss, and the others stay where they were.
    found = np.array([factors(one.choose(epoch, 0.1)) for epoch in range(1, 40)])
    assert (found[:, 4] == 1.0).all() and (found[:, [0, 1, 2, 3, 5]].min(axis=0) == 0.0).all()


def test_an_example_never_seen_is_kept_and_no_part_of_the_mean():
    one = sampler(4, prune=0.9)
    one.observe(np.array([0, 1, 2]), np.array([1.0, 2.0, 9.0]))
    found = np.array([factors(one.choose(epoch, 0.1), 4) for epoch in range(1, 40)])
    assert (found[:, [2, 3]] == 1.0).all() and (found[:, [0, 1]].min(axis=0) == 0.0).all()


def test_equal_losses_and_a_probability_of_0_leave_nothing_out():
    assert (factors(shown(np.ones(6)).choose(1, 0.1)) == 1.0).all()
    assert (factors(shown(prune=0.0).choose(1, 0.1)) == 1.0).all()


def test_seed_and_epoch_throw_the_coins():
    choices = [tuple(shown(np.arange(100.0), seed=seed).choose(epoch, 0.1).positions) for seed in (0, 1) for epoch in (1, 2)]
    assert len(set(choices)) == 4
    assert choices[0] == tuple(shown(np.arange(100.0), seed=0).choose(1, 0.1).positions)
