"""What a run's stages scored and cost, drawn: scores and differences with their intervals, and the cost by phase.

Every row is a drawing as wide as there is room, with the words beside it in HTML, so that a narrow screen shrinks no word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.engine.ledger import PHASES
from ftft.report.charts import COLOURS, ticks
from ftft.report.figures import (
    ROLE_NAMES,
    Interval,
    dig,
    evaluation_sets,
    level,
    mean_difference,
    mean_interval,
    mean_sets,
    metric,
    number,
    percent,
    set_difference,
    stage_figures,
    stage_names,
)
from ftft.report.markup import Attributes, Markup, join, tag, under
from ftft.report.measures import Measure, chief

STEP, MARGIN = 13, 4  # pixels from one stage's interval to the next, and above and below
LEAST_HEIGHT = 44  # of a row: its two lines of words, so that the grid of one meets that of the next
SHAPES = (
    "M-4.2 0A4.2 4.2 0 1 1 4.2 0A4.2 4.2 0 1 1-4.2 0Z",
    "M0-5.5L5.5 0 0 5.5-5.5 0Z",
    "M-4-4H4V4H-4Z",
    "M0-5.2L4.8 4H-4.8Z",
)


@dataclass(frozen=True)
class Row:
    """A row of dots: its name, what stands below it, and for each stage (by its number) a value; ``kind``: a class."""

    name: str
    below: str
    values: Sequence[tuple[int, Interval]]
    kind: str | None = None


def score_chart(result: Mapping[str, Any]) -> Markup | None:
    """Every stage's chief score (accuracy) on every set and its means, as dots with intervals; None where nothing was
    measured."""
    names, (score, told) = stage_names(result), chief(result)
    rows = _rows(
        result,
        told,
        lambda set_name: [metric(result, name, set_name, "metrics", score) for name in names],
        lambda role: [mean_interval(result, name, role, score) for name in names],
    )
    if not any(row.values for row in rows):
        return None
    key = [(_mark(index, 9, 7), stage_figures(result, name).title) for index, name in enumerate(names)]
    caption = f"{told.explained} with {level(result)} bootstrap intervals."
    return _dots(rows, caption, key, told, bounds=(0.0, 100.0) if told.share else (-math.inf, math.inf))


def difference_chart(result: Mapping[str, Any]) -> Markup | None:
    """Every stage minus the baseline in the chief score, with paired intervals and a line at zero; None without either."""
    baseline, names, (score, told) = result.get("baseline"), stage_names(result), chief(result)
    others = [(index, name) for index, name in enumerate(names) if name != baseline]
    if baseline not in names or not others:
        return None

    rows = _rows(
        result,
        told,
        lambda set_name: [set_difference(result, name, set_name, score) for name in names],
        lambda role: [mean_difference(result, name, role, score) for name in names],
    )
    if not any(row.values for row in rows):
        return None
    key = [(_mark(index, 9, 7), f"{name} minus {baseline}") for index, name in others]
    better = " (negative is better)" if told.lower else ""
    caption = (
        f"Differences to {baseline} in {told.scale}{better}, with paired {level(result)} intervals; the line is no difference."
    )
    return _dots(rows, caption, key, told, line=0.0)


def cost_chart(result: Mapping[str, Any]) -> Markup | None:
    """Each stage's whole cost and its phases, a bar each, against the cost of plain fine-tuning; None where that is unknown."""
    stages = []
    for name in stage_names(result):
        cost = dig(result, "stages", name, "cost")
        erm, phases = number(dig(cost, "erm_flops")), dig(cost, "ledger", "effective")
        spent = {phase: number(dig(phases, phase, "flops")) or 0.0 for phase in PHASES}
        shares = {phase: flops / erm for phase, flops in spent.items() if flops and erm}
        if shares:
            stages.append((name, shares))
    if not stages:
        return None
    longest = max(1.0, *(sum(shares.values()) for _, shares in stages)) * 1.02
    items = []
    for name, shares in stages:
        total, at = sum(shares.values()), 0.0
        items.append(_bar(stage_figures(result, name).title, [(0.0, total, "--mark")], longest, total, "sum"))
        for phase, share in shares.items() if len(shares) > 1 else ():
            items.append(_bar(phase, [(at, share, COLOURS[PHASES.index(phase) % len(COLOURS)])], longest, share, "sub"))
            at += share
    caption = (
        "Cost in per cent of plain fine-tuning's (ERM) floating-point operations, which the line marks. Under a stage its "
        "phases, where it has several, each from where the one before ends; the stages that it uses are the phase reference."
    )
    return tag("figure", tag("dl", *items, attributes={"class": "bars phases"}), tag("figcaption", caption))


def _rows(
    result: Mapping[str, Any],
    told: Measure,
    of_set: Callable[[str], list[Interval | None]],
    of_role: Callable[[str], list[Interval | None]],
) -> list[Row]:
    """A row for every set, by role, and one for the mean of a role that has several."""
    sets, rows = evaluation_sets(result), []
    for role in dict.fromkeys(one.role for one in sets):
        for one in (one for one in sets if one.role == role):
            facts = [
                ROLE_NAMES.get(role, role),
                *([one.split] if one.split != "test" else []),
                *one.marks,
            ]
            rows.append(Row(one.name, ", ".join(facts), _known(of_set(one.name), told)))
        over = mean_sets(sets, role)
        if role != "forget" and len(over) > 1:
            rows.append(Row(f"{role.upper()} mean", f"{len(over)} sets", _known(of_role(role), told), "sum"))
    return rows


