"""The comparison as GitHub Markdown: every figure of the table document, tables for every task and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftft.report import comparison_tables as tables
from ftft.report.comparison_figures import Task, caution, label, tasks
from ftft.report.comparison_measured import measured_tables
from ftft.report.comparison_remarks import beware, notes, remarks
from ftft.report.comparison_tables import Grid
from ftft.report.markdown import markdown_table, paragraph, safe


def comparison_markdown(table: Mapping[str, Any]) -> str:
    """The document of a comparison, finished or not; no string of the data is Markdown or HTML in it."""
    facts = [f"{table.get('kind') or 'explore'} suite", f"baseline {table.get('baseline')}", str(table.get("created") or "")]
    blocks = [f"# {safe(str(table.get('name') or 'Comparison'))}", paragraph(" · ".join(fact for fact in facts if fact))]
    if label(table):
        blocks.append(f"**{safe(caution(table))}**")
    blocks += [_list(notes(table)), paragraph(tables.reading(table))]
    for task in tasks(table):
        blocks += _task(table, task)
    blocks += _titled(tables.contrasts(table), 2)
    blocks += _titled(tables.explorations(table), 2)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _task(table: Mapping[str, Any], task: Task) -> list[str]:
    blocks = [f"## {safe(task.name)}", *_titled(tables.summary(table, task), 3)]
    if said := remarks(table, task):
        blocks += [f"### {safe(beware(table))}", _list(said)]
    if failed := tables.failures(task):
        blocks += ["### Failed cells", _list(failed)]
    blocks += _titled(tables.overview(task), 3)
    for grid in [*(tables.one_set(task, one) for one in task.sets), *(tables.one_mean(task, role) for role in _roles(task))]:
        blocks += _titled(grid, 4)
    for grid in (*measured_tables(table, task), tables.costs(task), tables.resources(task), tables.curves(task)):
        blocks += _titled(grid, 3)
    if about := [f"{task.title(row)}: {row.about}" for row in task.rows if row.about]:
        blocks += ["### The rows", _list(about)]
    if line := tables.line_said(task):
        blocks += ["### Against the ERM line", paragraph(line)]
    return blocks


def _roles(task: Task) -> list[str]:
    """The roles whose mean says more than its only set does."""
    return [role for role in ("id", "ood", "forget") if len(task.mean_sets(role)) > 1]


def _titled(grid: Grid, level: int) -> list[str]:
    if grid.empty:
        return []
    note = paragraph(grid.note) if grid.note else ""
    return [f"{'#' * level} {safe(grid.title)}", note, markdown_table(grid.heads, grid.rows, figures=True)]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {paragraph(line)}" for line in lines)
