"""Learning curves as inline SVG: the training loss and the scores over the steps, ID and OOD, and where the stage stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.report.figures import Interval, dig, evaluation_sets, mean_interval, mean_sets, number, whole
from ftft.report.markup import Attributes, Markup, join, tag
from ftft.report.measures import chief

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 44
MOST_POINTS = 400
COLOURS = ("--g2", "--g1", "--g3", "--g5", "--g4", "--g7", "--g6", "--g0")
DASHES = (None, "7 3", "2 3", "9 3 2 3")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """The plot's area and what its edges mean. ``x_ticks``, ``y_ticks``: (place, words) where the axis is not a plain one."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = WIDTH
    height: int = HEIGHT
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_ticks: Sequence[tuple[float, str]] | None = None

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in SVG units."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def axes(self, x_name: str, y_name: str) -> Markup:
        """Grid, ticks and names of both axes."""
        parts = []
        for value, words in self.y_ticks or [(value, f"{value:g}") for value in ticks(*self.y)]:
            _, y = self.at(self.x[0], value)
            parts.append(tag("line", attributes={"class": "grid", "x1": LEFT, "x2": self.width - RIGHT, "y1": y, "y2": y}))
            parts.append(label(words, LEFT - 6, y + 4, "end"))
        for value, words in self.x_ticks or [(value, _plain_tick(value)) for value in ticks(*self.x)]:
            x, y = self.at(value, self.y[0])
            parts.append(tag("line", attributes={"class": "axis", "x1": x, "x2": x, "y1": y, "y2": y + 4}))
            parts.append(label(words, x, y + 18, "middle"))
        x, y = self.at(*[edge[0] for edge in (self.x, self.y)])
        parts.append(tag("line", attributes={"class": "axis", "x1": x, "x2": self.width - RIGHT, "y1": y, "y2": y}))
        parts.append(label(x_name, (LEFT + self.width - RIGHT) / 2, self.height - 6, "middle"))
        middle = (TOP + self.height - BOTTOM) / 2
        place: Attributes = {"x": 13, "y": middle, "text-anchor": "middle", "transform": f"rotate(-90 13 {middle:.0f})"}
        return join([*parts, tag("text", y_name, attributes=place)])


def _plain_tick(value: float) -> str:
    return f"{value:,g}" if value < 1e6 else f"{value:g}"


