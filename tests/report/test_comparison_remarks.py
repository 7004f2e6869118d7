"""The remarks: gains that AUROC does not share and rows that a cheaper one equals are said, and only those."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from ftft.report.comparison_figures import tasks
from ftft.report.comparison_remarks import dominators, notes, on_front, remarks

BASE = (0.60, 0.70)


def said(table: dict[str, Any]) -> list[str]:
    return remarks(table, tasks(table)[0])


def one(examples: ModuleType, f1: float, auroc: float, cost: float = 1.5, **more: Any) -> dict[str, Any]:
    """ERM and one row against it."""
    return examples.document({"erm": examples.row(*BASE, **more), "ftft": examples.row(f1, auroc, cost, against=BASE, **more)})


def gap(table: dict[str, Any], metric: str) -> dict[str, Any]:
    return table["tasks"]["hate_speech"]["rows"]["ftft"]["versus"]["means"]["ood"][metric]


@pytest.mark.parametrize("auroc", [0.70, 0.709, 0.68])
def test_a_gain_that_auroc_does_not_share_is_said_with_both_and_the_corrected_figure(
    examples: ModuleType, auroc: float
) -> None:
    lines = said(one(examples, 0.62, auroc))
    rank = 100 * (auroc - 0.70)
    assert len(lines) == 1
    assert lines[0].startswith(
        "ftft: its OOD gain over erm in accuracy (+2.0 [+1.0, +3.0]) and macro-F1 (+2.0 [+1.0, +3.0]) is not one in AUROC "
        f"({rank:+.1f} [{rank - 1:+.1f}, {rank + 1:+.1f}]); a shifted class prior"
    )
    assert f"After correction to each set's own class prior: accuracy {rank:+.1f} " in lines[0]


def test_a_gain_that_auroc_shares_and_no_gain_are_not_remarked(examples: ModuleType) -> None:
    assert said(one(examples, 0.62, 0.72)) == []
    assert said(one(examples, 0.605, 0.70)) == []
    assert said(one(examples, 0.605, 0.695)) == []


def test_a_seeming_gain_with_a_lower_auroc_is_said(examples: ModuleType) -> None:
    (line,) = said(one(examples, 0.605, 0.68))
    assert "ftft: it only seems to gain on erm in OOD accuracy (+0.5 [-0.5, +1.5]) and macro-F1" in line
    assert "its AUROC is lower (-2.0 [-3.0, -1.0])" in line


def test_without_intervals_the_point_values_decide(examples: ModuleType) -> None:
    (line,) = said(one(examples, 0.62, 0.70, half=None))
    assert "macro-F1 (+2.0) is not one in AUROC (+0.0)" in line
    assert said(one(examples, 0.62, 0.72, half=None)) == []


def test_an_unknown_auroc_is_said_to_be_unknown(examples: ModuleType) -> None:
    table = one(examples, 0.62, 0.72)
    gap(table, "auroc").update(value=None, low=None, high=None, sign="0")
    (line,) = said(table)
    assert line.startswith("ftft: whether its OOD gain over erm in accuracy") and "AUROC too is not known" in line


def test_only_the_gaining_metric_is_named(examples: ModuleType) -> None:
    table = one(examples, 0.62, 0.70)
    gap(table, "accuracy").update(value=0.0, low=-0.01, high=0.01, sign="0")
    (line,) = said(table)
    assert "OOD gain over erm in macro-F1 (" in line and "accuracy (" not in line


def test_the_trial_of_the_issue_names_the_shorter_erm_for_the_ambiguous_third(examples: ModuleType) -> None:
    table = examples.trial()
    lines = said(table)
    assert (
        "ambiguous is not better than erm_half, which costs less: OOD mean macro-F1 61.3 against 62.8, cost 0.58 against 0.50 "
        "of ERM; nor better than random_prior." in lines
    )
    assert any(line.startswith("random is not better than random_prior, which costs the same:") for line in lines)
    assert not any(line.startswith(("erm ", "erm_half ", "random_prior ")) for line in lines)
    assert [row.name for row in on_front(tasks(table)[0])] == ["random_prior", "erm_half", "erm"]


def test_equal_rows_do_not_dominate_each_other_and_unknown_ones_nobody(examples: ModuleType) -> None:
    rows = {name: examples.row(0.6, 0.7, 1.0) for name in ("erm", "twin")}
    rows["unknown"] = examples.row(None, seeds=())
    task = tasks(examples.document(rows))[0]
    assert [dominators(task, row) for row in task.rows] == [[], [], []]
    assert [row.name for row in on_front(task)] == ["erm", "twin"]


def test_a_row_as_good_for_less_dominates(examples: ModuleType) -> None:
    rows = {"erm": examples.row(0.6, 0.7, 1.0), "half": examples.row(0.6, 0.7, 0.5)}
    (line,) = said(examples.document(rows))
    assert line.startswith("erm is not better than half, which costs less: OOD mean macro-F1 60.0 against 60.0, cost 1.00")


def test_many_dominating_rows_are_not_all_listed(examples: ModuleType) -> None:
    rows = {"erm": examples.row(0.6, 0.7, 1.0)}
    rows |= {f"row_{index}": examples.row(0.61 + index / 100, 0.75, 0.5 - index / 100) for index in range(7)}
    (line,) = [line for line in said(examples.document(rows)) if line.startswith("erm is")]
    assert "not better than row_6, which" in line and line.endswith("nor better than row_5, row_4, row_3 and 3 other rows.")


def test_a_metric_where_lower_is_better_turns_the_order_round(examples: ModuleType) -> None:
    rows = {"erm": examples.row(0.6, 0.7, 1.0), "worse": examples.row(0.6, 0.7, 1.2)}
    rows["worse"]["means"]["ood"]["ece"] = examples.estimate(0.2)
    task = tasks(examples.document(rows, headline="ece"))[0]
    assert [[other.name for other in dominators(task, row)] for row in task.rows] == [[], ["erm"]]
    assert "OOD mean ECE 20.0 against 11.3" in said(examples.document(rows, headline="ece"))[0]


def test_a_contrast_won_in_macro_f1_only_is_said(examples: ModuleType) -> None:
    rows = {
        "erm": examples.row(*BASE),
        "random": examples.row(0.58, 0.71, 0.4, against=BASE),
        "ftft": examples.row(0.59, 0.69, 0.5, against=BASE),
    }

    def lines(ranking: Any) -> list[str]:
        won = examples.contrast("ftft", "random", 0.03, 0.01, True, ranking=ranking)
        return [line for line in said(examples.document(rows, contrasts=[won])) if line.startswith("ftft against random")]

    (line,) = lines(examples.estimate(0.004, 0.01))
    assert "on ood: the gain in macro-F1 (+3.0 [+2.0, +4.0]) is not one in AUROC (+0.4 [-0.6, +1.4])" in line
    assert lines(examples.estimate(0.03, 0.01)) == [] == lines(None)


def test_edges_of_grids_unequal_seeds_and_seen_sets_are_said(examples: ModuleType) -> None:
    table = one(examples, 0.62, 0.72)
    task = table["tasks"]["hate_speech"]
    task["rows"]["ftft"]["learning_rate"] = examples.rates(5e-5, 0.8, interior=False)
    task["rows"]["ftft"]["seeds"] = [0]
    task["sets"][1]["seen"] = True
    edge, seeds, seen = said(table)
    assert edge.startswith("ftft: its learning rate 1.5e-4 lies at the edge")
    assert "rest on different seeds" in seeds and seen == "The OOD mean leaves out dynahate: a model was trained on it."


def test_notes_say_kind_openings_unfinished_cells_and_single_seeds(examples: ModuleType) -> None:
    first, second, third = notes(examples.unfinished())
    assert first.startswith("Exploration:") and second.startswith(
        "Unfinished: 1 of 9 cells are finished, 7 pending and 1 failed"
    )
    assert third.endswith(": erm (hate_speech).") and "over examples only" in third
    rows = {"erm": examples.row(*BASE)}
    assert notes(examples.document(rows, kind="confirm", opened=1)) == ["The OOD tests were opened once."]
    assert "opened 3 times; a claim" in notes(examples.document(rows, kind="confirm", opened=3))[0]
    assert notes(examples.document(rows, kind="confirm", opened=0)) == ["The OOD tests have not been opened."]
