"""The table of ``ftft eval``: one row an evaluation set, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ftft.report.columns import say
from ftft.report.guessing import no_better

SHOWN = ("accuracy", "macro_f1", "auroc", "ece")


def print_evaluation(figures: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print each set's figures (of a classifier those in ``SHOWN``) with their intervals, and below
    the table the sets on which the model is no better than a constant answer."""
    table = Table()
    table.add_column("set")
    table.add_column("role")
    table.add_column("n", justify="right")
    measured = list(next(iter(figures.values()))["metrics"]) if figures else []
    chosen = [name for name in SHOWN if name in measured] or measured
    for name in chosen:
        table.add_column(name, justify="right")
    for name, one in figures.items():
        values = [_with_interval(one["metrics"][metric]) for metric in chosen]
        table.add_row(
            Text(name),
            f"{one['role']}, {one['split']}{', seen by the model' if one.get('seen') else ''}",
            f"{one['n']:,}",
            *values,
        )
    console.print(table)
    for sentence in no_better(figures):
        say(sentence, console, "yellow")


def _with_interval(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None or value != value:
        return "-"
    shown = f"{value:.3f}"
    return shown if low is None or high is None or low != low else f"{shown} ({low:.3f} to {high:.3f})"
