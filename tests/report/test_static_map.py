"""The data map as a file for a paper: the same bytes every time, what it shows and what it leaves out, and its refusals."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ftft.errors import UserError
from ftft.report.map_points import MapPoints
from ftft.report.static_map import CLASSES, CORRECTNESS, OTHERS, write_static_map


@pytest.fixture(autouse=True)
def _matplotlib(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("matplotlib", reason='matplotlib is not installed; pip install "ftft[figures]" brings it')


def some_points(count: int = 200, **changes: object) -> MapPoints:
    """Points whose first two were never seen; a third are selected, correctness takes the values 0, 1/4, ..., 1."""
    chosen = np.random.default_rng(0)
    confidence = chosen.uniform(0.05, 0.95, count).astype(np.float32)
    confidence[:2] = np.nan
    points = MapPoints(
        name="of stage reference",
        ids=pa.array([f"r{index}" for index in range(count)]),
        confidence=confidence,
        variability=chosen.uniform(0, 0.4, count).astype(np.float32),
        correctness=(np.arange(count) % 5 / 4).astype(np.float32),
        quantity="probability of the gold label",
        selected=np.arange(count) % 3 == 0,
    )
    return replace(points, **changes)  # type: ignore[arg-type]


def drawn(points: MapPoints, path: Path) -> str:
    write_static_map(points, path)
    return path.read_text(encoding="utf-8")


def words(svg: str) -> list[str]:
    """The texts of an SVG, which stand as comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)


def fills(svg: str) -> set[str]:
    return set(re.findall(r"fill: (#[0-9a-f]{6}); fill-opacity", svg))


def test_the_same_points_give_the_same_bytes_without_a_date(tmp_path: Path) -> None:
    first = drawn(some_points(), tmp_path / "a.svg")
    assert drawn(some_points(), tmp_path / "b.svg") == first
    assert "<dc:date>" not in first and "<dc:creator>" not in first
    assert drawn(some_points(selected=None), tmp_path / "c.svg") != first
    assert {path.name for path in tmp_path.iterdir()} == {"a.svg", "b.svg", "c.svg"}


def test_every_scored_point_is_drawn_once_and_the_rest_is_counted(tmp_path: Path) -> None:
    svg = drawn(some_points(), tmp_path / "a.svg")
    collections = re.findall(r'<g id="PathCollection_\d+">(.*?)\n   </g>', svg, flags=re.S)
    assert [one.count("<use") for one in collections] == [132, 66]  # of 200 two were never seen, one of them selected
    assert fills(svg) >= set(CORRECTNESS) and "<image" not in svg
    said = words(svg)
    assert "Data map of stage reference" in said and "selected" in said and "right in all epochs" in said
    assert "198 training examples, 66 of them selected; 2 more were not seen often enough." in said


@pytest.mark.parametrize("epochs", [1, 3, 10])
def test_never_and_always_right_are_said_of_nothing_else(epochs: int, tmp_path: Path) -> None:
    def legend(right: int) -> list[str]:
        share = np.full(200, np.float32(right) / np.float32(epochs), dtype=np.float32)
        return [
            one for one in words(drawn(some_points(correctness=share, selected=None), tmp_path / "a.svg")) if one in entries
        ]

    entries = ["right in no epoch", "in 1/3 of them or fewer", "in about half", "in 2/3 of them or more", "right in all epochs"]
    places = [0, *(1 if 3 * right <= epochs else 3 if 3 * right >= 2 * epochs else 2 for right in range(1, epochs)), 4]
    assert [legend(right) for right in range(epochs + 1)] == [[entries[place]] for place in places]


@pytest.mark.parametrize("quantity", ["pass rate", "probability of the target, geometric mean over its tokens"])
def test_the_vertical_axis_says_what_was_averaged(quantity: str, tmp_path: Path) -> None:
    svg = drawn(some_points(quantity=quantity), tmp_path / "a.svg")
    said = " ".join(words(svg))
    assert f"confidence (mean {quantity})" in said and "gold label" not in said


def test_many_points_are_an_image_inside_the_svg(tmp_path: Path) -> None:
    svg = drawn(some_points(5003), tmp_path / "a.svg")
    assert "<image" in svg and "PathCollection" not in svg and "faint: not selected" in words(svg)
    assert "<image" not in drawn(some_points(5002), tmp_path / "b.svg")  # 5,000 scored ones


def test_without_correctness_colours_are_classes_and_names_are_no_formulas(tmp_path: Path) -> None:
    unknown = np.full(200, np.nan, dtype=np.float32)
    labels = np.arange(200) % 3 - 1
    names = (r"$\frac{$", "a -- <b> & c")
    svg = drawn(some_points(correctness=unknown, labels=labels, label_names=names), tmp_path / "a.svg")
    assert fills(svg) >= {CLASSES[0], CLASSES[1], OTHERS} and not fills(svg) & set(CORRECTNESS)
    assert r"$\frac{$" in words(svg) and "other" in words(svg)
    many = tuple(f"class {index}" for index in range(12))
    svg = drawn(some_points(correctness=unknown, labels=np.arange(200) % 12, label_names=many), tmp_path / "b.svg")
    assert fills(svg) >= {*CLASSES, OTHERS} and "class 7" in words(svg) and "class 8" not in words(svg)
    svg = drawn(some_points(correctness=unknown), tmp_path / "c.svg")
    assert "right in all epochs" not in words(svg) and len(fills(svg) - {"#ffffff"}) == 1


def test_a_png_is_light_and_large_enough_for_print(tmp_path: Path) -> None:
    from matplotlib.image import imread

    write_static_map(some_points(), tmp_path / "a.PNG")
    pixels = imread(tmp_path / "a.PNG", format="png")
    assert pixels.shape[0] > 1500 and pixels.shape[1] > 1500 and pixels[2, 2].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert (pixels[:, :, :3] == 1.0).all(axis=2).mean() > 0.8


def test_it_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_static_map(some_points(), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_what_cannot_be_drawn_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = some_points(confidence=np.full(200, np.nan, dtype=np.float32))
    for points, name, expected in [
        (some_points(), "a.pdf", 'has the ending ".pdf"'),
        (nothing, "a.svg", "no example of stage reference was seen in two epochs"),
    ]:
        with pytest.raises(UserError, match=re.escape(expected)):
            write_static_map(points, tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=re.escape('pip install "ftft[figures]"')):
        write_static_map(some_points(), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
