"""The result as tables on the terminal: one row per stage, as many columns side by side as the width allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ftft.report.columns import GAP, Column, print_columns, say
from ftft.report.diagnosis import diagnoses
from ftft.report.figures import (
    Interval,
    SetFigures,
    StageFigures,
    count,
    decimals,
    duration,
    evaluation_sets,
    left_out,
    level,
    mean_difference,
    mean_interval,
    mean_metric,
    mean_sets,
    measured,
    metric,
    percent,
    sentences,
    set_difference,
    stage_figures,
    stage_names,
)
from ftft.report.guessing import guessing
from ftft.report.headline import headline
from ftft.report.learning import Learned, learned, picked_words
from ftft.report.measures import CLASSIFICATION, Measure, compared, legend, measure_of
from ftft.report.parts import GroupRow, Parts, group_rows
from ftft.report.terminal_map import print_map

LONG_NAME = 12  # of a set: from here on its heading is broken at separators


def print_result(result: Mapping[str, Any], console: Console, *, parts: Parts | None = None) -> None:
    """Print a result: the stages' table, the headline, warnings and stamps, and, where the ``parts`` of its run are given and
    dynamics were recorded, their data maps in characters and, where its training rows have groups, what became of each."""
    names = stage_names(result)
    sets = evaluation_sets(result)
    if names:
        for columns in _tables(result, [stage_figures(result, name) for name in names], console.width):
            print_columns(columns, console)
    if sets:
        shown = legend(result).format(level=level(result)) + (" (F1)" if compared(result) == CLASSIFICATION else "")
        say(f"{shown}. {_means(result)}".rstrip(), console, "dim")
        if without := left_out(sets):
            say(f"{without[0].upper()}{without[1:]}.", console, "yellow")
    say("Cost: floating-point operations, upstream stages included, in per cent of plain fine-tuning (ERM).", console, "dim")
    for sentence in measured(result):
        say(sentence, console)
    _print_differences(result, sets, console)
    found = headline(result)
    say("", console)
    for text, style in ((found.sentence, "bold"), (found.caution, "")):
        if text:
            say(text, console, style)
    for stage, said in diagnoses(result).items():
        say(f"What {stage} learned from: {' '.join(said)}", console)
        say("", console)
    warnings = [*guessing(result), *sentences(result, "warnings")]
    for label, lines in (("Warning", warnings), ("Note", sentences(result, "stamps"))):
        for sentence in lines:
            say(f"{label}: {sentence}", console, "yellow")
    if parts is not None:
        for data_map in parts.maps.values():
            print_map(data_map, parts, console)
        _print_groups(parts, console)


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
    measured = [_set_column(result, rows, one) for one in sets]
    before = [
        Column("Stage", [row.title.replace(" (", "\n(") for row in rows], left=True),
        Column("Examples", [_learned(learned(result, row.name)) for row in rows]),
        Column("Steps", [_of(row.steps, row.planned) for row in rows]),
        _mean_column(result, rows, "id"),
    ]
    after = [
        _mean_column(result, rows, "ood"),
        Column("% of\nERM cost", [_cost(row) for row in rows]),
        Column("Time", [duration(row.seconds) + ("\nreused" if row.reused else "") for row in rows]),
    ]
    fits = sum(column.width + GAP for column in [*before, *measured, *after]) - GAP <= width
    tables = [[*before, *measured, *after]] if fits else [[*before, *after], [before[0], *measured]]
    kept = [[column for column in columns if set(column.cells) != {"-"}] for columns in tables]
    return [columns for columns in kept if len(columns) > 1]


def _mean_column(result: Mapping[str, Any], rows: Sequence[StageFigures], role: str) -> Column:
    """The mean of a role; of a single ID set its own figures."""
    over = mean_sets(evaluation_sets(result), role)
    if len(over) == 1 and role == "id":
        return Column("ID", [_cell(result, row.name, over[0].name) for row in rows])
    name, *others = compared(result)
    means = [
        (mean_interval(result, row.name, role, name), {other: mean_metric(result, row.name, over, other) for other in others})
        for row in rows
    ]
    return Column(f"{role.upper()}\nmean", [_lines(measure_of(name), entry, rest) for entry, rest in means])


def _set_column(result: Mapping[str, Any], rows: Sequence[StageFigures], one: SetFigures) -> Column:
    name = re.sub(r"(?<=[ _/-])(?=\w{4})", "\n", one.name) if len(one.name) > LONG_NAME else one.name
    return Column(f"{name}\n{_role(one)}", [_cell(result, row.name, one.name) for row in rows])


def _role(one: SetFigures) -> str:
    marks = [one.role.upper(), *([one.split] if one.split != "test" else []), *(f"({mark})" for mark in one.marks)]
    return " ".join(marks)


def _learned(found: Learned | None) -> str:
    """ "79 of 240", "360: 240 + 2 x 60", "240, 50 at 5:1", on several lines."""
    if found is None:
        return "-"
    if found.apply == "copies":
        return f"{count(found.rows)}\n{count(found.examples)} +\n{found.factor:g} x {count(found.selected)}"
    weighted = f"\n{count(found.selected)}\nat {found.factor:g}:1" if found.apply == "weights" else ""
    return _of(found.examples, found.pool) + weighted + "\nan epoch" * (found.apply == "epochs")


def _of(part: int | None, whole: int | None) -> str:
    return count(part) if whole is None or part is None or part == whole else f"{count(part)}\nof {count(whole)}"


def _cell(result: Mapping[str, Any], stage: str, name: str) -> str:
    entries = {key: metric(result, stage, name, "metrics", key) for key in compared(result)}
    first, *others = entries
    rest = {key: None if (entry := entries[key]) is None else entry.value for key in others}
    return _lines(measure_of(first), entries[first], rest)


def _lines(told: Measure, entry: Interval | None, rest: Mapping[str, float | None]) -> str:
    """The chief score (accuracy in per cent), below it its interval, and below that the others (macro-F1)."""
    if entry is None:
        return "-"
    known = entry.low is not None and entry.high is not None
    limits = [f"{told.figure(entry.low)}-{told.figure(entry.high)}"] if known else []
    told_too = {measure_of(name): value for name, value in rest.items() if value is not None}
    others = [f"{one.short} {one.figure(value)}" for one, value in told_too.items()]
    return "\n".join([told.figure(entry.value), *limits, *others])


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
        found = [*means, *(set_difference(result, stage, one.name, name) for one in sets)]
        return [measure_of(name).difference(entry) for entry in found]

    first, second = (*compared(result), *compared(result))[:2]

    columns = [
        Column("Set", [*(f"{role.upper()} mean" for role in roles), *(one.name for one in sets)], left=True),
        Column("Role", [*(f"{len(mean_sets(sets, role))} sets" for role in roles), *map(_role, sets)], left=True),
        *(Column(stage, cells(stage, first)) for stage in stages),
    ]
    more = Column(f"{stages[0]}, {measure_of(second).short}", cells(stages[0], second))
    if second != first and sum(column.width + GAP for column in [*columns, more]) - GAP <= console.width:
        columns.insert(3, more)
    shown = [column for column in columns if set(column.cells) != {"-"}]
    if len(shown) > 2:
        say("", console)
        told = measure_of(first)
        better = " (negative is better)" if told.lower else ""
        say(f"Minus {baseline}, in {told.scale}{better}, with paired {level(result)} intervals:", console, "bold")
        print_columns(shown, console)


def _cost(row: StageFigures) -> str:
    return percent(row.fraction) if row.fraction is None else f"{percent(row.fraction)}\n{row.cost_kind or ''}".rstrip()


def _print_groups(parts: Parts, console: Console) -> None:
    stages: list[str | None] = [name for name in parts.maps if name not in parts.apart] or [None]
    for stage in stages:
        rows = group_rows(parts, parts.maps.get(stage) if stage is not None else None)
        if not rows:
            continue
        say("", console)
        of = "" if stage is None else f", and what the training dynamics {parts.maps[stage].of} say of them"
        say(f"Groups of the training rows{of} (means):", console, "bold")
        print_columns(_group_columns(rows, parts.rules), console)


def _group_columns(rows: Sequence[GroupRow], rules: Mapping[str, Any]) -> list[Column]:
    columns = [
        Column("Group", [row.group for row in rows], left=True),
        Column("Rows", [count(row.count) for row in rows]),
        Column("Share\n%", [percent(row.share) for row in rows]),
        Column("Confi-\ndence", [decimals(row.confidence) for row in rows]),
        Column("Varia-\nbility", [decimals(row.variability) for row in rows]),
        Column("Correct-\nness", [decimals(row.correctness, 2) for row in rows]),
    ]
    for stage in rows[0].selected:
        columns.append(Column(f"{picked_words(rules.get(stage))}\n{stage}, %", [percent(row.selected[stage]) for row in rows]))
        columns.append(Column(f"enriched\nin {stage}", [f"{row.enrichment[stage]:.2f}x" for row in rows]))
    return [column for column in columns if set(column.cells) != {"-"}]
