"""The image demo's digits keep the promises its report relies on."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("sklearn")

from ftft.data.digits import COLOUR_RATE, COLOURS, CORRUPTIONS, MISLABELLED_RATE, caption, digit_sets, write_digits


@pytest.fixture(scope="module")
def sets():
    return digit_sets()


def painted(pictures):
    """Which colour each picture has: that whose direction its brightest pixel has."""
    flat = pictures.pixels.reshape(len(pictures.labels), 64, 3).astype(float)
    brightest = flat[np.arange(len(flat)), flat.sum(axis=2).argmax(axis=1)]
    palette = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    return (brightest / np.linalg.norm(brightest, axis=1, keepdims=True) @ palette.T).argmax(axis=1)


def test_no_digit_is_trained_on_and_measured(sets):
    parts = {name: set(sets[name].digits.tolist()) for name in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1797
    for name in ("shuffled_colours", "grey", *CORRUPTIONS):
        assert set(sets[name].digits.tolist()) == parts["test"]


def test_colours_agree_with_the_class_as_often_as_said(sets):
    for name, rate in (("train", COLOUR_RATE), ("validation", COLOUR_RATE), ("test", COLOUR_RATE), ("shuffled_colours", 0.1)):
        one = sets[name]
        right = np.array([word != "mislabelled" for word in one.planted])
        agrees = painted(one)[right] == one.labels[right]
        assert (agrees == np.array([word == "typical" for word in one.planted])[right]).all()
        assert abs(agrees.mean() - rate) < 0.01
    train = sets["train"]
    assert train.planted.count("mislabelled") == round(MISLABELLED_RATE * len(train.labels))
    grey = sets["grey"].pixels
    assert (grey == grey[..., :1]).all()


def test_corruptions_change_the_test_set_and_nothing_else(sets):
    for name in CORRUPTIONS:
        assert (sets[name].labels == sets["test"].labels).all() and sets[name].pixels.shape == sets["test"].pixels.shape
    spread = {name: sets[name].pixels.astype(float).std(axis=(1, 2)).mean() for name in (*CORRUPTIONS, "test")}
    assert spread["low_contrast"] < spread["blur"] < spread["test"]


def test_files_are_the_same_every_time_and_as_documented(sets, tmp_path):
    first, second = write_digits(tmp_path / "a"), write_digits(tmp_path / "b")
    assert set(first) == set(sets) and all(first[name].read_bytes() == second[name].read_bytes() for name in first)
    table = pq.read_table(first["grey"])
    assert table.column_names == ["id", "image", "text", "label", "planted", "digit"]
    row = table.slice(3, 1).to_pylist()[0]
    assert np.array_equal(row["image"], sets["grey"].pixels[3]) and row["text"] == caption(int(row["label"]))
    assert digit_sets(1)["test"].digits.tolist() != sets["test"].digits.tolist()
