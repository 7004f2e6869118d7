"""The comparison on the terminal: every figure is there at any width, none is cut, and no line is too long."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from ftft.report.comparison_terminal import broken, print_comparison

NAMES = ("trial", "measured", "unfinished", "empty", "large", "hostile")


def shown(table: dict[str, Any], width: int, terminal: bool = False, encoding: str | None = None) -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding or "utf-8")
    print_comparison(table, Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    stream.flush()
    return buffer.getvalue().decode(encoding or "utf-8")


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_too_long_and_nothing_is_cut(examples: ModuleType, name: str, width: int) -> None:
    text = shown(getattr(examples, name)(), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text and "None" not in text and "nan" not in text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_every_figure_of_the_summary_is_there(examples: ModuleType, width: int) -> None:
    text = shown(examples.trial(), width)
    figures = ("81.3", "61.3", "59.3-63.3", "-2.6", "(-)", "69.2", "67.2-71.2", "-1.1", "64.0", "0.58", "0.45", "2.10")
    for figure in (*figures, "1.5e-4 (edge)", "5e-5", "0.031", "0.062", "-0.9", "(0)"):
        assert figure in text
    words = " ".join(text.split())
    assert words.count("irection only: 2 seeds") >= 3
    assert "ambiguous is not better than erm_half, which costs less" in words
    assert "A shifted class prior alone can change macro-F1; AUROC and prior-corrected figures it cannot." in words


def test_rows_stay_whole_at_80_columns_and_sets_get_columns_at_120(examples: ModuleType) -> None:
    narrow, wide, wider = (shown(examples.trial(), width) for width in (80, 120, 200))
    assert narrow.count("\nRow ") == wide.count("\nRow ") == wider.count("\nRow ") == 1
    assert "dynahate, hatecheck, kennedy" in " ".join(narrow.split()) and " ---  " in narrow
    assert "-2.6 (-)   -2.6 (-)  -2.6 (-)" in wide and "---" not in wide and "in this order" not in wide
    assert "-2.6 [-3.6, -1.6] (-)" in wider and "Learning" in wider and "[-3.6, -1.6]" not in wide.partition("Contrasts")[0]


def test_twelve_rows_on_eight_sets_fit_80_columns_in_one_table(examples: ModuleType) -> None:
    text = shown(examples.large(), 80)
    assert text.count("\nRow ") == 1 and "++++++++" in text and "--------" in text
    words = " ".join(text.split())
    assert "2 of 5 seeds" in words and "3 pending" in words
    assert "a_rather_long_evaluation_set_name_0, a_rather_long_evaluation_set_name_1," in words


def test_signs_follow_the_tables_and_unknown_ones_are_marked(examples: ModuleType) -> None:
    table = examples.trial()
    gaps = table["tasks"]["hate_speech"]["rows"]["ambiguous"]["versus"]["sets"]
    gaps["dynahate"] = {"macro_f1": examples.difference(0.03)}
    gaps["hatecheck"] = {"macro_f1": examples.difference(0.001)}
    gaps["kennedy"] = {"macro_f1": examples.difference(None)}
    text = shown(table, 80)
    assert "  +0?  " in text and "in this order, ? not known:" in " ".join(text.split())


def test_an_unfinished_comparison_shows_what_there_is(examples: ModuleType) -> None:
    text = " ".join(shown(examples.unfinished(), 80).split())
    assert "Unfinished: 1 of 9 cells are finished, 7 pending and 1 failed" in text
    assert "1 of 3 seeds" in text and "0 of 3 seeds" in text and "1 failed" in text
    assert "random, seed 0: the loss became NaN at step 12" in text and "64.0" in text
    assert "62.0-66.0" not in text and "over examples only" in text
    empty = shown(examples.empty(), 80)
    assert "0 of 2" in empty and "macro-F1\n" not in empty and "Contrasts" not in empty


def test_a_table_without_tasks_or_with_an_empty_one_is_no_error(examples: ModuleType) -> None:
    table = examples.document({})
    assert "It has no rows." in shown(table, 80)
    assert "hate-speech" in shown({**table, "tasks": {}}, 80) and shown({}, 80).strip()


def test_one_row_only_and_only_the_baseline(examples: ModuleType) -> None:
    text = shown(examples.document({"erm": examples.row(0.6, 0.7)}), 120)
    assert "60.0" in text and "(baseline)" in text and "Below:" not in text and "beware" not in text


def test_contrasts_have_both_p_values_and_a_verdict(examples: ModuleType) -> None:
    table = examples.trial()
    table["contrasts"].append({**examples.contrast("erm", "random", 0.03, 0.01, True), "p": 0.0001, "p_holm": 0.0003})
    table["contrasts"].append({**examples.contrast("erm", "random", -0.03, 0.01, True), "p": None, "p_holm": None})
    table["contrasts"].append({**examples.contrast("erm", "random", 0.0, 0.01, True), "kind": "no worse", "margin": 0.015})
    words = " ".join(shown(table, 80).partition("Contrasts")[2].split())
    for expected in ("no difference", "not shown to", "(margin 1.0)", "higher", "lower", "<0.001", "no worse", "(margin 1.5)"):
        assert expected in words
    table["contrasts"] = [{**table["contrasts"][0], "difference": examples.estimate(None), "holds": None}]
    assert "not yet known" in shown(table, 80)


@pytest.mark.parametrize("width", [40, 120])
def test_what_evaluators_measured_of_the_models_stands_below_their_table(examples: ModuleType, width: int) -> None:
    text = shown(examples.measured(), width)
    intruders, forgetting = text.partition("model: intruder")[2].partition("model: forgetting")[::2]
    forgetting = forgetting.partition("beware")[0]
    assert all(word in intruders for word in ("Count", "Looked at", "Random", "erm", "ambiguous", "12, -", "2,160", "360"))
    assert "erm_half" not in intruders and "Unknown" not in intruders and "erm" not in forgetting
    assert all(word in forgetting for word in ("-2.5", "-3.4, -1.6", "1.23", "3.00e12", "yes, no", "Settled"))
    words = " ".join(text.split())
    assert "Measured of the model: intruder dimensions (hate_speech)" in words
    assert words.count("where the seeds differ the value of each. Direction only: 2 seeds.") == 2
    assert "Measured of" not in shown(examples.trial(), width) and "where the seeds differ" not in shown(
        examples.trial(), width
    )


def test_a_confirming_suite_lists_explorations_and_openings(examples: ModuleType) -> None:
    listed = [{"suite": "cad-explore", "created": "2026-11-20", "rows": ["a", "b"], "seeds": [0, 1], "hash": "ab12" * 16}]
    rows = {"erm": examples.row(0.6, 0.7)}
    text = " ".join(shown(examples.document(rows, kind="confirm", opened=1, explorations=listed), 80).split())
    assert "The OOD tests were opened once." in text
    assert "cad-explore, 2026-11-20, hash ab12ab12ab12ab12: a, b (seeds 0, 1)" in text
    assert "Earlier explorations: none is known." in shown(examples.document(rows, kind="confirm", opened=1), 80)
    assert "Earlier explorations" not in shown(examples.document(rows), 80)


def test_names_can_neither_steer_the_terminal_nor_begin_lines(examples: ModuleType) -> None:
    table = examples.hostile()
    table["tasks"] = {"[red]x\nFailed cells: none": next(iter(table["tasks"].values()))}
    text = shown(table, 120, terminal=True)
    assert "\x1b[2J" not in text and "?[2J" in text and "Task [red]x Failed cells: none" in text


def test_a_console_of_plain_ascii_is_served(examples: ModuleType) -> None:
    table = examples.trial()
    table["name"] = "Straße"
    assert "Stra?e" in shown(table, 80, encoding="ascii")


def test_long_names_are_broken_at_separators_and_lose_nothing() -> None:
    assert broken("ambiguous_prior_kept", 18) == "ambiguous_prior_\nkept"
    assert broken("x" * 40, 18).replace("\n", "") == "x" * 40
    assert max(map(len, broken("a-b" * 20, 18).split("\n"))) <= 18
    assert broken("short", 18) == "short"
