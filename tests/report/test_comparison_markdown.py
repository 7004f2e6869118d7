"""The comparison as Markdown: every figure of the document in well-formed tables, and no string of the data is a mark."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftft.errors import UserError
from ftft.report.comparison_markdown import comparison_markdown
from ftft.report.comparison_writing import write_comparison
from ftft.report.markdown import paragraph, safe

NAMES = ("trial", "measured", "unfinished", "empty", "large", "hostile")


def grids(text: str) -> dict[str, list[list[str]]]:
    """Every table by the heading above it: its lines as cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def row(grid: list[list[str]], name: str) -> list[str]:
    return next(cells for cells in grid if cells[0] == name)


def estimate(entry: dict[str, Any]) -> str:
    return f"{100 * entry['value']:.1f}<br>[{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_well_formed(examples: ModuleType, name: str) -> None:
    text = comparison_markdown(getattr(examples, name)())
    found = grids(text)
    assert "Summary" in found and "None" not in text and "nan" not in text
    for grid in found.values():
        assert len({len(cells) for cells in grid}) == 1 and set(grid[1]) <= {"---", "---:"}


def test_every_figure_on_every_set_and_mean_is_shown_with_interval_difference_and_sign(examples: ModuleType) -> None:
    table = examples.trial()
    found = grids(comparison_markdown(table))
    for name, one in table["tasks"]["hate_speech"]["rows"].items():
        title = f"{name} (baseline)" if name == "erm" else name
        for place in ("cad", "dynahate", "hatecheck", "kennedy", "OOD mean"):
            figures = one["means"]["ood"] if place == "OOD mean" else one["sets"][place]
            for cell, metric in zip(row(found[place], title)[1:], table["metrics"], strict=True):
                assert cell.startswith(estimate(figures[metric]))
                if one["versus"] is not None:
                    gaps = one["versus"]["means"]["ood"] if place == "OOD mean" else one["versus"]["sets"][place]
                    gap = gaps[metric]
                    limits = f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
                    assert cell.endswith(f"<br>{100 * gap['value']:+.1f} {limits} ({gap['sign']})")
                else:
                    assert cell.count("<br>") == 1


def test_prior_sensitive_figures_stand_beside_auroc_and_corrected_ones_in_the_summary(examples: ModuleType) -> None:
    text = comparison_markdown(examples.trial())
    heads = grids(text)["Summary"][0]
    assert [head for head in heads if head.startswith("OOD")] == [
        "OOD mean of 3 sets: macro-F1<br>prior-sensitive",
        "OOD mean of 3 sets: accuracy<br>prior-sensitive",
        "OOD mean of 3 sets: AUROC<br>not prior-sensitive",
        "OOD mean of 3 sets: prior-corrected macro-F1<br>not prior-sensitive",
    ]
    cells = row(grids(text)["Summary"], "ambiguous")
    assert cells[6:] == [
        "0.58<br>[0.55, 0.61]<br>amortised 0.45<br>searches 2.10",
        "2<br>rate 5e-5",
        "+0.4<br>[-0.6, +1.4]",
    ]
    assert "### What to beware of (direction only: 2 seeds)" in text and "- ambiguous is not better than erm_half" in text
    assert "**Direction only: 2 seeds.**" in text


def test_costs_curves_resources_and_contrasts_are_the_documents(examples: ModuleType) -> None:
    found = grids(comparison_markdown(examples.trial()))
    costs = found["Costs, as multiples of ERM's"]
    assert [head.split("<br>")[0] for head in costs[0][5:]] == ["Reference", "Training", "Evaluation"]
    assert row(costs, "ambiguous")[3:] == ["2.10", "6.96e14", "0.25", "0.31", "0.02"]
    curve = row(found["Learning-rate curves"], "random")
    assert curve[1:3] == ["1.5e-4<br>at the edge of its grid", "macro-F1<br>on validation"]
    assert curve[3].startswith("1.67e-5: 77.2 [77.0, 77.4]<br>5e-5: 80.2") and curve[3].endswith("(chosen)")
    assert not any(cells[0] == "erm_half" for cells in found["Learning-rate curves"])
    resources = row(found["Model and training"], "ambiguous")
    assert resources[1:] == ["22,713,986", "22,713,986", "1.12 GiB", "310, 280", "positive 37.0<br>negative 63.0"]
    first, second = found["Contrasts"][2:]
    assert first == [
        "ambiguous against random<br>hate_speech", "OOD mean", "macro-F1<br>prior-sensitive", "different",
        "+1.2<br>[-0.8, +3.2]", "+0.4<br>[-0.6, +1.4]", "0.031", "0.062", "no difference shown",
    ]  # fmt: skip
    assert second[3] == "no worse (margin 1.0)" and second[-1] == "not shown to be no worse"


def test_each_evaluator_of_models_has_a_table_of_the_rows_it_measured(examples: ModuleType) -> None:
    text = comparison_markdown(examples.measured())
    found = grids(text)
    assert found["Measured of the model: intruder dimensions"] == [
        ["Row", "Count", "Looked at", "Random"],
        ["---", "---:", "---:", "---:"],
        ["erm (baseline)", "0", "2,160", "0.5<br>1, 0"],
        ["ambiguous", "12<br>12, -", "360", "-"],
    ]
    assert found["Measured of the model: forgetting"][0] == [
        "Row",
        "Mean macro-F1 difference, %",
        "Distance",
        "Norm",
        "Found",
        "Settled",
    ]
    assert found["Measured of the model: forgetting"][2:] == [
        ["ambiguous", "-2.5<br>-3.4, -1.6", "1.23", "3.00e12<br>4.50e12, 1.50e12", "0.5<br>yes, no", "yes"]
    ]
    assert text.count("where the seeds differ the value of each. Direction only: 2 seeds.") == 2
    assert "Measured of the model" not in comparison_markdown(examples.trial())


