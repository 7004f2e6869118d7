"""The result as tables on the terminal: one row per stage, as many columns side by side as the width allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftft.report.diagnosis import diagnoses
from ftft.report.figures import (
    Interval,
    SetFigures,
    StageFigures,
    count,
    duration,
    evaluation_sets,
    left_out,
    level,
    mean_difference,
    mean_interval,
    mean_sets,
    metric,
    percent,
    points,
    sentences,
    set_difference,
    stage_figures,
    stage_names,
)
from ftft.report.headline import headline
from ftft.report.parts import GroupRow, Parts, group_rows, load_parts

ROOMY = 100  # columns from which macro-F1 gets a line of its own
GAP = 2
LONG_NAME = 12  # of a set: from here on its heading is broken at separators


@dataclass(frozen=True)
class Column:
    """A heading and one cell per row; lines are separated by newlines."""

    heading: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        return max(Text(line).cell_len for text in (self.heading, *self.cells) for line in text.split("\n"))


def print_result(result: Mapping[str, Any], console: Console, *, folder: Path | None = None) -> None:
    """Print a result: the stages' table, the headline, warnings and stamps, and, where the run's ``folder`` is given and
    its training rows have groups, what became of each group."""
    names = stage_names(result)
    sets = evaluation_sets(result)
    if names:
        for columns in _tables(result, [stage_figures(result, name) for name in names], console.width):
            _print_columns(columns, console)
    if sets:
        _print(f"Accuracy in per cent with {level(result)} bootstrap intervals. {_means(result)}", console, "dim")
        if without := left_out(sets):
            _print(f"{without[0].upper()}{without[1:]}.", console, "yellow")
    _print("Cost: floating-point operations, upstream stages included, in per cent of plain fine-tuning (ERM).", console, "dim")
    _print_differences(result, sets, console)
    found = headline(result)
    _print("", console)
    for text, style in ((found.sentence, "bold"), (found.caution, "")):
        if text:
            _print(text, console, style)
    for stage, said in diagnoses(result).items():
        _print(f"What {stage} learned from: {' '.join(said)}", console)
        _print("", console)
    for label, key in (("Warning", "warnings"), ("Note", "stamps")):
        for sentence in sentences(result, key):
            _print(f"{label}: {sentence}", console, "yellow")
    if folder is not None:
        _print_groups(load_parts(folder, result), console)


def _means(result: Mapping[str, Any]) -> str:
    """What the means are over, where a role has several sets or only validation sets."""
    said = []
    for role in ("id", "ood"):
        over = mean_sets(evaluation_sets(result), role)
        kind = "test" if over and over[0].split == "test" else "validation"
        if len(over) > 1:
            said.append(f"{role.upper()} mean: over {len(over)} {kind} sets")
        elif over:
            said.append(f"{role.upper()}: the {kind} set {over[0].name}")
    return "; ".join(said) + "." if said else ""


def _tables(result: Mapping[str, Any], rows: Sequence[StageFigures], width: int) -> list[list[Column]]:
    """All columns in one table where they fit beside each other, else the sets' in one of their own."""
    sets = [one for one in evaluation_sets(result) if one.role != "id"]
    measured = [_set_column(result, rows, one, roomy=width >= ROOMY) for one in sets]
    before = [
        Column("Stage", [row.title.replace(" (", "\n(") for row in rows], left=True),
        Column("Examples", [_of(row.examples, row.pool) for row in rows]),
        Column("Steps", [_of(row.steps, row.planned) for row in rows]),
        _mean_column(result, rows, "id", roomy=width >= ROOMY),
    ]
    after = [
        _mean_column(result, rows, "ood", roomy=False),
        Column("% of\nERM cost", [_cost(row) for row in rows]),
        Column("Time", [duration(row.seconds) + ("\nreused" if row.reused else "") for row in rows]),
    ]
    fits = sum(column.width + GAP for column in [*before, *measured, *after]) - GAP <= width
    tables = [[*before, *measured, *after]] if fits else [[*before, *after], [before[0], *measured]]
    kept = [[column for column in columns if set(column.cells) != {"-"}] for columns in tables]
    return [columns for columns in kept if len(columns) > 1]


def _mean_column(result: Mapping[str, Any], rows: Sequence[StageFigures], role: str, *, roomy: bool) -> Column:
    """The mean of a role; of a single set its own figures, with the interval."""
    over = mean_sets(evaluation_sets(result), role)
    if len(over) == 1 and role == "id":
        return Column("ID", [_cell(result, row.name, over[0].name, roomy) for row in rows])
    means = [mean_interval(result, row.name, role) for row in rows]
    return Column(f"{role.upper()}\nmean", ["-" if mean is None else "\n".join(_lines(mean)) for mean in means])


def _set_column(result: Mapping[str, Any], rows: Sequence[StageFigures], one: SetFigures, *, roomy: bool) -> Column:
    name = re.sub(r"(?<=[ _/-])(?=\w{4})", "\n", one.name) if len(one.name) > LONG_NAME else one.name
    return Column(f"{name}\n{_role(one)}", [_cell(result, row.name, one.name, roomy) for row in rows])


