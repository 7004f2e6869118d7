"""The evidence: docs/evidence.md from the tables of the committed comparisons.

    python benchmarks/evidence.py          # results/*/table.json -> docs/evidence.md

Every figure comes from a table that `ftft compare` wrote; nothing is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftft.report.comparison_markdown import comparison_markdown

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Evidence

Made by `python benchmarks/evidence.py` from the tables under [results](../results), which `ftft compare` wrote; the suites
are in [recipes/suites](../recipes/suites) and the protocol in [comparison.md](comparison.md). A result that goes against a
method stands here like any other.
"""


def tables(results: Path) -> list[dict[str, Any]]:
    """The tables of all suites that have one, by name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/table.json"))]
    return [table for table in found if table["cells"]["finished"]]


def evidence(results: Path) -> str:
    """The page: one section for each suite."""
    parts = [_deeper(comparison_markdown(table)) for table in tables(results)]
    return "\n".join([HEAD, *(parts or ["No comparison has been run yet.\n"])])


def _deeper(page: str) -> str:
    """A page as a section: every heading one level down."""
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in page.splitlines()) + "\n"


def main() -> None:
    """Write docs/evidence.md."""
    path = ROOT / "docs" / "evidence.md"
    path.write_text(evidence(ROOT / "results"), encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