def test_tables_of_sequences_say_of_each_figure_what_it_is(examples: ModuleType) -> None:
    shares = comparison_markdown(examples.trial())
    assert "Metrics in per cent with" in shares and "erm in points with its interval" in shares
    assert grids(shares)["Learning-rate curves"][0][3] == "Rate: score, %"
    assert grids(shares)["Contrasts"][0][4] == "Difference, points" and "Differences of shares" not in shares
    table = examples.trial()
    table["headline"], table["metrics"] = "loss", ["loss", "perplexity", "token_accuracy"]
    task = table["tasks"]["hate_speech"]
    task["rows"]["erm"]["learning_rate"]["metric"] = "loss"
    task["rows"]["random"]["learning_rate"]["metric"] = "token_accuracy"
    table["contrasts"][0]["metric"] = "loss"
    text = comparison_markdown(table)
    assert "Metrics with 95 % intervals" in text and "difference to erm with its interval and sign" in text
    assert "the others are in per cent, their differences in points" in text and "in per cent with" not in text
    found = grids(text)
    curves = found["Learning-rate curves"]
    assert curves[0][3] == "Rate: score" and row(curves, "erm (baseline)")[2] == "loss<br>on validation"
    assert ": 0.8" in row(curves, "erm (baseline)")[3]
    assert row(curves, "random")[2] == "token accuracy, %<br>on validation" and ": 80.2" in row(curves, "random")[3]
    assert found["Contrasts"][0][4] == "Difference" and found["Contrasts"][2][4].startswith("+0.012<br>[")
    assert "Differences of shares are in points." in text


def test_an_unfinished_comparison_is_said_to_be_one(examples: ModuleType) -> None:
    text = comparison_markdown(examples.unfinished())
    found = grids(text)
    assert "Unfinished: 1 of 9 cells are finished" in text and "- random, seed 0: the loss became NaN at step 12" in text
    assert row(found["Summary"], "ftft")[-2:] == ["0 of 3<br>3 pending", "-"]
    assert row(found["Summary"], "erm (baseline)")[2] == "64.0"
    assert [cells[0] for cells in grids(comparison_markdown(examples.empty()))["Summary"][2:]] == ["erm (baseline)", "ftft"]


def test_forget_sets_have_a_mean_in_the_summary(examples: ModuleType) -> None:
    table = examples.document({"erm": examples.row(0.6, 0.7)})
    means = table["tasks"]["hate_speech"]["rows"]["erm"]["means"]
    means["forget"] = {"sets": ["old"], "macro_f1": examples.estimate(0.42)}
    found = grids(comparison_markdown(table))["Summary"]
    assert "Forget: macro-F1<br>prior-sensitive" in found[0]
    assert "42.0<br>[40.0, 44.0]" in row(found, "erm (baseline)")


def test_a_confirming_suite_lists_the_explorations(examples: ModuleType) -> None:
    listed = [{"suite": "cad-explore", "created": "2026-11-20", "rows": ["a", "b"], "seeds": [0, 1], "hash": "ab12"}]
    table = examples.document({"erm": examples.row(0.6, 0.7)}, kind="confirm", opened=1, explorations=listed)
    text = comparison_markdown(table)
    assert grids(text)["Earlier explorations"][2] == ["cad-explore", "2026-11-20", "a, b", "0, 1", "ab12"]
    assert "- The OOD tests were opened once." in text


def test_no_string_of_the_data_is_markdown_or_html(examples: ModuleType) -> None:
    text = comparison_markdown(examples.hostile())
    assert "<script" not in text and "](" not in text and "://" not in text and "\x1b" not in text
    assert set(re.findall(r"<[^>]*>", text)) == {"<br>"}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("macro_f1", "macro_f1"),
        ("_a_ b", "&#95;a&#95; b"),
        ("**a** ~~b~~ $c$ `d`", "&#42;&#42;a&#42;&#42; &#126;&#126;b&#126;&#126; &#36;c&#36; &#96;d&#96;"),
        ("[a]: b", "[a&#93;: b"),
        ("www.a https://b", "www&#46;a https&#58;//b"),
        ("a\n# b", "a # b"),
    ],
)
def test_marks_are_escaped(given: str, written: str) -> None:
    assert safe(given) == written


@pytest.mark.parametrize("given", ["# a", "- a", "+ a", "1. a", "12) a", "=== a"])
def test_a_paragraph_begins_no_block(given: str) -> None:
    assert paragraph(given) == f"&#{ord(given[0])};{given[1:]}"
    assert paragraph("12 a") == "12 a"


def test_page_and_markdown_are_written_and_nothing_else(examples: ModuleType, tmp_path: Path) -> None:
    page = write_comparison(tmp_path / "new", examples.trial())
    assert page == tmp_path / "new" / "table.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["table.html", "table.md"]
    assert (page.parent / "table.md").read_text(encoding="utf-8") == comparison_markdown(examples.trial())


def test_a_folder_that_cannot_be_written_to_is_the_users_error(examples: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="a folder"):
        write_comparison(tmp_path / "file", examples.trial())
