"""The data map in characters: what lies where, in any encoding and width."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from ftft.methods.contract import Selection
from ftft.report.parts import DataMap, Parts
from ftft.report.terminal_map import ASCII, BLOCKS, MOSTLY_SELECTED, ROWS, print_map


def a_map(confidence: list[float], variability: list[float], users: tuple[str, ...] = ()) -> DataMap:
    ids = pa.array([f"r{index}" for index in range(len(confidence))])
    return DataMap(
        "of stage reference",
        ids,
        4,
        np.array(confidence),
        np.array(variability),
        None,
        None,
        users,
        "the probability of the label",
    )


def shown(
    data_map: DataMap, *, width: int = 60, encoding: str = "utf-8", colour: bool = False, parts: Parts | None = None
) -> str:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    print_map(data_map, parts or Parts(), console)
    stream.flush()
    return content.getvalue().decode(encoding)


def rows(text: str) -> list[str]:
    """The drawing right of its axis, from above."""
    return [line[6:] for line in text.splitlines() if line[5:6] in set("│┤|+") and line[6:7] not in ("+", "┴")]


def test_examples_stand_where_their_scores_say() -> None:
    crowd = [(0.99, 0.001)] * 100 + [(0.99, 0.499)] + [(0.02, 0.001)] * 7 + [(0.52, 0.25)] * 2 + [(np.nan, 0.1)]
    drawn = rows(shown(a_map(*(list(values) for values in zip(*crowd)))))
    assert len(drawn) == ROWS and {len(line.rstrip("\n")) for line in drawn} == {60 - 7}
    places = {(row, column): mark for row, line in enumerate(drawn) for column, mark in enumerate(line) if mark != " "}
    assert places.keys() == {(0, 0), (0, 52), (ROWS - 1, 0), (ROWS // 2, 26)}
    assert places[0, 0] == BLOCKS.shades[-1] and places[0, 52] == BLOCKS.shades[0]
    assert BLOCKS.shades.index(places[ROWS // 2, 26]) < BLOCKS.shades.index(places[ROWS - 1, 0]) < 4


def test_axes_and_words_say_what_is_drawn() -> None:
    text = shown(a_map([0.9] * 30, [0.1] * 30), width=100)
    lines = text.splitlines()
    assert lines[1] == "Data map of stage reference, 30 examples: confidence (up) over variability (across)"
    assert [line[:4].strip() for line in lines if "┤" in line] == ["1.0", "0.5", "0.0"]
    below = next(index for index, line in enumerate(lines) if "└" in line)
    assert lines[below + 1].split() == ["0", "0.25", "0.5"]
    for words, centre in (("0.25", 1), ("0.5", 1)):
        tick = lines[below + 1].index(words) + centre
        assert "┴" in lines[below][tick - 1 : tick + 2]
    assert "up to 30 (logarithmic)" in text and "easy to learn" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_cannot_hold_is_drawn_in_ascii(encoding: str) -> None:
    text = shown(a_map([0.9] * 30 + [0.1], [0.1] * 31), encoding=encoding)
    assert text.isascii() and ASCII.shades[-1] in text and ASCII.shades[0] in "".join(rows(text))


@pytest.mark.parametrize("width", [36, 40, 57, 80, 200])
def test_no_line_of_the_drawing_is_wider_than_the_terminal(width: int) -> None:
    text = shown(a_map([0.0, 1.0, 0.5], [0.0, 0.5, 0.5]), width=width)
    drawn = rows(text)
    assert max(len(line) for line in text.splitlines()) <= width and len(drawn) == ROWS
    assert drawn[0].rstrip("\n").endswith("·") and drawn[-1].startswith("·")


def test_nothing_is_drawn_where_there_is_nothing_or_no_room() -> None:
    assert shown(a_map([np.nan], [np.nan])) == "" and shown(a_map([0.5], [0.1]), width=30) == ""


def test_cells_that_are_mostly_selected_are_coloured() -> None:
    data_map = a_map([0.9] * 3 + [0.1] * 2, [0.1] * 3 + [0.4] * 2, users=("main",))
    selection = Selection(ids=pa.array(["r3", "r4", "r0"]), weights=np.ones(3), rule={"name": "top"})
    parts = Parts(selections={"main": selection}, rules={"main": {"name": "top"}})
    text = shown(data_map, width=120, colour=True, parts=parts)
    assert text.count("\x1b[96m") == 1 and MOSTLY_SELECTED == "bright_cyan"
    assert "coloured: most are selected by main." in text
    assert "coloured" not in shown(data_map, parts=parts)
