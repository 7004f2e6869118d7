"""How a benchmark tells its result: as JSON, with what it was measured on, and between the markers of a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftft.engine.provenance import provenance

_MACHINE = ("processor", "processor_flags", "architecture", "cpu_capability", "threads")


def tell(benchmark: str, fields: Mapping[str, Any], *, machine: Mapping[str, Any], out: Path | None) -> None:
    """Print ``fields`` with the versions and the processor (no host name, no path) and the rest that is known of the
    ``machine``; write them to ``out`` where it is given."""
    here = provenance()
    result = {
        "format": 1,
        "benchmark": benchmark,
        **fields,
        "machine": {key: here[key] for key in _MACHINE} | dict(machine),
        "python": here["python"],
        "versions": here["versions"],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def between_markers(page: str, begin: str, end: str, content: str) -> str:
    """The page with ``content`` on lines of its own between the markers, in the place of what stood there."""
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{content}\n{end}{after}"
