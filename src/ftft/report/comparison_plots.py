"""The drawings of a comparison as inline SVG: OOD quality over cost, OOD over ID, learning-rate curves, parts of the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftft.report.charts import COLOURS, LEFT, RIGHT, TOP, Frame, label, ticks
from ftft.report.comparison_figures import Row, Task, rate, sequence, times
from ftft.report.comparison_remarks import on_front
from ftft.report.comparison_tables import phases_of
from ftft.report.figures import Interval, dig, number
from ftft.report.labels import Box, place_labels, shortened
from ftft.report.markup import Attributes, Markup, join, tag
from ftft.report.measures import measure_of

WIDE, HIGH = 560, 420
SMALL = (300, 200)
MOST_RATES = 4  # of a learning-rate axis whose ticks are named


@dataclass(frozen=True)
class Point:
    """A row in a drawing, in the frame's units; ``front``: filled, ``baseline``: a diamond."""

    name: str
    x: Interval
    y: Interval
    front: bool
    baseline: bool


def cost_plot(task: Task, note: str) -> Markup | None:
    """OOD mean of the headline metric over the whole cost, with intervals, ERM's cost and the Pareto front; None where no row
    has both."""
    front = [row.name for row in on_front(task)]
    found = []
    for row in task.rows:
        cost, value = row.cost("charged"), row.mean("ood", task.headline)
        if cost is not None and value is not None:
            found.append(Point(row.name, cost, _scaled(value, task.headline), row.name in front, row.name == task.baseline))
    if not found:
        return None
    x = _range([one.x for one in found], extra=(0.0, 1.0))
    y = _range([one.y for one in found])
    frame = Frame((0.0, x[1]), y, WIDE, HIGH)
    name = measure_of(task.headline).words
    at_one, bottom = frame.at(1.0, y[0])
    line: Attributes = {"class": "stop", "x1": at_one, "x2": at_one, "y1": TOP, "y2": bottom}
    path = [frame.at(one.x.value, one.y.value) for one in sorted(found, key=lambda one: one.x.value) if one.front]
    drawn = [
        tag("line", attributes=line),
        label("cost of ERM", at_one - 5, bottom - 7, "end"),
        tag("polyline", attributes={"class": "front", "points": _coordinates(path)}),
        _scatter(frame, found),
    ]
    axes = frame.axes("whole cost, as a multiple of ERM's", f"OOD mean {_axis(task.headline)}")
    cheap = ", ".join(front)
    said = f"OOD mean {name} over whole cost, with intervals in both directions. On the Pareto front: {cheap}. {note}"
    keys = [
        (_dot(9, 7, True, False), "on the Pareto front: no row is as good for less"),
        (_dot(9, 7, False, False), "a row as good or better costs no more"),
        *([(_dot(9, 7, True, True), "baseline")] if any(one.baseline for one in found) else []),
    ]
    return _figure(axes, drawn, f"{task.name}: OOD mean {name} over cost", said.strip(), keys)


def transfer_plot(task: Task, note: str) -> Markup | None:
    """OOD over ID on logit axes, with the ERM line where the table has one; None where no row has both means."""
    metric = str(dig(task.document, "line", "metric") or task.headline)
    if not measure_of(metric).share:  # only a share has a logit
        return None
    found = []
    for row in task.rows:
        at_home, away = (_logits(row.mean(role, metric)) for role in ("id", "ood"))
        if at_home is not None and away is not None:
            found.append(Point(row.name, at_home, away, True, row.name == task.baseline))
    if not found:
        return None
    fitted = _line_points(task)
    spare = [Interval(x) for x, _ in fitted], [Interval(y) for _, y in fitted]
    x, y = _range([one.x for one in found] + spare[0]), _range([one.y for one in found] + spare[1])
    frame = Frame(x, y, WIDE, HIGH, _logit_ticks(*x), _logit_ticks(*y))
    name = measure_of(metric).words
    drawn = [_dots(frame, fitted), _erm_line(task, frame), _scatter(frame, found)]
    axes = frame.axes(f"ID mean {name}, % (logit axis)", f"OOD mean {name}, % (logit axis)")
    keys = [(_dot(9, 7, True, False), "a row"), (_dot(9, 7, True, True), "baseline")]
    if fitted:
        faint: Attributes = {"class": "spare", "cx": 9, "cy": 7, "r": 3}
        keys.append((tag("circle", attributes=faint), "an ERM model that the line is fitted to"))
        sample: Attributes = {"class": "trend", "x1": 0, "x2": 18, "y1": 7, "y2": 7}
        keys.append((tag("line", attributes=sample), "the ERM line"))
    above = "; what lies above the ERM line is effectively robust" if fitted else ""
    said = f"OOD against ID {name}, with intervals in both directions{above}. {note}"
    return _figure(axes, drawn, f"{task.name}: OOD over ID {name}", said.strip(), keys)


