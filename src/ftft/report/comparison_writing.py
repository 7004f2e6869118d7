"""Write a comparison's Markdown and page beside its table document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftft.files import write_text
from ftft.report.comparison_markdown import comparison_markdown
from ftft.report.comparison_page import comparison_page


def write_comparison(folder: Path, table: Mapping[str, Any]) -> Path:
    """Write ``table.md`` and ``table.html`` of the table document into ``folder``, each atomically; returns the page's path.

    Raises UserError where the folder cannot be written to.
    """
    write_text(folder / "table.md", comparison_markdown(table))
    target = folder / "table.html"
    write_text(target, comparison_page(table))
    return target
