"""GitHub Markdown from figures and from strings of anyone: what is not a table's own mark is text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKS = str.maketrans(
    {mark: f"&#{ord(mark)};" for mark in "|`*\\~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"},
)
_BLOCK = re.compile(r"[#+=-]|\d+[.)] ")  # what would begin a heading, a list or a line at the start of a paragraph


Cell = str | Sequence[str]


def markdown_table(heads: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, figures: bool = False) -> str:
    """A table; a cell is a text or several lines of text. ``figures``: all columns but the first are set to the right."""
    marks = ["---", *["---:" if figures else "---"] * (len(heads) - 1)]
    body = [f"| {' | '.join(map(_cell, line))} |" for line in (heads, *rows)]
    return "\n".join([body[0], f"| {' | '.join(marks)} |", *body[1:]])


def _cell(cell: Cell) -> str:
    return safe(cell) if isinstance(cell, str) else "<br>".join(safe(line) for line in cell)


def safe(text: str) -> str:
    """Text on one line in which nothing is Markdown or HTML."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    escaped = flat.translate(_MARKS).replace("](", "&#93;(").replace("][", "&#93;[").replace("]:", "&#93;:")
    # An underscore inside a word marks nothing, and names are full of them. Bare addresses would become links.
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", "&#95;", escaped)
    return re.sub(r"(?i):(?=//)|(?<=www)\.", lambda found: f"&#{ord(found[0])};", escaped)


def paragraph(text: str) -> str:
    """Safe text that begins no heading, list or rule either, so that it can stand at the start of a line."""
    flat = safe(text)
    return f"&#{ord(flat[0])};{flat[1:]}" if _BLOCK.match(flat) else flat