def _role(one: SetFigures) -> str:
    marks = [one.role.upper(), *([one.split] if one.split != "test" else []), *(["(seen)"] if one.seen_by else [])]
    return " ".join(marks)


def _of(part: int | None, whole: int | None) -> str:
    return count(part) if whole is None or part is None or part == whole else f"{count(part)}\nof {count(whole)}"


def _cell(result: Mapping[str, Any], stage: str, name: str, roomy: bool) -> str:
    accuracy = metric(result, stage, name, "metrics", "accuracy")
    if accuracy is None:
        return "-"
    lines = _lines(accuracy)
    f1 = metric(result, stage, name, "metrics", "macro_f1") if roomy else None
    return "\n".join([*lines, f"F1 {percent(f1.value)}"] if f1 is not None else lines)


def _lines(entry: Interval) -> list[str]:
    """A share in per cent and below it its interval."""
    limits = [] if entry.low is None or entry.high is None else [f"{percent(entry.low)}-{percent(entry.high)}"]
    return [percent(entry.value), *limits]


def _print_differences(result: Mapping[str, Any], sets: Sequence[SetFigures], console: Console) -> None:
    """Every stage minus the baseline: a row for each mean and each set, the result's stage first."""
    baseline, main = result.get("baseline"), result.get("main")
    stages = [name for name in stage_names(result) if name != baseline]
    stages.sort(key=lambda name: name != main)
    if baseline not in stage_names(result) or not stages or not sets:
        return
    roles = [role for role in ("id", "ood") if len(mean_sets(sets, role)) > 1]

    def cells(stage: str, name: str) -> list[str]:
        means = [mean_difference(result, stage, role, name) for role in roles]
        return [points(entry) for entry in [*means, *(set_difference(result, stage, one.name, name) for one in sets)]]

    columns = [
        Column("Set", [*(f"{role.upper()} mean" for role in roles), *(one.name for one in sets)], left=True),
        Column("Role", [*(f"{len(mean_sets(sets, role))} sets" for role in roles), *map(_role, sets)], left=True),
        *(Column(stage, cells(stage, "accuracy")) for stage in stages),
    ]
    if console.width >= ROOMY:
        columns[3:3] = [Column(f"{stages[0]}, F1", cells(stages[0], "macro_f1"))]
    shown = [column for column in columns if set(column.cells) != {"-"}]
    if len(shown) > 2:
        _print("", console)
        _print(f"Minus {baseline}, in points of accuracy, with paired {level(result)} intervals:", console, "bold")
        _print_columns(shown, console)


def _cost(row: StageFigures) -> str:
    return percent(row.fraction) if row.fraction is None else f"{percent(row.fraction)}\n{row.cost_kind or ''}".rstrip()


def _print_columns(columns: Sequence[Column], console: Console) -> None:
    """One table, or several below each other that all begin with the first column."""
    first, rest = columns[0], list(columns[1:])
    while rest:
        shown, room = [first], console.width - first.width - GAP
        while rest and (len(shown) == 1 or rest[0].width + GAP <= room):
            room -= rest[0].width + GAP
            shown.append(rest.pop(0))
        _print_table(shown, console)


def _print_table(columns: Sequence[Column], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(_plain(column.heading, console)), justify="left" if column.left else "right", overflow="fold")
    height = len(columns[0].cells)
    for row in range(height):
        cells = [Text(_plain(column.cells[row], console)) for column in columns]
        table.add_row(*cells, end_section=False)
        if row + 1 < height and any("\n" in column.cells[row] for column in columns):
            table.add_row()
    console.print(Padding(table, (1, 0, 0, 0)))


def _print_groups(parts: Parts, console: Console) -> None:
    stages: list[str | None] = [*parts.maps] or [None]
    for stage in stages:
        rows = group_rows(parts, parts.maps.get(stage) if stage is not None else None)
        if not rows:
            continue
        _print("", console)
        of = "" if stage is None else f", and what the training dynamics {parts.maps[stage].of} say of them"
        _print(f"Groups of the training rows{of} (means):", console, "bold")
        _print_columns(_group_columns(rows), console)


def _group_columns(rows: Sequence[GroupRow]) -> list[Column]:
    columns = [
        Column("Group", [row.group for row in rows], left=True),
        Column("Rows", [count(row.count) for row in rows]),
        Column("Share\n%", [percent(row.share) for row in rows]),
        Column("Confi-\ndence", [decimals(row.confidence) for row in rows]),
        Column("Varia-\nbility", [decimals(row.variability) for row in rows]),
        Column("Correct-\nness", [decimals(row.correctness, 2) for row in rows]),
    ]
    for stage in rows[0].selected:
        columns.append(Column(f"taken by\n{stage}, %", [percent(row.selected[stage]) for row in rows]))
        columns.append(Column(f"enriched\nin {stage}", [f"{row.enrichment[stage]:.2f}x" for row in rows]))
    return [column for column in columns if set(column.cells) != {"-"}]


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def _print(text: str, console: Console, style: str = "") -> None:
    console.print(Text(_plain(text, console), style=style))


def _plain(text: str, console: Console) -> str:
    """Text that cannot steer the terminal and that its encoding can hold."""
    shown = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
    encoding = console.encoding or "utf-8"
    return shown.encode(encoding, "replace").decode(encoding)
