"""The drawings of accuracies, differences, costs and learning: what they show is what the result says, at its place."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from ftft.report.charts import learning_curves
from ftft.report.stage_charts import cost_chart, difference_chart, score_chart

Box = tuple[float, float]


def drawn(chart: str) -> dict[str, str]:
    """The drawing of every row by its name."""
    return dict(re.findall(r"<dt[^>]*>([^<]+).*?</dt><dd>(.*?)</dd>", chart))


def marks(svg: str) -> list[float]:
    """The places of the values, in per cent of the width."""
    return [float(x) for x in re.findall(r'<svg x="([\d.]+)%"', svg)]


def whiskers(svg: str) -> list[Box]:
    """The beginning and end of every interval, in per cent of the width."""
    found = re.findall(r'class="error"[^>]*x1="([\d.]+)%" x2="([\d.]+)%"', svg)
    return [(float(low), float(high)) for low, high in found if low != high]


def scale(chart: str) -> tuple[float, float]:
    """(value at the left end, values per per cent of the width), from the axis' figures."""
    axis = chart.rpartition('class="axis-name"')[2]
    found = [(float(x), float(word)) for x, word in re.findall(r'<text x="([\d.-]+)%"[^>]*>([\d.-]+)</text>', axis)]
    (x1, v1), (x2, v2) = found[0], found[-1]
    return v1 - x1 * (v2 - v1) / (x2 - x1), (v2 - v1) / (x2 - x1)


def test_accuracies_stand_at_their_values_with_their_intervals(result: dict[str, Any]) -> None:
    chart = score_chart(result)
    assert chart is not None
    start, per = scale(chart)
    rows = drawn(chart)
    assert list(rows) == ["test", "validation", "no_shortcut", "reversed_shortcut", "new_words", "OOD mean"]
    for name in ("test", "reversed_shortcut"):
        figures = [result["stages"][stage]["evaluation"][name]["metrics"]["accuracy"] for stage in ("erm", "reference", "main")]
        assert [start + per * x for x in marks(rows[name])] == pytest.approx([100 * one["value"] for one in figures], abs=0.05)
        ends = [(start + per * low, start + per * high) for low, high in whiskers(rows[name])]
        for (low, high), one in zip(ends, figures, strict=True):
            assert (low, high) == pytest.approx((100 * one["low"], min(100.0, 100 * one["high"])), abs=0.05)
    assert "main (result)" in chart and "95 % bootstrap intervals" in chart


def test_a_result_compared_by_its_loss_is_drawn_by_it(result: dict[str, Any]) -> None:
    result["compared"] = ["loss", "perplexity"]
    losses = {"erm": 2.5, "reference": 3.25, "main": 2.25}
    for name, stage in result["stages"].items():
        for one in stage["evaluation"].values():
            one["metrics"] = {"loss": {"value": losses[name], "low": losses[name] - 0.125, "high": losses[name] + 0.125}}
        stage["versus_baseline"] = stage["means"] = None
    chart, differences = score_chart(result), difference_chart(result)
    assert chart is not None and differences is not None
    start, per = scale(chart)
    rows = drawn(chart)
    assert list(rows)[-1] == "OOD mean" and 'aria-label="test: 2.500, 3.250, 2.250"' in rows["test"]
    assert [start + per * x for x in marks(rows["test"])] == pytest.approx(list(losses.values()), abs=0.005)
    ends = [end for pair in whiskers(rows["test"]) for end in pair]
    assert [start + per * end for end in ends] == pytest.approx([2.375, 2.625, 3.125, 3.375, 2.125, 2.375], abs=0.005)
    assert "Loss in nats per token (lower is better) with 95 % bootstrap intervals." in chart
    start, per = scale(differences)
    assert [start + per * x for x in marks(drawn(differences)["OOD mean"])] == pytest.approx([0.75, -0.25], abs=0.005)
    assert "in nats per token (negative is better), with paired" in differences


