"""docs/methods.md is what its command makes of the method files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ftft.methods.registry import list_methods


def test_the_page_is_what_the_files_say(load_benchmark: Callable[[str], ModuleType]) -> None:
    methods = load_benchmark("methods")
    written = Path(methods.PAGE).read_text(encoding="utf-8")
    assert written == methods.page()
    assert all(f"### {one.name}\n" in written for one in list_methods() if one.package == "ftft")
