"""Restoring random states continues every generator's stream where it was."""

import random

import numpy as np
import pytest
import torch

from ftft.state import rng
from ftft.state.tree import load_tree, save_tree


@pytest.fixture(autouse=True)
def leave_the_generators_alone():
    before = rng.capture()
    yield
    rng.restore(before)


def draw():
    values = [random.random(), random.gauss(0, 1), np.random.random(), np.random.standard_normal(), torch.rand(3).tolist()]
    values.append(torch.randn(5).tolist())
    if torch.cuda.is_available():
        values.append(torch.rand(3, device="cuda").tolist())
    return values


def test_streams_continue_after_save_and_load(tmp_path):
    # An odd number of normal draws leaves the second of a pair cached inside the generators; it is part of the state.
    draw()
    save_tree(tmp_path, "rng", rng.capture())
    expected = [draw(), draw()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert draw() != expected[0]
    assert rng.restore(load_tree(tmp_path, "rng")) == []
    assert [draw(), draw()] == expected


def test_capturing_draws_nothing():
    state = rng.capture()
    expected = draw()
    rng.restore(state)
    rng.capture()
    assert draw() == expected


def test_a_captured_state_does_not_change_afterwards():
    state = rng.capture()
    first = draw()
    rng.restore(state)
    assert draw() == first


def test_state_of_a_missing_device_is_reported():
    state = rng.capture()
    state["cuda"] = {99: torch.zeros(16, dtype=torch.uint8)}
    assert rng.restore(state) == ["the random state of CUDA device 99 was saved, and this machine has no such device"]