def label(words: str, x: float, y: float, anchor: str, kind: str | None = None) -> Markup:
    """A text in a drawing."""
    return tag("text", words, attributes={"x": x, "y": y, "text-anchor": anchor, "class": kind})


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def learning_curves(result: Mapping[str, Any], stage: str) -> Markup | None:
    """The two drawings of a stage; None where it has neither losses nor validation scores."""
    training = dig(result, "stages", stage, "training")
    losses = _losses(training)
    chosen = dig(result, "recipe", "stages", stage, "stop", "metric") or chief(result)[0]
    scores = _scores(training, str(chosen))
    figures = []
    if len(losses) > 1:
        window = max(1, len(losses) // 25)
        curves = {"each step": _thin(losses), f"mean of {window} steps": _thin(_running_mean(losses, window))}
        figures.append(_figure(f"{stage}: training loss", "loss", curves, training, faint_first=True, from_zero=True))
    if scores:
        name = str(chosen).replace("_", " ")
        roles = {one.name: one.role.upper() for one in evaluation_sets(result)}
        curves = {f"{one} ({roles[one]})" if one in roles else one: points for one, points in scores.items()}
        finished = _finished(result, stage, str(chosen))
        figures.append(_figure(f"{stage}: {name} of ID and OOD sets", name, curves, training, finished))
    return tag("div", *figures, attributes={"class": "charts"}) if figures else None


def _losses(training: Any) -> list[tuple[float, float]]:
    values = dig(training, "losses")
    numbered = enumerate(values if isinstance(values, (list, tuple)) else (), start=1)
    return [(float(step), found) for step, value in numbered if (found := number(value)) is not None]


def _scores(training: Any, name: str) -> Mapping[str, Points]:
    history = dig(training, "history")
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in history if isinstance(history, (list, tuple)) else ():
        for one, scores in (dig(entry, "scores") or {}).items():
            step, value = number(dig(entry, "step")), number(dig(scores, name))
            if step is not None and value is not None:
                curves.setdefault(str(one), []).append((step, value))
    return curves


@dataclass(frozen=True)
class Finished:
    """What the finished model scored over the sets of a role, drawn at the step that its weights are of."""

    name: str
    step: float
    score: Interval
    colour: str
    shape: str

    @property
    def ends(self) -> list[float]:
        """The ends of the interval and the value, as far as they are known."""
        return [end for end in (self.score.low, self.score.value, self.score.high) if end is not None]


def _finished(result: Mapping[str, Any], stage: str, metric_name: str) -> list[Finished]:
    """The means of the stage's finished model, in and out of distribution."""
    found, summary = [], dig(result, "stages", stage)
    step = whole(dig(summary, "artefact", "step")) or whole(dig(summary, "training", "steps"))
    for role, colour, shape in (("id", "--g2", "M-4.5-4.5h9v9h-9Z"), ("ood", "--g1", "M0-6l6 6-6 6-6-6Z")):
        over, score = mean_sets(evaluation_sets(result), role), mean_interval(result, stage, role, metric_name)
        if step is None or score is None or not over:
            continue
        sets = f"{over[0].split} set {over[0].name}" if len(over) == 1 else f"{len(over)} {over[0].split} sets"
        found.append(Finished(f"finished model, {role.upper()}: {sets}", float(step), score, colour, shape))
    return found


def _whisker(frame: Frame, one: Finished) -> Markup:
    x, y = frame.at(one.step, one.score.value)
    bars = []
    if one.score.low is not None and one.score.high is not None:
        (_, low), (_, high) = frame.at(one.step, one.score.low), frame.at(one.step, one.score.high)
        look = f"stroke:var({one.colour})"
        spans = ((x, x, low, high), (x - 4, x + 4, low, low), (x - 4, x + 4, high, high))
        bars = [
            tag("line", attributes={"class": "error", "style": look, "x1": x1, "x2": x2, "y1": y1, "y2": y2})
            for x1, x2, y1, y2 in spans
        ]
    return join([*bars, _shape(one, x, y)])


def _shape(one: Finished, x: float, y: float) -> Markup:
    place = f"translate({x:.1f} {y:.1f})"
    return tag("path", attributes={"class": "final", "d": one.shape, "transform": place, "style": f"fill:var({one.colour})"})


def _running_mean(points: Points, window: int) -> Points:
    """At each step the mean of the ``window`` steps up to it; it begins where the first window is full."""
    total, means = 0.0, []
    for index, (step, value) in enumerate(points):
        total += value - (points[index - window][1] if index >= window else 0.0)
        if index + 1 >= window:
            means.append((step, total / window))
    return means


def _thin(points: Points) -> Points:
    """At most ``MOST_POINTS`` points: equally long runs replaced by their means."""
    size = -(-len(points) // MOST_POINTS)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _figure(
    title: str,
    y_name: str,
    curves: Mapping[str, Points],
    training: Any,
    finished: Sequence[Finished] = (),
    *,
    faint_first: bool = False,
    from_zero: bool = False,
) -> Markup:
    frame = _frame(curves, training, from_zero, finished)
    drawn, keys = [], []
    for index, (name, points) in enumerate(curves.items()):
        colour = COLOURS[0 if faint_first else index % len(COLOURS)]
        dash = None if faint_first else DASHES[(index // len(COLOURS) + index) % len(DASHES)]
        look = {"class": "line faint" if faint_first and index == 0 else "line", "style": f"stroke:var({colour})"}
        at = [frame.at(*point) for point in points]
        line = {**look, "stroke-dasharray": dash, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in at)}
        drawn.append(tag("polyline", attributes=line))
        if not faint_first:
            for x, y in at:
                drawn.append(tag("circle", attributes={"cx": x, "cy": y, "r": 3, "style": f"fill:var({colour})"}))
        sample = tag("line", attributes={**look, "stroke-dasharray": dash, "x1": 0, "x2": 18, "y1": 7, "y2": 7})
        keys.append(tag("li", tag("svg", sample, attributes={"viewBox": "0 0 18 14", "aria-hidden": "true"}), name))
    drawn.append(_stopping(frame, training))
    for one in finished:
        drawn.append(_whisker(frame, one))
        keys.append(
            tag("li", tag("svg", _shape(one, 9, 7), attributes={"viewBox": "0 0 18 14", "aria-hidden": "true"}), one.name)
        )
    described = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title}
    drawing = tag("svg", frame.axes("step", y_name), *drawn, attributes=described)
    said = _said(training)
    caption = tag("figcaption", title, *([f". {said}"] if said else []))
    return tag("figure", drawing, tag("ul", *keys, attributes={"class": "key"}), caption)


def _frame(curves: Mapping[str, Points], training: Any, from_zero: bool, finished: Sequence[Finished]) -> Frame:
    ys = [y for points in curves.values() for _, y in points] + [end for one in finished for end in one.ends]
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    margin = (high - low) * 0.06 or max(abs(high) * 0.05, 0.01)
    last = max(x for points in curves.values() for x, _ in points)
    end = max(last, float(whole(dig(training, "planned")) or 0))
    return Frame((0.0, end), (low if from_zero else low - margin, high + margin))


def _stopping(frame: Frame, training: Any) -> Markup:
    """Where it stopped early (dashed), and the step with the best validation score (dotted)."""
    marks = []
    steps, best = whole(dig(training, "steps")), whole(dig(training, "best_step"))
    for step, kind, words in ((best, "best", "best"), (steps if dig(training, "stopped_early") else None, "stop", "stopped")):
        if step is not None:
            x, bottom = frame.at(step, frame.y[0])
            marks.append(tag("line", attributes={"class": kind, "x1": x, "x2": x, "y1": TOP, "y2": bottom}))
            anchor = "end" if kind == "best" else "start"
            marks.append(label(words, x + (-4 if anchor == "end" else 4), TOP + 10, anchor, "strong"))
    return join(marks)


def _said(training: Any) -> str:
    steps, planned = whole(dig(training, "steps")), whole(dig(training, "planned"))
    if steps is None:
        return ""
    if dig(training, "stopped_early") and planned is not None:
        return f"Stopped early at step {steps:,} of {planned:,} planned."
    return f"Trained for all {steps:,} steps."
