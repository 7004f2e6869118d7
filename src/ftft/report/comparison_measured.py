"""What evaluators measured of the rows' models as a whole: one small table each, of the rows that have such figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftft.report.comparison_figures import Row, Task, caution, sequence
from ftft.report.comparison_tables import NOTHING, Grid, Lines
from ftft.report.figures import dig, number, scientific
from ftft.report.measures import MEASURES, Measure

MANY = 1e9  # from here on powers of ten


def measured_tables(table: Mapping[str, Any], task: Task) -> list[Grid]:
    """A table for every evaluator that any row has figures of; a row without them is left out."""
    evaluators = dict.fromkeys(name for row in task.rows for name in _mapping(dig(row.document, "measured")))
    return [grid for name in evaluators if not (grid := _grid(table, task, name)).empty]


def told_figures(row: Row, evaluator: str) -> list[str]:
    """ "count 12.3", "mean accuracy difference -3.1 %": a row's figures of an evaluator, as means over its seeds."""
    figures = _mapping(dig(row.document, "measured", evaluator))
    shown = {name: _cell(figures, name) for name in figures}
    return [f"{_words(name)} {cell[0]}{' %' * _is_share(name)}" for name, cell in shown.items() if cell != NOTHING]


def _grid(table: Mapping[str, Any], task: Task, evaluator: str) -> Grid:
    of_rows = {task.title(row): _mapping(dig(row.document, "measured", evaluator)) for row in task.rows}
    of_rows = {title: figures for title, figures in of_rows.items() if figures}
    names = dict.fromkeys(name for figures in of_rows.values() for name in figures)
    kept = [name for name in names if any(_cell(figures, name) != NOTHING for figures in of_rows.values())]
    heads = [_capital(f"{_words(name)}{', %' * _is_share(name)}") for name in kept]
    rows = [[(title,), *(_cell(figures, name) for name in kept)] for title, figures in of_rows.items()]
    note = f"Means over seeds, and where the seeds differ the value of each. {caution(table)}".rstrip()
    title = f"Measured of the model: {evaluator.replace('_', ' ')}"  # so that it is no evaluation set's, whatever its name
    return Grid(title, [("Row",), *((head,) for head in heads)], rows, note)


def _cell(figures: Mapping[str, Any], name: str) -> Lines:
    """The mean over seeds, and below it the value of each where they are not all the same."""
    mean, values = number(dig(figures, name, "mean")), sequence(dig(figures, name, "seeds"))
    if mean is None:
        return NOTHING
    told = _measure(name)
    if any(value != values[0] for value in values):
        return _shown(mean, told), ", ".join(_shown(value, told) for value in values)
    return (_shown(values[0] if values else mean, told),)


def _shown(value: Any, told: Measure | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    if found is None:
        return "-"
    if told is not None:
        return told.figure(found)
    if abs(found) >= MANY:
        return scientific(found)
    return f"{found:,.0f}" if found.is_integer() or abs(found) >= 1000 else f"{found:.3g}"


def _measure(name: str) -> Measure | None:
    """How a figure is told that is a known score, or a part of one; None for any other."""
    return next((MEASURES[part] for part in reversed(name.split(".")) if part in MEASURES), None)


def _is_share(name: str) -> bool:
    told = _measure(name)
    return told is not None and told.share


def _words(name: str) -> str:
    """The name of a figure in words: "looked at", "mean macro-F1 difference"."""
    return " ".join(MEASURES[part].words if part in MEASURES else part.replace("_", " ") for part in name.split("."))


def _capital(words: str) -> str:
    return words[0].upper() + words[1:] if words else "-"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
