"""The comparison on the terminal: one table per task, what to beware of in it, contrasts, failed cells, explorations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ftft.report import comparison_tables as tables
from ftft.report.columns import GAP, Column, print_columns, say
from ftft.report.comparison_figures import (
    PRIOR_SENSITIVE,
    RANKING,
    ComparedSet,
    Difference,
    Row,
    Task,
    brief_gap,
    caution,
    confidence,
    label,
    probability,
    rate,
    sequence,
    tasks,
    times,
)
from ftft.report.comparison_measured import measured_tables
from ftft.report.comparison_remarks import beware, notes, remarks
from ftft.report.figures import Interval, dig, interval, number
from ftft.report.measures import measure_of

NAME = 18  # columns from which a row's or a set's name is broken


@dataclass(frozen=True)
class Layout:
    """How much stands side by side. ``intervals``: of the differences too; ``sets``: a column for every OOD set, else one
    with their signs; ``facts``: seeds, learning rate and the three costs in columns of their own, else stacked."""

    intervals: bool
    sets: bool
    facts: bool


# From rich to narrow; the first that fits is taken.
LAYOUTS = (
    Layout(True, True, True),
    Layout(False, True, True),
    Layout(False, True, False),
    Layout(False, False, True),
    Layout(False, False, False),
)


def print_comparison(table: Mapping[str, Any], console: Console) -> None:
    """Print a comparison, finished or not, with the width the console has."""
    kind = str(table.get("kind") or "explore")
    _say(f"{table.get('name') or 'Comparison'} ({kind} suite), baseline {table.get('baseline')}", console, "bold")
    if label(table):
        _say(caution(table), console, "bold yellow")
    for note in notes(table):
        _say(note, console, "yellow" if note.startswith("Unfinished") else "")
    for task in tasks(table):
        _print_task(table, task, console)
    _print_contrasts(table, console)
    _print_explorations(table, console)


def _print_task(table: Mapping[str, Any], task: Task, console: Console) -> None:
    rows = task.rows
    say("", console)
    _say(f"Task {task.name}{f' ({label(table)})' if label(table) else ''}", console, "bold")
    if not rows:
        _say("It has no rows.", console)
        return
    signed = False
    columns: list[Column] = []
    for layout in LAYOUTS:
        columns, signed = _columns(task, layout), not layout.sets
        if sum(column.width + GAP for column in columns) - GAP <= console.width:
            break
    print_columns(columns, console)
    say("", console)
    _say(_key(table, task, signed), console, "dim")
    _print_measured(table, task, console)
    if said := remarks(table, task):
        say("", console)
        _say(f"{beware(table)}:", console, "bold")
        for line in said:
            _say(f"- {line}", console)
    if failed := tables.failures(task):
        say("", console)
        _say("Failed cells:", console, "bold")
        for line in failed:
            _say(f"- {line}", console, "red")


def _print_measured(table: Mapping[str, Any], task: Task, console: Console) -> None:
    for grid in measured_tables(table, task):
        say("", console)
        _say(f"{grid.title} ({task.name})", console, "bold")
        columns = [
            Column(
                broken(head[0], NAME),
                ["\n".join(broken(line, NAME) for line in cells[place]) for cells in grid.rows],
                left=place == 0,
            )
            for place, head in enumerate(grid.heads)
        ]
        print_columns(columns, console)
        say("", console)
        _say(grid.note, console, "dim")


def _say(text: str, console: Console, style: str = "") -> None:
    """Print a sentence on a line of its own, whatever line breaks a name in it has."""
    say(" ".join(text.split()), console, style)


def _columns(task: Task, layout: Layout) -> list[Column]:
    """The table of a task; columns that say nothing are left out, but not the first."""
    headline, ood = task.headline, [one for one in task.sets if one.role != "id"]
    beside = [name for name in (RANKING, task.corrected) if name is not None and name != headline]
    found = [
        Column("Row", ["\n".join(_row_cell(task, row, layout)) for row in task.rows], left=True),
        *_facts(task, layout),
        _each(
            task, f"ID\n{measure_of(headline).words}", lambda row: measure_of(headline).figure(_value(row.mean("id", headline)))
        ),
        _mean(task, "ood", headline, layout),
    ]
    if layout.sets:
        found += [_set_column(task, one) for one in ood]
    elif any(row.compared for row in task.rows):
        found.append(_each(task, "OOD\nsets", lambda row: _signs(row, [one.name for one in ood], headline)))
    found += [_mean(task, "ood", metric, layout) for metric in beside]
    found += [_mean(task, "forget", headline, layout), *_costs(task, layout)]
    return [column for index, column in enumerate(found) if index == 0 or not set(column.cells) <= {"-", "", "-\n-"}]


def _each(task: Task, heading: str, cell: Callable[[Row], str]) -> Column:
    return Column(heading, [cell(row) for row in task.rows])


def _set_column(task: Task, one: ComparedSet) -> Column:
    return _each(
        task, f"{broken(one.name, 12)}\n{one.short}", lambda row: _signed(row.gap_on(one.name, task.headline), task.headline)
    )


def _row_cell(task: Task, row: Row, layout: Layout) -> list[str]:
    lines = [broken(row.name, NAME), *(["(baseline)"] if row.name == task.baseline else [])]
    if not layout.facts:
        seeds = row.seeds.lines
        lines += [f"{seeds[0]} seed{'' if seeds[0] == '1' else 's'}", *seeds[1:]]
        lines += [f"lr {_rate(row)}"] if row.rate is not None else []
    return lines


def _facts(task: Task, layout: Layout) -> list[Column]:
    if not layout.facts:
        return []
    return [
        _each(task, "Seeds", lambda row: "\n".join(row.seeds.lines)),
        _each(task, "Learning\nrate", _rate),
    ]


def _rate(row: Row) -> str:
    return f"{rate(row.rate)} (edge)" if row.rate_at_edge else rate(row.rate)


def _costs(task: Task, layout: Layout) -> list[Column]:
    charged = _each(task, "Cost\ncharged", lambda row: times(_value(row.cost("charged"))))
    amortised = _each(task, "amor-\ntised", lambda row: times(_value(row.cost("amortised"))))
    searches = _each(task, "sear-\nches", lambda row: times(row.searches))
    if layout.facts:
        return [charged, amortised, searches]
    kept = [("Cost", charged), ("amort.", amortised), ("search", searches)]
    kept = [(head, column) for head, column in kept if set(column.cells) != {"-"}]
    stacked = ["\n".join(lines) for lines in zip(*(column.cells for _, column in kept))]
    return [Column("\n".join(head for head, _ in kept), stacked)] if kept else []


def _mean(task: Task, role: str, metric: str, layout: Layout) -> Column:
    """A mean, its interval below, and below that the difference to the baseline with its sign."""

    def cell(row: Row) -> str:
        entry, gap = row.mean(role, metric), row.mean_gap(role, metric)
        if entry is None:
            return "-"
        lines = [measure_of(metric).figure(entry.value)]
        if entry.low is not None and entry.high is not None:
            lines.append(f"{measure_of(metric).figure(entry.low)}-{measure_of(metric).figure(entry.high)}")
        if gap.gap is not None:
            lines.append(
                f"{measure_of(metric).difference(gap.gap)} ({gap.sign})" if layout.intervals else brief_gap(gap, metric)
            )
        return "\n".join(lines)

    named = measure_of(metric).words.replace("prior-corrected ", "pr.-corr.\n")
    return _each(task, f"{'Forget' if role == 'forget' else role.upper()} mean\n{named}", cell)


def _signed(difference: Difference, metric: str) -> str:
    return "" if difference.gap is None else brief_gap(difference, metric)


def _signs(row: Row, names: Sequence[str], metric: str) -> str:
    """One character per set: the sign of its difference to the baseline."""
    return "".join(row.gap_on(name, metric).sign for name in names) if row.compared else ""


def _value(entry: Interval | None) -> float | None:
    return None if entry is None else entry.value


def _key(table: Mapping[str, Any], task: Task, signed: bool) -> str:
    """How to read a task's table."""
    others = [one.name for one in task.sets if one.role != "id"]
    told = measure_of(task.headline)
    unit = ("In per cent" if told.share else "As it stands") + (" (lower is better)" if told.lower else "")
    in_points = " in points" if told.share else ""
    said = [f"{unit} with {confidence(table)} intervals."]
    if task.headline in PRIOR_SENSITIVE:
        said.append(f"A shifted class prior alone can change {told.words}; AUROC and prior-corrected figures it cannot.")
    if any(row.compared for row in task.rows):
        said.append(
            f"Below: difference to {task.baseline}{in_points}, (+) or (-) where its interval excludes zero, (0) where it holds "
            "it or there is none."
        )
        if signed and others:
            unknown = ", ? not known" if any("?" in _signs(row, others, task.headline) for row in task.rows) else ""
            said.append(f"OOD sets, one sign each, in this order{unknown}: {', '.join(others)}.")
    said.append("Costs are multiples of ERM's: whole cost charged, amortised over the rows that share stages, and searches.")
    return " ".join(said)


