"""Batches: every example once an epoch, seeded, close in length; shares of processes; schedules as transformers has them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler

from ftft.engine.batches import BatchSchedule, fill_short, plan_epoch, planned_steps, share_of_process
from ftft.engine.schedule import rate_factor, warmup_steps


@given(
    st.lists(st.integers(1, 128), min_size=1, max_size=700),
    st.integers(1, 40),
    st.integers(0, 5),
    st.sampled_from(["bucketed", "plain"]),
)
@settings(max_examples=60, deadline=None)
def test_every_position_is_in_exactly_one_batch(lengths, batch_size, epoch, shuffle):
    batches = plan_epoch(np.array(lengths), batch_size, seed=3, epoch=epoch, shuffle=shuffle)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / batch_size)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_seed_and_epoch_alone_decide_the_batches():
    lengths = np.random.default_rng(0).integers(4, 100, 1000)
    first = plan_epoch(lengths, 32, seed=1, epoch=2)
    again = plan_epoch(lengths, 32, seed=1, epoch=2)
    other_epoch = plan_epoch(lengths, 32, seed=1, epoch=3)
    other_seed = plan_epoch(lengths, 32, seed=2, epoch=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other_epoch))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other_seed))


def padding(lengths, batches):
    return sum(lengths[batch].max() * len(batch) for batch in batches) / lengths.sum()


def test_bucketing_removes_most_of_the_padding_and_keeps_batches_shuffled():
    lengths = np.random.default_rng(0).integers(4, 128, 6000)
    bucketed = plan_epoch(lengths, 32, seed=0, epoch=0)
    assert padding(lengths, bucketed) < 1.1
    assert padding(lengths, plan_epoch(lengths, 32, seed=0, epoch=0, shuffle="plain")) > 1.6
    means = np.array([lengths[batch].mean() for batch in bucketed])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@given(st.integers(1, 90), st.integers(1, 20), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_short_batch_is_filled_up_with_other_rows_of_the_epoch(count, batch_size, copies):
    rows = np.concatenate([np.arange(count) + 100, np.repeat(np.arange(min(3, count)) + 100, copies)])
    plan = plan_epoch(np.full(len(rows), 5), batch_size, seed=1, epoch=2)
    filled = fill_short(plan, rows, batch_size, seed=1, epoch=2)
    assert len(filled) == len(plan)
    for before, after in zip(plan, filled):
        np.testing.assert_array_equal(before, after[: len(before)])
        others = np.setdiff1d(rows, rows[before])
        assert len(after) == min(batch_size, len(before) + len(others))
        added = rows[after[len(before) :]]
        assert len(set(added)) == len(added) and not set(added) & set(rows[before])
    schedule = BatchSchedule(rows, np.full(len(rows), 5), batch_size, 9, 1, fill=True)
    assert all(np.array_equal(one, rows[other]) for one, other in zip(schedule.plan(2), filled))
    assert schedule.steps_per_epoch == len(filled)


def test_what_fills_up_a_batch_changes_with_the_epoch():
    schedule = BatchSchedule(np.arange(100), np.full(100, 5), 32, 9, 0, fill=True)
    short = [BatchSchedule(np.arange(100), np.full(100, 5), 32, 9, 0).plan(epoch) for epoch in range(2)]
    place = [min(range(4), key=lambda index: len(plan[index])) for plan in short]
    added = [set(schedule.plan(epoch)[place[epoch]][4:].tolist()) for epoch in range(2)]
    assert all(len(one) == 28 for one in added) and added[0] != added[1]


def test_upsampled_rows_are_planned_by_position():
    rows = np.array([4, 4, 4, 7])
    schedule = BatchSchedule(rows=rows, lengths=np.full(4, 5), batch_size=3, steps=4, seed=0)
    assert schedule.steps_per_epoch == 2
    assert sorted(np.concatenate(schedule.plan(0)).tolist()) == [4, 4, 4, 7]
    assert [schedule.epoch_of(step) for step in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "examples, batch, epochs, steps, expected",
    [(100, 32, 3, None, 12), (100, 32, 0.5, None, 2), (960, 32, 0.1, None, 3), (10, 32, 0.01, None, 1), (100, 32, 3, 7, 7)],
)
def test_planned_steps(examples, batch, epochs, steps, expected):
    assert planned_steps(examples, batch, epochs=epochs, steps=steps) == expected


@given(st.integers(1, 40), st.integers(1, 6))
@settings(deadline=None)
def test_shares_of_processes_are_equally_long_and_weigh_every_row_once(rows, processes):
    shares = [share_of_process(np.arange(rows), np.ones(rows), process, processes) for process in range(processes)]
    assert len({len(part) for part, _ in shares}) == 1
    total = np.zeros(rows)
    for part, weights in shares:
        np.add.at(total, part, weights)
    assert np.array_equal(total, np.ones(rows))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35])
def test_learning_rates_are_those_of_transformers(schedule, warmup):
    steps = 37
    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps(steps, warmup), num_training_steps=steps)
    for step in range(steps):
        ours = rate_factor(step, steps=steps, warmup=warmup_steps(steps, warmup), schedule=schedule)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()
