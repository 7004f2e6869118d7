"""What a stage learned from is said truthfully of a subset, of extra copies and of weights, wherever it is said."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ftft.dynamics.parquet import read_dynamics
from ftft.methods.selection import select, write_selection
from ftft.report.card import model_card
from ftft.report.learning import learned, selection_sentence
from ftft.report.page import page
from ftft.report.parts import Parts, chosen, group_rows, load_parts
from ftft.report.terminal import print_result
from ftft.report.writing import write_report

LOWEST_AUM = {"name": "top", "score": "aum", "largest": False, "balance": "none", "suspect_score": "confidence"}


def selected(result: dict[str, Any], rule: dict[str, Any], **counts: Any) -> None:
    """Give the stage main this selection of the pool of 240."""
    counts = {"pool": 240, "selected": 60, "rows": 60, "suspects_dropped": 0, **counts}
    result["stages"]["main"]["selection"] = {"rule": rule, "counts": counts, "examples": counts["rows"]}


def terminal(result: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    print_result(result, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def words_of_page(result: dict[str, Any]) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page(result, Parts()))).split())


@pytest.mark.parametrize(
    ("rule", "counts", "expected"),
    [
        ({"apply": "subset"}, {}, "60 of 240 training examples"),
        ({"apply": "copies", "copies": 2}, {"rows": 360}, "360 rows: 240 training examples and 2 extra copies of 60"),
        ({"apply": "copies", "copies": 1}, {"rows": 300}, "300 rows: 240 training examples and 1 extra copy of 60"),
        (
            {"apply": "copies", "copies": 2},
            {"rows": 340, "suspects_dropped": 20},
            "340 rows: 220 of 240 training examples and 2 extra copies of 60",
        ),
        ({"apply": "weights", "weight": 5.0}, {"rows": 240}, "all 240 training examples, 60 of them weighted 5:1"),
        (
            {"apply": "weights", "weight": 0.5},
            {"rows": 228, "suspects_dropped": 12},
            "228 of 240 training examples, 60 of them weighted 0.5:1",
        ),
    ],
)
def test_every_way_to_apply_a_selection_is_said_in_card_page_and_terminal(
    rule: dict[str, Any], counts: dict[str, Any], expected: str, result: dict[str, Any]
) -> None:
    selected(result, {**LOWEST_AUM, **rule}, **counts)
    assert f"Learned from {expected}." in model_card(result)
    suspects = counts.get("suspects_dropped")
    after = f", after the {suspects} with the lowest confidence were dropped as suspects" if suspects else ""
    said = f"It learns from {expected} (those with the lowest AUM{after})."
    assert said in words_of_page(result)
    assert said in " ".join(terminal(result).split())


def test_the_tables_count_the_rows_that_were_learned_from(result: dict[str, Any]) -> None:
    selected(result, {**LOWEST_AUM, "apply": "copies", "copies": 2}, rows=360)
    text = words_of_page(result)
    assert re.search(r"main \(result\) BertForSequenceClassification .* parameters 360 240 and 2 extra copies of 60 ", text)
    table = terminal(result)
    assert "60 of 240" not in " ".join(table.split()) and "of 240" not in table
    assert re.search(r"main +360 ", table) and "240 +" in table and "2 x 60" in table
    selected(result, {**LOWEST_AUM, "apply": "weights", "weight": 5.0}, rows=240)
    table = terminal(result)
    assert re.search(r"main +240 ", table) and "at 5:1" in table and "of 240" not in table
    assert "240 60 of them weighted 5:1" in words_of_page(result)
    assert max(map(len, table.splitlines())) <= 80


def test_the_cards_classes_name_what_became_of_the_chosen(result: dict[str, Any]) -> None:
    classes = {label: {"pool": 120, "selected": 30} for label in ("does_not_follow", "follows")}
    for apply, word in (("subset", "Selected"), ("copies", "Copied"), ("weights", "Weighted")):
        selected(result, {**LOWEST_AUM, "apply": apply, "copies": 2, "weight": 5.0}, rows=240, classes=classes)
        assert f"| Label | Training examples | {word} |" in model_card(result)


@pytest.mark.parametrize(
    ("rule", "counts", "expected"),
    [
        ({"name": "all"}, {"selected": 240}, ""),
        ({"name": "random", "prior": "pool"}, {}, "drawn at random, in the class shares of the whole set"),
        ({"name": "top", "score": "random"}, {}, "drawn at random"),
        ({"name": "top", "score": "dual", "largest": True}, {}, "those with the highest DUAL"),
        (
            {"name": "top", "score": "threshold_closeness", "largest": True, "balance": "class"},
            {},
            "those with the highest threshold closeness, equally many of each class, as far as it has rows",
        ),
        (
            {"name": "both_ends", "score": "variability"},
            {
                "parts": [
                    {"score": "variability", "largest": True, "selected": 42},
                    {"score": "variability", "largest": False, "selected": 18},
                ]
            },
            "42 with the highest variability and 18 with the lowest variability",
        ),
        (
            {"name": "without_suspects", "suspect_score": "aum"},
            {"selected": 228, "suspects_dropped": 12},
            "all but the 12 with the lowest AUM, suspected to be mislabelled",
        ),
        ({"name": "of_someone_else"}, {}, "chosen by of_someone_else"),
    ],
)
def test_the_rule_that_chose_is_said(
    rule: dict[str, Any], counts: dict[str, Any], expected: str, result: dict[str, Any]
) -> None:
    selected(result, rule, **counts)
    sentence = selection_sentence(result, "main")
    assert sentence.partition(" (")[2].removesuffix(").") == expected


def test_an_old_result_without_a_full_rule_is_still_read(result: dict[str, Any]) -> None:
    main = result["stages"]["main"]
    main["selection"] = {"examples": 79}
    found = learned(result, "main")
    assert found is not None and found.words() == "79 of 240" and selection_sentence(result, "main") == ""
    main["selection"] = None
    assert learned(result, "main") is None and "Learned from" not in model_card(result) and terminal(result)


@pytest.mark.parametrize("apply", ["copies", "weights"])
def test_the_map_outlines_the_chosen_and_not_all_that_is_learned_from(
    apply: Any, result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    folder = write_run(result)
    dynamics = read_dynamics(folder / "stages/reference/dynamics.parquet")
    choice = select(dynamics, score="aum", largest=False, count=60, apply=apply, copies=2, weight=5.0)
    alone = set(select(dynamics, score="aum", largest=False, count=60).ids.to_pylist())
    write_selection(choice, folder / "stages/main/selection.parquet")
    parts = load_parts(folder, result)
    rows = {row.group: row for row in group_rows(parts, None)}
    suspects = sum(f"row-{index:04d}" in alone for index in range(228, 240))
    assert rows["all"].selected["main"] == pytest.approx(60 / 240)
    assert rows["mislabelled"].selected["main"] == pytest.approx(suspects / 12)
    source = write_report(folder).read_text(encoding="utf-8")
    word = {"copies": "copied", "weights": "weighted"}[apply]
    assert f"outlined: {word} for stage main; smaller: not {word}" in source and f"{word.capitalize()} for main, %" in source
    drawn = source[source.index('<figure class="map"') :].partition('<ul class="key"')[0]
    outlined = "".join(re.findall(r'<g class="chosen"[^>]*>(.*?)</g>', drawn))
    assert len(re.findall("<(?:circle|path)", outlined)) == 60


def test_down_weighted_examples_are_the_chosen() -> None:
    amount = np.array([1.2, 0.4, 1.2, 0.0])
    assert chosen(amount, {"apply": "weights", "weight": 0.33}).tolist() == [False, True, False, False]
    assert chosen(amount, {"apply": "weights", "weight": 3.0}).tolist() == [True, False, True, False]
    assert chosen(amount, {"apply": "subset"}).tolist() == [True, True, True, False]
