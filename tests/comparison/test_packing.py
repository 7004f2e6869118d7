"""Packed arrays come back as they went; damaged ones are refused in one sentence, and no bomb is unpacked."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ftft.comparison.packing import pack, pack_probabilities, unpack, unpack_probabilities
from ftft.errors import UserError
from ftft.tasks.metrics import auroc


@given(arrays.arrays(st.sampled_from([np.int32, np.uint8]), arrays.array_shapes(max_dims=2, min_side=0, max_side=20)))
def test_integers_come_back(array: np.ndarray) -> None:
    found = unpack(pack(array), "x")
    assert found.shape == array.shape and np.array_equal(found, array)


@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0.1, 30.0))
def test_probabilities_keep_their_class_and_nearly_their_value(classes: int, n: int, seed: int, spread: float) -> None:
    logits = np.random.default_rng(seed).normal(0, spread, (n, classes))
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = unpack_probabilities(pack_probabilities(probabilities), "x")
    assert np.array_equal(found.argmax(axis=1), probabilities.argmax(axis=1))
    assert np.allclose(found.sum(axis=1), 1.0)
    assert np.allclose(found, probabilities, atol=1e-3)


def test_a_probability_of_zero_and_the_ranking_survive() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 3000)
    positive = 1 / (1 + np.exp(-generator.normal(labels * 1.5, 2.0)))
    probabilities = np.stack([1 - positive, positive], axis=1)
    probabilities[0] = (1.0, 0.0)
    found = unpack_probabilities(pack_probabilities(probabilities), "x")
    assert found[0, 1] < 1e-300 and np.isfinite(found).all()
    assert auroc(labels, found) == pytest.approx(auroc(labels, probabilities), abs=2e-5)


GOOD = pack(np.arange(12, dtype=np.int32).reshape(3, 4))


@pytest.mark.parametrize(
    "damage",
    [
        {"type": "|O"},
        {"type": "<f8"},
        {"shape": [3, 5]},
        {"shape": [-3, 4]},
        {"shape": [2**40]},
        {"shape": "all"},
        {"zlib": "no base64!"},
        {"zlib": base64.b64encode(b"not zlib").decode()},
        {"zlib": base64.b64encode(zlib.compress(bytes(10**7))).decode()},
        {"zlib": None},
    ],
    ids=str,
)
def test_damaged_arrays_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(UserError, match="the cell is damaged"):
        unpack({**GOOD, **damage}, "the cell")
    with pytest.raises(UserError):
        unpack({key: GOOD[key] for key in ("type", "shape")}, "the cell")


def test_other_types_are_not_packed() -> None:
    with pytest.raises(ValueError, match="not packed"):
        pack(np.array(["text"]))
