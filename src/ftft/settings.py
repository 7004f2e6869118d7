"""How a setting is declared: a dataclass field with its default, its meaning and, for a method, the default's origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    origin: str = "",
    factory: Callable[[Any], Any] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A dataclass field. ``help``: one phrase with the unit; ``origin``: where the default comes from (paper, code).

    ``factory`` copies a mutable default: ``setting((), "...", factory=list)``. Defaults are literals, so that
    ``ftft list`` can read a method's header without importing it. ``ge``, ``gt``, ``le``, ``lt`` bound a number (at
    least, above, at most, below); a recipe that breaks them is refused, code that builds the dataclass itself is not.
    """
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    metadata = {"help": help, "origin": origin, "bounds": bounds}
    if factory is not None:
        return field(default_factory=lambda: factory(default), metadata=metadata)
    return field(default=default, metadata=metadata)
