"""The terminal's tables: every figure is there at any width, and no line is too long."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ftft.report.parts import load_parts
from ftft.report.terminal import print_result


def shown(result: dict[str, Any], width: int, folder: Path | None = None, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_result(result, console, parts=None if folder is None else load_parts(folder, result))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_every_figure_is_there_and_fits(width: int, result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    text = shown(result, width, write_run(result))
    assert max(len(line) for line in text.splitlines()) <= width
    for figure in ("94.1", "77.5", "74.2-80.8", "61.5", "73.5", "70.8", "71.6", "measured", "50.5 s", "reused"):
        assert figure in text
    words = " ".join(text.split())
    assert "Warning: 3 training rows are empty" in words
    assert "One seed: direction only." in words
    assert "shortcut_breaking" in words and "96.4" in words and "2.93x" in words


def test_one_table_where_there_is_room(result: dict[str, Any]) -> None:
    wide, narrow = shown(result, 120), shown(result, 80)
    heads = [sum("Stage " in line and "%" not in line for line in text.splitlines()) for text in (wide, narrow)]
    assert heads == [1, 2]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_macro_f1_stands_below_every_accuracy(width: int, result: dict[str, Any]) -> None:
    text = shown(result, width)
    # ID test, the OOD mean, and the three OOD sets of the stage main; the mean of macro-F1 is its own.
    for accuracy, f1 in (("92.4", "91.3"), ("70.8", "69.8"), ("77.5", "76.4"), ("61.5", "60.4"), ("73.5", "72.5")):
        assert accuracy in text and f"F1 {f1}" in text
    assert "and macro-F1 (F1)." in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width and "…" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_differences_to_erm_stand_with_their_paired_intervals_and_no_row_is_wrapped(width: int, result: dict[str, Any]) -> None:
    lines = shown(result, width).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Minus erm, in points of accuracy, with paired"))
    table = [line.rstrip() for line in lines[start + 2 :]]
    table = table[: table.index("")]
    assert [line.split("  ")[0] for line in table[2:]] == [
        "OOD mean", "test", "validation", "no_shortcut", "reversed_shortcut", "new_words",
    ]  # fmt: skip
    assert "+9.5 [+8.3, +10.7]" in table[2] and "-1.7 [-3.8, +0.4]" in table[3] and "ID validation" in table[4]
    assert ("main, F1" in table[0]) == (width == 120)
    assert "ID" in table[3] and "3 sets" in table[2]


def test_means_have_their_intervals_and_seen_sets_are_in_none(result: dict[str, Any]) -> None:
    assert "68.9-72.7" in shown(result, 80)
    result["data"]["evaluation"]["new_words"]["seen_by"] = {"main": "it was trained on this"}
    text = shown(result, 80)
    words = " ".join(text.split())
    assert "68.9-72.7" not in text and "OOD (seen)" in text and "69.5" in text
    assert "The OOD mean leaves out new_words, seen before by the models of main" in words
    for name in ("no_shortcut", "reversed_shortcut"):
        result["data"]["evaluation"][name]["seen_by"] = {"main": "it was trained on this"}
    text = shown(result, 80)
    assert "There is no OOD mean" in text and "OOD mean  " not in text and "OOD mean: over" not in text
    assert "77.5" in text and "70.8" not in text


def test_sets_that_were_searched_on_are_in_no_mean_and_seen_by_no_model(result: dict[str, Any]) -> None:
    result["stages"]["main"]["search"] = {"on": ["new_words", "validation"]}
    words = " ".join(shown(result, 80).split())
    assert "OOD (searched" in words and "ID validation (searched" in words and "69.5" in words and "seen" not in words
    assert "The OOD mean leaves out new_words, searched on for the settings of main." in words
    result["stages"]["main"]["search"] = {"on": ["new_words", "no_shortcut"]}
    result["data"]["evaluation"]["reversed_shortcut"]["seen_by"] = {"main": "it was trained on this"}
    words = " ".join(shown(result, 80).split())
    assert (
        "There is no OOD mean: reversed_shortcut was seen before by the models of main (see the warnings), and no_shortcut, "
        "new_words were searched on for the settings of main." in words
    )


def test_the_diagnosis_is_said(result: dict[str, Any]) -> None:
    words = " ".join(shown(result, 80).split())
    assert "What main learned from: The reference (stage reference) is right in 90.9 % of the ID examples" in words
    assert "the class prior is shifted (total variation 11.0 %)" in words


def test_estimated_costs_are_marked(result: dict[str, Any]) -> None:
    for stage in result["stages"].values():
        stage["cost"]["erm_source"] = "estimated from this stage's counted batches"
    text = shown(result, 120)
    assert "estimated" in text and "measured" not in text


def test_names_cannot_steer_the_terminal(result: dict[str, Any]) -> None:
    result["stages"]["main"]["evaluation"]["[red]\x1b[31mset"] = result["stages"]["main"]["evaluation"]["new_words"]
    result["stamps"] = ["[bold]note\x1b[2J"]
    text = shown(result, 200)
    assert "\x1b" not in text and "[red]?[31mset" in text and "Note: [bold]note?[2J" in text


@pytest.mark.parametrize("lacking", ["stages", "baseline", "evaluation", "cost", "training", "selection"])
def test_a_missing_part_is_left_out(lacking: str, result: dict[str, Any]) -> None:
    if lacking in ("stages", "baseline"):
        result[lacking] = {} if lacking == "stages" else None
    else:
        for stage in result["stages"].values():
            stage[lacking] = None
    text = shown(result, 80)
    assert text.strip() and "None" not in text


def test_no_result_at_all_is_a_sentence() -> None:
    assert "left no result" in shown({}, 80)
