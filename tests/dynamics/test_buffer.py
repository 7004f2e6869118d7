"""The recorder's buffer: what is kept, what is ignored, and that a resumed one goes on exactly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.dynamics.buffer import DynamicsBuffer
from ftft.errors import UserError

IDS = pa.array(["a", "b", "c", "d"])
GOLD = np.array([0, 1, 2, 0])


def logits(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(len(rows), 3)).astype(np.float32)


def test_an_example_keeps_its_first_observation_of_an_epoch():
    buffer = DynamicsBuffer(IDS, GOLD)
    first, second = logits([2, 0, 2], 1), logits([0, 1], 2)
    buffer.observe(0, np.array([2, 0, 2]), {"logits": first})
    buffer.observe(0, np.array([0, 1]), {"logits": second})
    dynamics = buffer.dynamics()
    assert dynamics.seen.tolist() == [[True, True, True, False]]
    np.testing.assert_array_equal(dynamics.logits[0], [first[1], second[1], first[0], [0, 0, 0]])


def test_memory_of_an_epoch_is_taken_when_it_is_first_observed():
    buffer = DynamicsBuffer(IDS, GOLD)
    assert buffer.epochs == () and not buffer.has_epoch(3)
    buffer.observe(3, np.array([], dtype=np.int64), {"logits": logits([])})
    assert buffer.epochs == ()
    buffer.observe(3, np.array([1]), {"logits": logits([1])})
    assert buffer.epochs == (3,) and buffer.has_epoch(3)
    assert buffer.dynamics().epochs == (3,)


def test_many_classes_keep_the_pair_and_the_gold_probability():
    buffer = DynamicsBuffer(IDS, GOLD, max_classes=2)
    values = np.array([[1.0, 2.0, 3.0], [5.0, 1.0, 0.0]], dtype=np.float32)
    buffer.observe(0, np.array([1, 3]), {"logits": values})
    dynamics = buffer.dynamics()
    assert dynamics.logits is None and dynamics.metadata["num_classes"] == 3
    np.testing.assert_array_equal(dynamics.pair_logits[0, [1, 3]], [[2, 3], [5, 1]])
    softmax = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(dynamics.pair_probability[0, [1, 3]], [softmax[0, 1], softmax[1, 0]], rtol=1e-6)


def test_statistics_are_kept_without_logits():
    buffer = DynamicsBuffer(IDS, None, statistics=["probability", "entropy"])
    buffer.observe(0, np.array([1]), {"probability": np.array([0.25]), "entropy": np.array([2.0])})
    dynamics = buffer.dynamics()
    assert dynamics.gold is None and dynamics.logits is None
    assert dynamics.statistics["probability"][0].tolist() == [0, 0.25, 0, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 12), max_classes=st.sampled_from([2, 64]))
def test_a_buffer_resumed_at_any_batch_ends_bit_equal(seed, cut, max_classes):
    generator = np.random.default_rng(seed)
    batches = [(step // 6, generator.integers(0, 4, 3), logits(range(3), step)) for step in range(12)]

    def fresh():
        return DynamicsBuffer(IDS, GOLD, max_classes=max_classes, statistics=["entropy"])

    def feed(buffer, part):
        for epoch, rows, values in part:
            buffer.observe(epoch, rows, {"logits": values, "entropy": values[:, 0]})

    straight, before, after = fresh(), fresh(), fresh()
    feed(straight, batches)
    feed(before, batches[:cut])
    after.load_state({name: values.copy() for name, values in before.state().items()})
    feed(after, batches[cut:])
    assert straight.state().keys() == after.state().keys()
    for name, values in straight.state().items():
        assert values.dtype == after.state()[name].dtype
        assert values.tobytes() == after.state()[name].tobytes()


def test_the_state_of_a_checkpoint_is_safetensors(tmp_path):
    from safetensors.numpy import load_file, save_file

    buffer, resumed = DynamicsBuffer(IDS, GOLD), DynamicsBuffer(IDS, GOLD)
    buffer.observe(0, np.array([3, 1]), {"logits": logits([3, 1])})
    save_file(buffer.state(), tmp_path / "dynamics.safetensors")
    resumed.load_state(load_file(tmp_path / "dynamics.safetensors"))
    np.testing.assert_array_equal(resumed.dynamics().logits, buffer.dynamics().logits)


def test_a_loaded_state_is_a_copy():
    buffer, resumed = DynamicsBuffer(IDS, GOLD), DynamicsBuffer(IDS, GOLD)
    buffer.observe(0, np.array([3]), {"logits": logits([3])})
    resumed.load_state(buffer.state())
    resumed.observe(0, np.array([0]), {"logits": logits([0])})
    assert buffer.dynamics().seen.sum() == 1


def test_a_state_of_other_data_is_refused():
    buffer = DynamicsBuffer(IDS, GOLD)
    buffer.observe(0, np.array([0]), {"logits": logits([0])})
    with pytest.raises(UserError, match="do not fit this training"):
        DynamicsBuffer(IDS[:3], GOLD[:3]).load_state(buffer.state())
    with pytest.raises(UserError, match="have 3 classes, and this training has 2"):
        DynamicsBuffer(IDS, GOLD % 2, num_classes=2).load_state(buffer.state())
    with pytest.raises(UserError, match="entropy of epoch 0 has nothing"):
        DynamicsBuffer(IDS, GOLD, statistics=["entropy"]).load_state(buffer.state())


def test_values_that_are_not_finite_are_stored():
    buffer = DynamicsBuffer(IDS, GOLD)
    values = np.array([[np.nan, np.inf, 0]], dtype=np.float32)
    buffer.observe(0, np.array([0]), {"logits": values})
    np.testing.assert_array_equal(buffer.dynamics().logits[0, 0], values[0])


def test_wrong_shapes_rows_and_names_are_defects():
    buffer = DynamicsBuffer(IDS, GOLD, num_classes=3)
    for rows, values in [
        ([4], {"logits": logits([0])}),
        ([-1], {"logits": logits([0])}),
        ([0], {"logits": logits([0, 1])}),
        ([0], {"logits": logits([0])[:, :2]}),
        ([0], {}),
        ([0], {"logits": logits([0]), "entropy": np.zeros(1)}),
    ]:
        with pytest.raises(ValueError):
            buffer.observe(0, np.array(rows), values)
    assert buffer.epochs == ()
    with pytest.raises(ValueError, match="need"):
        DynamicsBuffer(IDS, None, num_classes=3, max_classes=2).start_epoch(0)
