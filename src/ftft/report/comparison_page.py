"""The comparison as one HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftft.report import comparison_tables as tables
from ftft.report.comparison_figures import Task, caution, label, tasks
from ftft.report.comparison_measured import measured_tables
from ftft.report.comparison_plots import cost_bars, cost_plot, rate_plots, transfer_plot
from ftft.report.comparison_remarks import beware, notes, remarks
from ftft.report.comparison_tables import Grid, Lines
from ftft.report.document import document, section, soft
from ftft.report.markup import Markup, join, table, tag, under


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison's table document, finished or not; every string of the data is escaped."""
    name = str(comparison.get("name") or "Comparison")
    every = tasks(comparison)
    sections = [_header(comparison, name), _notes(comparison), _contents(every)]
    for index, task in enumerate(every):
        sections.append(_task(comparison, task, f"task-{index}"))
    grid = tables.contrasts(comparison)
    sections.append(section(_limited("Contrasts", comparison), _grid(grid)) if not grid.empty else None)
    grid = tables.explorations(comparison)
    sections.append(section(grid.title, _grid(grid)) if not grid.empty else None)
    sections.append(section("How to read this", tag("p", tables.reading(comparison))))
    return document(f"{name}: ftft comparison", *(one for one in sections if one is not None))


def _header(comparison: Mapping[str, Any], name: str) -> Markup:
    facts = [
        f"{comparison.get('kind') or 'explore'} suite",
        f"baseline {comparison.get('baseline')}",
        str(comparison.get("created") or ""),
    ]
    return tag("header", tag("h1", name), soft(" · ".join(fact for fact in facts if fact)))


def _notes(comparison: Mapping[str, Any]) -> Markup | None:
    said = notes(comparison)
    parts = [tag("p", caution(comparison), attributes={"class": "headline"})] if label(comparison) else []
    parts += [_list(said)] if said else []
    return tag("section", *parts) if parts else None


def _contents(every: list[Task]) -> Markup | None:
    """Links to the tasks, where there are several."""
    if len(every) < 2:
        return None
    links = [tag("a", task.name, attributes={"href": f"#task-{index}"}) for index, task in enumerate(every)]
    return tag("nav", tag("ul", *(tag("li", link) for link in links)), attributes={"aria-label": "Tasks"})


def _task(comparison: Mapping[str, Any], task: Task, anchor: str) -> Markup | None:
    note = caution(comparison)
    said, failed = remarks(comparison, task), tables.failures(task)
    warned = tag("div", tag("h3", beware(comparison)), _list(said), attributes={"class": "warnings"}) if said else None
    lost = tag("div", tag("h3", "Failed cells"), _list(failed), attributes={"class": "warnings"}) if failed else None
    about = [f"{task.title(row)}: {row.about}" for row in task.rows if row.about]
    line = tables.line_said(task)
    return section(
        task.name,
        warned,
        lost,
        _titled(tables.summary(comparison, task), task.name),
        _titled(tables.overview(task), task.name),
        *(_titled(grid, task.name) for grid in measured_tables(comparison, task)),
        _headed("Quality and cost", _plots(task, note), soft(line) if line else None),
        _headed("Costs, as multiples of ERM's", cost_bars(task), _grid(tables.costs(task), task.name)),
        _headed("Learning rates", rate_plots(task), _folded(tables.curves(task), task.name)),
        _titled(tables.resources(task), task.name),
        _headed("All metrics, set by set", *(_folded(grid, task.name) for grid in _every_set(task))),
        _headed("The rows", _list(about)) if about else None,
        anchor=anchor,
    )


def _plots(task: Task, note: str) -> Markup | None:
    drawn = [one for one in (cost_plot(task, note), transfer_plot(task, note)) if one is not None]
    return tag("div", *drawn, attributes={"class": "plots"}) if drawn else None


def _every_set(task: Task) -> list[Grid]:
    means = [tables.one_mean(task, role) for role in ("id", "ood", "forget") if len(task.mean_sets(role)) > 1]
    return [*means, *(tables.one_set(task, one) for one in task.sets)]


def _headed(title: str, *children: Markup | None) -> Markup | None:
    present = [child for child in children if child is not None]
    return join([tag("h3", title), *present]) if present else None


def _titled(grid: Grid, of: str) -> Markup | None:
    return None if grid.empty else _headed(grid.title, _grid(grid, of))


def _folded(grid: Grid, of: str) -> Markup | None:
    """A table that opens on a click or the Enter key."""
    if grid.empty:
        return None
    return tag("details", tag("summary", grid.title), _grid(grid, of) or "")


def _grid(grid: Grid, of: str = "") -> Markup | None:
    """A table; ``of``: its task, for those who hear the table's name and see no heading above it."""
    if grid.empty:
        return None
    heads, rows = [_cell(head) for head in grid.heads], [[_cell(cell) for cell in row] for row in grid.rows]
    shown = table(heads, rows, name=f"{of}: {grid.title}" if of else grid.title)
    return join([soft(grid.note), shown]) if grid.note else shown


def _cell(lines: Lines) -> Markup:
    return under(lines[0], *lines[1:]) if lines else join([""])


def _list(lines: list[str]) -> Markup:
    return tag("ul", *(tag("li", line) for line in lines))


def _limited(title: str, comparison: Mapping[str, Any]) -> str:
    return f"{title} ({label(comparison)})" if label(comparison) else title