def _print_contrasts(table: Mapping[str, Any], console: Console) -> None:
    listed = sequence(table.get("contrasts"))
    if not listed:
        return
    say("", console)
    _say(f"Contrasts{f' ({label(table)})' if label(table) else ''}, p corrected for their number (Holm):", console, "bold")
    several = len(tasks(table)) > 1
    named = [
        f"{broken(str(dig(one, 'row')), 24)}\nagainst {broken(str(dig(one, 'against')), 24)}"
        + (f"\n{dig(one, 'task')}" if several else "")
        for one in listed
    ]
    measured = [f"{broken(tables.place(one), NAME)}\n{measure_of(str(dig(one, 'metric'))).words}" for one in listed]
    columns = [
        Column("Contrast", named, left=True),
        Column("On", measured, left=True),
        Column("Difference", [_stacked(interval(dig(one, "difference")), str(dig(one, "metric"))) for one in listed]),
        Column("AUROC", [_stacked(interval(dig(one, "ranking")), RANKING) for one in listed]),
        Column("p", [probability(number(dig(one, "p"))) for one in listed]),
        Column("p\nHolm", [probability(number(dig(one, "p_holm"))) for one in listed]),
        Column("Verdict", [_verdict(one) for one in listed], left=True),
    ]
    print_columns(columns, console)


