"""HTML and SVG as strings that are escaped by construction: what is not :class:`Markup` is text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

VOID = frozenset({"meta", "br", "hr", "circle", "line", "path", "rect", "polyline", "input"})

Attributes = Mapping[str, str | float | int | None]


class Markup(str):
    """A string that already is HTML."""


def text(value: str) -> Markup:
    """A string from anywhere as HTML text; characters that HTML or UTF-8 cannot hold become the replacement character."""
    clean = "".join(
        c if c in "\n\t" or (c >= " " and c != "\x7f" and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in value
    )
    return Markup(html.escape(clean))


def join(children: Iterable[Markup | str]) -> Markup:
    """Children side by side."""
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children))


def tag(name: str, *children: Markup | str, attributes: Attributes | None = None) -> Markup:
    """An element; attributes that are None are left out, numbers written short."""
    written = "".join(
        f' {key}="{text(value if isinstance(value, str) else short(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    return Markup(f"<{name}{written}/>" if name in VOID else f"<{name}{written}>{join(children)}</{name}>")


def short(value: float | int) -> str:
    """A coordinate with at most one decimal."""
    return str(value) if isinstance(value, int) else f"{value:.1f}".removesuffix(".0")


def table(
    heads: Sequence[Markup | str],
    rows: Sequence[Sequence[Markup | str]],
    *,
    caption: str = "",
    name: str = "",
    kinds: Sequence[str] = (),
) -> Markup:
    """A table in a box that scrolls sideways where it is too wide; the first cell of a row is its heading. ``name``:
    what a screen reader calls it, where a heading stands above it instead of a caption; ``kinds``: a class for every row
    ("" for none)."""
    head = tag("thead", tag("tr", *(tag("th", cell, attributes={"scope": "col"}) for cell in heads)))
    body = []
    for index, row in enumerate(rows):
        cells = [tag("th", row[0], attributes={"scope": "row"}), *(tag("td", cell) for cell in row[1:])]
        body.append(tag("tr", *cells, attributes={"class": (kinds[index] or None) if kinds else None}))
    box = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": caption or name or "table"}
    scrolling = tag("div", tag("table", head, tag("tbody", *body)), attributes=box)
    # Not a <caption>: that would scroll sideways with the table.
    return join([tag("p", caption, attributes={"class": "soft"}), scrolling] if caption else [scrolling])


def under(shown: Markup | str, *below: str) -> Markup:
    """A figure with smaller lines below it, empty ones left out."""
    return join([shown, *(tag("span", line, attributes={"class": "under"}) for line in below if line)])
