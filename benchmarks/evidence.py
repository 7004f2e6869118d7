"""The evidence: docs/evidence.md, and the README's summary of it, from the tables of the committed comparisons.

    python benchmarks/evidence.py          # results/*/table.json -> docs/evidence.md, README.md

Every figure comes from a table that `ftft compare` wrote; nothing is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from telling import between_markers

from ftft.report import comparison_tables
from ftft.report.comparison_figures import label
from ftft.report.comparison_figures import tasks as tasks_of
from ftft.report.comparison_markdown import comparison_markdown
from ftft.report.comparison_remarks import notes, remarks
from ftft.report.markdown import markdown_table, paragraph

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Evidence

Made by `python benchmarks/evidence.py` from the tables under [results](../results), which `ftft compare` wrote; the suites
are in [recipes/suites](../recipes/suites) and the protocol in [comparison.md](comparison.md). A result that goes against a
method stands here like any other.
"""


# The experiments of single methods: docs/methods.md tells of each method what they found, and the README only that they exist.
OF_METHODS = ("autoft", "forgetting", "intruder_dimensions", "language_models", "methods")
BEGIN, END = "<!-- comparisons: begin -->", "<!-- comparisons: end -->"


def tables(results: Path) -> list[dict[str, Any]]:
    """The tables of all suites that have one, by name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/table.json"))]
    return [table for table in found if table["cells"]["finished"]]


def evidence(results: Path) -> str:
    """The page: one section for each suite."""
    parts = [_deeper(comparison_markdown(table)) for table in tables(results)]
    return "\n".join([HEAD, *(parts or ["No comparison has been run yet.\n"])])


def summary(results: Path) -> str:
    """The README's part: of every suite one table a task, and in words what to beware of in it; a line where a suite tries
    single methods."""
    blocks = []
    for table in map(_begun, tables(results)):
        said = f", {label(table)}" if label(table) else ""
        suite = f"Suite [{table['name']}](results/{table['name']}/table.md) ({table['kind']}{said})"
        if table["name"] in OF_METHODS:
            rows = {row for task in table["tasks"].values() for row in task["rows"]}
            blocks.append(f"{suite}: {len(rows)} rows, whose figures stand by method in [docs/methods.md](docs/methods.md).")
            continue
        blocks.append(f"{suite}:")
        blocks += [paragraph(note) for note in notes(table) if note.startswith("Unfinished")]
        for task in tasks_of(table):
            grid = comparison_tables.summary(table, task)
            blocks.append(markdown_table(grid.heads, grid.rows, figures=True))
            blocks += ["\n".join(f"- {paragraph(line)}" for line in remarks(table, task))]
        contrasts = comparison_tables.contrasts(table)
        if not contrasts.empty:
            blocks.append(markdown_table(contrasts.heads, contrasts.rows, figures=True))
    return "\n\n".join(block for block in blocks if block) or "No comparison has been run yet."


def _begun(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the tasks, rows and contrasts of which nothing is known yet: a large grid is begun with a few."""
    tasks = {
        name: {**task, "rows": {row: one for row, one in task["rows"].items() if one["seeds"]}}
        for name, task in table["tasks"].items()
    }
    known = [one for one in table["contrasts"] if one["difference"]["value"] is not None]
    return {**table, "tasks": {name: task for name, task in tasks.items() if task["rows"]}, "contrasts": known}


def in_readme(text: str, results: Path) -> str:
    """The README with its summary made anew."""
    return between_markers(text, BEGIN, END, summary(results))


def _deeper(page: str) -> str:
    """A page as a section: every heading one level down."""
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in page.splitlines()) + "\n"


def main() -> None:
    """Write docs/evidence.md and the README's summary."""
    page, readme = ROOT / "docs" / "evidence.md", ROOT / "README.md"
    page.write_text(evidence(ROOT / "results"), encoding="utf-8")
    readme.write_text(in_readme(readme.read_text(encoding="utf-8"), ROOT / "results"), encoding="utf-8")
    print(page.relative_to(ROOT), readme.relative_to(ROOT))


if __name__ == "__main__":
    main()