def _stacked(gap: Interval | None, metric: str) -> str:
    return measure_of(metric).difference(gap).replace(" [", "\n[")


def _verdict(contrast: Any) -> str:
    said = tables.verdict(contrast).replace("not shown to be ", "not shown to\nbe ").replace("difference ", "difference\n")
    margin, metric = number(dig(contrast, "margin")), str(dig(contrast, "metric"))
    return said if margin is None else f"{said}\n(margin {measure_of(metric).figure(margin)})"


def _print_explorations(table: Mapping[str, Any], console: Console) -> None:
    listed = sequence(table.get("explorations"))
    if table.get("kind") != "confirm":
        return
    say("", console)
    if not listed:
        _say("Earlier explorations: none is known.", console)
        return
    _say("Earlier explorations:", console, "bold")
    for one in listed:
        rows, seeds = (", ".join(map(str, sequence(dig(one, key)))) for key in ("rows", "seeds"))
        hashed = str(dig(one, "hash") or "-")[:16]
        _say(f"- {dig(one, 'suite')}, {dig(one, 'created')}, hash {hashed}: {rows} (seeds {seeds})", console)


def broken(name: str, width: int) -> str:
    """A long name on several lines of at most ``width`` columns, at its separators where it has some; nothing is left out."""
    name = " ".join(name.split())
    if len(name) <= width:
        return name
    lines = [""]
    for piece in re.split(r"(?<=[ _/.-])", name):
        while len(piece) > width:
            lines.append(piece[:width])
            piece = piece[width:]
        if len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return "\n".join(line for line in lines if line)
