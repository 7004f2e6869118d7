"""The frame of every page: one HTML file with its style inside, sections with headings, and notes."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from ftft.report.markup import Markup, tag


def document(title: str, *children: Markup, style: str = "", script: str = "") -> str:
    """A whole page that needs nothing else; light or dark as the reader's system asks. ``style`` and ``script``: more of the
    first, and the only script that the page lets run; nothing may be fetched, whatever its strings hold."""
    styles = files("ftft.report").joinpath("style.css").read_text(encoding="utf-8") + style
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", attributes={"charset": "utf-8"}),
        tag("meta", attributes={"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", title),
        tag("style", Markup(styles)),
    )
    body = tag("body", tag("main", *children), *([tag("script", Markup(script))] if script else []))
    page = tag("html", head, body, attributes={"lang": "en"})
    return f"<!DOCTYPE html>\n{page}\n"


def section(title: str, *children: Markup | None, anchor: str | None = None) -> Markup | None:
    """A section of the children that are there; None where there are none."""
    present = [child for child in children if child is not None]
    return tag("section", tag("h2", title, attributes={"id": anchor}), *present) if present else None


def soft(words: str) -> Markup:
    """A note in the quieter colour."""
    return tag("p", words, attributes={"class": "soft"})