def test_differences_leave_the_baseline_out_and_mark_zero(result: dict[str, Any]) -> None:
    chart = difference_chart(result)
    assert chart is not None
    start, per = scale(chart)
    svg = drawn(chart)["new_words"]
    wanted = [result["stages"][stage]["versus_baseline"]["sets"]["new_words"]["accuracy"] for stage in ("reference", "main")]
    assert [start + per * x for x in marks(svg)] == pytest.approx([100 * one["value"] for one in wanted], abs=0.05)
    assert [start + per * low for low, _ in whiskers(svg)] == pytest.approx([100 * one["low"] for one in wanted], abs=0.05)
    zero = float(re.findall(r'class="stop" x1="([\d.]+)%"', svg)[0])
    assert start + per * zero == pytest.approx(0.0, abs=0.05)
    assert "main minus erm" in chart and "erm minus erm" not in chart


def test_values_without_intervals_have_no_whiskers(result: dict[str, Any]) -> None:
    for stage in result["stages"].values():
        for one in stage["evaluation"].values():
            del one["metrics"]["accuracy"]["low"]
    chart = score_chart(result)
    assert chart is not None and whiskers(drawn(chart)["test"]) == [] and len(marks(drawn(chart)["test"])) == 3


def test_costs_are_shares_of_erm_one_phase_after_the_other(result: dict[str, Any]) -> None:
    chart = cost_chart(result)
    assert chart is not None
    found = re.findall(r'<dt class="(sum|sub)">([^<]+)</dt><dd>(.*?)<span>([\d.]+) %</span>', chart)
    names = [(kind, name, float(share)) for kind, name, _, share in found]
    # ERM is 1.02e15 operations; main is its reference (3e14), its training (4e14) and its evaluation (3e13).
    assert names == [
        ("sum", "erm (ERM)", 100.0), ("sub", "training", 98.0), ("sub", "evaluation", 2.0), ("sum", "reference", 29.4),
        ("sum", "main (result)", 71.6), ("sub", "reference", 29.4), ("sub", "training", 39.2), ("sub", "evaluation", 2.9),
    ]  # fmt: skip
    bars = [tuple(map(float, re.findall(r'x="([\d.]+)" y="3" width="([\d.]+)"', svg)[0])) for _, _, svg, _ in found]
    at_one = float(re.findall(r'class="stop" x1="([\d.]+)"', chart)[0])
    assert bars[0] == (0.0, at_one) and bars[1][0] == 0.0 and bars[2][0] == pytest.approx(bars[1][1], abs=0.11)
    whole, phases = bars[4], bars[5:]
    assert sum(width for _, width in phases) == pytest.approx(whole[1], abs=0.2)
    assert [x for x, _ in phases] == pytest.approx([0.0, phases[0][1], phases[0][1] + phases[1][1]], abs=0.2)


def test_what_is_not_known_is_not_drawn(result: dict[str, Any]) -> None:
    alone = copy.deepcopy(result) | {"baseline": None}
    assert difference_chart(alone) is None and score_chart(alone) is not None
    for stage in result["stages"].values():
        stage["cost"]["erm_flops"] = None
        stage["evaluation"] = {}
    assert cost_chart(result) is None and score_chart(result) is None and cost_chart({}) is None


def test_the_learning_curve_shows_id_and_ood_of_the_finished_model_and_where_it_stopped(result: dict[str, Any]) -> None:
    main = result["stages"]["main"]
    for entry in main["training"]["history"]:
        entry["scores"]["no_shortcut"] = {"accuracy": 0.4}
    main["artefact"] = {"kind": "weights", "step": 45}
    found = learning_curves(result, "main")
    assert found is not None
    chart = found.partition("accuracy of ID and OOD sets")[2]
    assert "validation (ID)" in chart and "no_shortcut (OOD)" in chart and "Stopped early at step 60 of 225 planned." in chart
    assert "finished model, ID: test set test" in chart and "finished model, OOD: 3 test sets" in chart
    best, stop = (float(re.findall(rf'class="{kind}" x1="([\d.]+)"', chart)[0]) for kind in ("best", "stop"))
    assert best < stop
    places = re.findall(r'class="final"[^>]*transform="translate\(([\d.]+) ([\d.]+)\)"', chart)
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places if (x, y) != ("9.0", "7.0")]
    assert x1 == x2 == pytest.approx(best, abs=0.1) and y1 < y2  # ID 92.4 %, OOD 70.8 %: less is lower
    spans = re.findall(r'class="error"[^>]*x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', chart)
    upright = [(float(low), float(high)) for a, b, low, high in spans if a == b]
    assert [low > y > high for (low, high), y in zip(upright, (y1, y2), strict=True)] == [True, True]