def rate_plots(task: Task) -> Markup | None:
    """One small drawing per row that was searched: its scores over the learning rate, all on the same axis."""
    searched = [row for row in task.rows if sum(value is not None for _, value, _ in row.curve) > 1]
    if not searched:
        return None
    scores = [
        _scaled(Interval(one), str(dig(row.document, "learning_rate", "metric") or task.headline))
        for row in searched
        for _, value, each in row.curve
        for one in (value, *each)
        if one is not None
    ]
    y = _range(scores)
    return tag("div", *(_rate_plot(task, row, y) for row in searched), attributes={"class": "small"})


def cost_bars(task: Task) -> Markup | None:
    """One bar per row, stacked by phase, on one scale with ERM's cost marked; None where no row has parts."""
    shown = [row for row in task.rows if row.parts]
    phases = phases_of(task)
    if not shown or not phases:
        return None
    longest = max(1.0, *(sum(row.parts.values()) for row in shown)) * 1.02
    colours = {phase: COLOURS[index % len(COLOURS)] for index, phase in enumerate(phases)}
    items = []
    for row in shown:
        said = ", ".join(f"{phase} {times(part)}" for phase, part in row.parts.items())
        whole = sum(row.parts.values())
        bar = _bar(row, colours, longest, f"{row.name}: {said}")
        items += [tag("dt", task.title(row)), tag("dd", bar, tag("span", times(whole)))]
    keys = []
    for phase in phases:
        block: Attributes = {"x": 2, "y": 1, "width": 14, "height": 12, "style": f"fill:var({colours[phase]})"}
        keys.append((tag("rect", attributes=block), phase))
    line: Attributes = {"class": "stop", "x1": 9, "x2": 9, "y1": 0, "y2": 14}
    keys.append((tag("line", attributes=line), "cost of ERM"))
    caption = "Whole cost by phase, as multiples of ERM's; reused stages are charged in full."
    return tag("figure", tag("dl", *items, attributes={"class": "bars"}), _key(keys), tag("figcaption", caption))


def _figure(axes: Markup, drawn: Sequence[Markup], title: str, caption: str, keys: Sequence[tuple[Markup, str]]) -> Markup:
    described: Attributes = {"viewBox": f"0 0 {WIDE} {HIGH}", "role": "img", "aria-label": title}
    drawing = tag("svg", axes, *drawn, attributes=described)
    return tag("figure", drawing, _key(keys), tag("figcaption", caption), attributes={"class": "plot"})


def _key(keys: Sequence[tuple[Markup, str]]) -> Markup:
    view: Attributes = {"viewBox": "0 0 18 14", "aria-hidden": "true"}
    return tag(
        "ul", *(tag("li", tag("svg", mark, attributes=view), words) for mark, words in keys), attributes={"class": "key"}
    )


def _scatter(frame: Frame, found: Sequence[Point]) -> Markup:
    """Intervals, marks and names of rows, the names beside their marks and not over one another."""
    bars, marks, places = [], [], []
    for one in found:
        x, y = frame.at(one.x.value, one.y.value)
        places.append((x, y))
        marks.append(_dot(x, y, one.front, one.baseline))
        bars += _whiskers(frame, one)
    names = shortened([one.name for one in found])
    area = Box(LEFT + 2, TOP, frame.width - RIGHT - 2, frame.at(frame.x[0], frame.y[0])[1] - 4)
    words = []
    for name, (x, y), spot in zip(names, places, place_labels(names, places, area)):
        if spot.led:
            words.append(tag("line", attributes={"class": "lead", "x1": x, "y1": y, "x2": spot.foot[0], "y2": spot.foot[1]}))
        words.append(label(name, spot.x, spot.y, spot.anchor, "name"))
    return join([*bars, *marks, *words])


def _whiskers(frame: Frame, one: Point) -> list[Markup]:
    """The intervals in both directions."""
    spans = [
        [(end, one.y.value) for end in (one.x.low, one.x.high) if end is not None],
        [(one.x.value, end) for end in (one.y.low, one.y.high) if end is not None],
    ]
    found = []
    for span in spans:
        if len(span) == 2:
            (x1, y1), (x2, y2) = (frame.at(*end) for end in span)
            found.append(tag("line", attributes={"class": "whisker", "x1": x1, "y1": y1, "x2": x2, "y2": y2}))
    return found