def _known(values: Sequence[Interval | None], told: Measure) -> list[tuple[int, Interval]]:
    """The values, of a share in per cent, each with the number of its stage."""
    found, scale = [], 100 if told.share else 1
    for index, one in enumerate(values):
        if one is not None:
            ends = (None if end is None else scale * end for end in (one.low, one.high))
            found.append((index, Interval(scale * one.value, *ends)))
    return found


def _dots(
    rows: Sequence[Row],
    caption: str,
    key: Sequence[tuple[Markup, str]],
    told: Measure,
    *,
    line: float | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Markup:
    """The rows below one another on one axis, whose figures stand below the last."""
    ends = [end for row in rows for _, one in row.values for end in (one.low, one.value, one.high, line) if end is not None]
    margin = (max(ends) - min(ends)) * 0.05 or (1.0 if told.share else 0.1)
    low, high = max(bounds[0], min(ends) - margin), min(bounds[1], max(ends) + margin)
    marked = ticks(low, high, 5)

    def across(value: float) -> str:
        return f"{100 * (value - low) / ((high - low) or 1):.2f}%"

    stages = sorted({index for row in rows for index, _ in row.values})
    height = max(LEAST_HEIGHT, STEP * len(stages) + 2 * MARGIN)
    first = (height - STEP * (len(stages) - 1)) / 2
    items: list[Markup] = []
    for row in rows:
        lines = [_upright("grid", across(one), height) for one in marked]
        lines += [_upright("stop", across(line), height)] if line is not None else []
        drawn = [
            part for index, one in row.values for part in _interval(index, one, first + STEP * stages.index(index), across)
        ]
        said = f"{row.name}: " + ", ".join(f"{one.value:.{1 if told.share else told.digits}f}" for _, one in row.values)
        looks: Attributes = {"style": f"height:{height}px", "role": "img", "aria-label": said}
        title: Attributes = {"class": row.kind}
        items += [
            tag("dt", under(row.name, row.below), attributes=title),
            tag("dd", tag("svg", *lines, *drawn, attributes=looks)),
        ]
    words = [tag("text", f"{one:g}", attributes={"x": across(one), "y": 12, "text-anchor": "middle"}) for one in marked]
    axis: Attributes = {"style": "height:16px", "aria-hidden": "true"}
    items += [tag("dt", "", attributes={"class": "axis-name"}), tag("dd", tag("svg", *words, attributes=axis))]
    view: Attributes = {"viewBox": "0 0 18 14", "aria-hidden": "true"}
    names = tag("ul", *(tag("li", tag("svg", mark, attributes=view), name) for mark, name in key), attributes={"class": "key"})
    return tag("figure", tag("dl", *items, attributes={"class": "bars dots"}), names, tag("figcaption", caption))


def _upright(kind: str, x: str, height: float) -> Markup:
    return tag("line", attributes={"class": kind, "x1": x, "x2": x, "y1": 0, "y2": height})


def _interval(index: int, one: Interval, y: float, across: Callable[[float], str]) -> list[Markup]:
    """A stage's interval as a bar with ends, and its value as a mark in the stage's colour and shape."""
    look = f"stroke:var({_colour(index)})"
    bars = []
    if one.low is not None and one.high is not None:
        spans = [(across(one.low), across(one.high), y, y)]
        spans += [(across(end), across(end), y - 3.5, y + 3.5) for end in (one.low, one.high)]
        bars = [
            tag("line", attributes={"class": "error", "style": look, "x1": x1, "x2": x2, "y1": y1, "y2": y2})
            for x1, x2, y1, y2 in spans
        ]
    place: Attributes = {"x": across(one.value), "y": y, "style": "width:1px;height:1px;overflow:visible"}
    return [*bars, tag("svg", _mark(index, 0, 0), attributes=place)]


def _mark(index: int, x: float, y: float) -> Markup:
    place = f"translate({x} {y})" if x or y else None
    look = {"d": SHAPES[index % len(SHAPES)], "transform": place, "style": f"fill:var({_colour(index)})"}
    return tag("path", attributes=look)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _bar(name: str, parts: Sequence[tuple[float, float, str]], longest: float, share: float, kind: str) -> Markup:
    """A row of the cost: parts (beginning, length, colour) from 0 to ``longest``, and the share in per cent."""
    drawn = [
        tag(
            "rect",
            attributes={
                "x": 1000 * at / longest,
                "y": 3,
                "width": 1000 * part / longest,
                "height": 14,
                "style": f"fill:var({colour})",
            },
        )
        for at, part, colour in parts
    ]
    one = 1000 / longest
    drawn.append(tag("line", attributes={"class": "stop", "x1": one, "x2": one, "y1": 0, "y2": 20}))
    said = f"{name}: {percent(share)} % of ERM"
    described: Attributes = {"viewBox": "0 0 1000 20", "preserveAspectRatio": "none", "role": "img", "aria-label": said}
    words = [
        tag("dt", name, attributes={"class": kind}),
        tag("dd", tag("svg", *drawn, attributes=described), tag("span", f"{percent(share)} %")),
    ]
    return join(words)