def _dot(x: float, y: float, front: bool, baseline: bool) -> Markup:
    kind = "mark" if front else "mark hollow"
    if baseline:
        return tag("path", attributes={"class": kind, "d": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6Z"})
    return tag("circle", attributes={"class": kind, "cx": x, "cy": y, "r": 4.5})


def _dots(frame: Frame, points: Sequence[tuple[float, float]]) -> Markup:
    at = [frame.at(*point) for point in points]
    return join([tag("circle", attributes={"class": "spare", "cx": x, "cy": y, "r": 3}) for x, y in at])


def _erm_line(task: Task, frame: Frame) -> Markup:
    """logit(OOD) = slope x logit(ID) + intercept, as far as it lies in the frame."""
    slope, intercept = (number(dig(task.document, "line", key)) for key in ("slope", "intercept"))
    if slope is None or intercept is None:
        return join([])
    steps = [frame.x[0] + (frame.x[1] - frame.x[0]) * step / 100 for step in range(101)]
    inside = [(x, y) for x in steps if frame.y[0] <= (y := slope * x + intercept) <= frame.y[1]]
    path = [frame.at(*point) for point in inside]
    return tag("polyline", attributes={"class": "trend", "points": _coordinates(path)}) if len(path) > 1 else join([])


def _line_points(task: Task) -> list[tuple[float, float]]:
    found = []
    for one in sequence(dig(task.document, "line", "points")):
        x, y = number(dig(one, "id")), number(dig(one, "ood"))
        if x is not None and y is not None:
            found.append((_logit(x), _logit(y)))
    return found


def _rate_plot(task: Task, row: Row, y: tuple[float, float]) -> Markup:
    curve = row.curve
    places = [math.log10(one) for one, _, _ in curve]
    margin = (places[-1] - places[0]) * 0.08 or 0.2
    named = _spread(curve, row.rate)
    x_ticks = [(math.log10(one), rate(one)) for one in named]
    frame = Frame((places[0] - margin, places[-1] + margin), y, *SMALL, x_ticks=x_ticks)
    metric = str(dig(row.document, "learning_rate", "metric") or task.headline)
    scale = 100 if measure_of(metric).share else 1
    path = [frame.at(x, scale * value) for x, (_, value, _) in zip(places, curve) if value is not None]
    drawn = [tag("polyline", attributes={"class": "line", "style": "stroke:var(--mark)", "points": _coordinates(path)})]
    for x, (_, _, scores) in zip(places, curve):
        at = [frame.at(x, scale * score) for score in scores] if len(scores) > 1 else []
        drawn += [tag("circle", attributes={"class": "spare", "cx": across, "cy": up, "r": 2.5}) for across, up in at]
    for x, (one, value, _) in zip(places, curve):
        if value is not None:
            across, up = frame.at(x, scale * value)
            drawn.append(_dot(across, up, one == row.rate, False))
    by = measure_of(metric).words
    described: Attributes = {"viewBox": f"0 0 {SMALL[0]} {SMALL[1]}", "role": "img", "aria-label": f"{row.name}: {by} by rate"}
    drawing = tag("svg", frame.axes("learning rate (log axis)", _axis(metric)), *drawn, attributes=described)
    edge = ", at the edge of its grid" if row.rate_at_edge else ""
    chosen = f"chosen {rate(row.rate)}{edge}" if row.rate is not None else "none chosen"
    return tag("figure", drawing, tag("figcaption", tag("strong", row.name), f": {chosen}"))


def _spread(curve: Sequence[tuple[float, float | None, list[float]]], chosen: float | None) -> list[float]:
    """The rates whose ticks are named: all, or where they are many the first, the chosen and the last."""
    rates = [one for one, _, _ in curve]
    return rates if len(rates) <= MOST_RATES else [one for one in rates if one in (rates[0], chosen, rates[-1])]


def _bar(row: Row, colours: dict[str, str], longest: float, said: str) -> Markup:
    """The parts of one row, from 0 to ``longest``, in a drawing that is as wide as there is room."""
    drawn, at = [], 0.0
    for phase, part in row.parts.items():
        look: Attributes = {"x": 1000 * at / longest, "y": 2, "width": 1000 * part / longest, "height": 16}
        drawn.append(tag("rect", attributes={**look, "class": "part", "style": f"fill:var({colours[phase]})"}))
        at += part
    one = 1000 / longest
    drawn.append(tag("line", attributes={"class": "stop", "x1": one, "x2": one, "y1": 0, "y2": 20}))
    described: Attributes = {"viewBox": "0 0 1000 20", "preserveAspectRatio": "none", "role": "img", "aria-label": said}
    return tag("svg", *drawn, attributes=described)


def _range(spans: Sequence[Interval], extra: Sequence[float] = ()) -> tuple[float, float]:
    """What an axis must hold: all values and their intervals, and a little more."""
    ends = [end for span in spans for end in (span.low, span.value, span.high) if end is not None] + list(extra)
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.07 or max(abs(high) * 0.05, 0.01)
    return low - margin, high + margin


def _each(span: Interval, change: Callable[[float], float]) -> Interval:
    return Interval(change(span.value), *(None if end is None else change(end) for end in (span.low, span.high)))


def _scaled(span: Interval, metric: str) -> Interval:
    """Shares in per cent."""
    return _each(span, lambda value: 100 * value) if measure_of(metric).share else span


def _axis(metric: str) -> str:
    told = measure_of(metric)
    return f"{told.words}, %" if told.share else told.words


def _logits(span: Interval | None) -> Interval | None:
    return None if span is None else _each(span, _logit)


def _logit(share: float) -> float:
    """log(p / (1 - p)); shares of 0 and 1 have none and are drawn at the rim."""
    held = min(max(share, 0.001), 0.999)
    return math.log(held / (1 - held))


def _logit_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logit axis at round per cents."""
    first, last = (100 / (1 + math.exp(-end)) for end in (low, high))
    return [(_logit(value / 100), f"{value:g}") for value in ticks(first, last) if 0 < value < 100]


def _coordinates(path: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
