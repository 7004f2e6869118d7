"""Paths as a user writes them: environment variables and ``~`` stay in the recipe and are expanded where a path is used.

A relative path in a recipe means the file in the recipe's own folder if there is one, else in the current folder. The
first half of that rule is applied when the recipe is read (:func:`beside`), so that code using a path needs no recipe.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ftft.errors import UserError, nearest

VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(path: str, where: str) -> Path:
    """The path with ``~``, ``$NAME`` and ``${NAME}`` replaced; relative ones stay relative to the current folder.

    ``where`` names the key the path stands under, for the sentence. Raises UserError for a variable that is not set,
    an empty path and a NUL character.
    """
    missing = [name for name in variables(path) if name not in os.environ]
    if missing:
        near = nearest(missing[0], os.environ)
        hint = f' (did you mean "{near}"?)' if near else ""
        raise UserError(
            f"{where}: the environment variable {missing[0]} in {path!r} is not set{hint}; "
            f"set it (export {missing[0]}=...) or write the path out"
        )
    if not path.strip():
        raise UserError(f"{where}: the path is empty; give the path of a file or folder, or leave the key out")
    if "\0" in path:
        raise UserError(f"{where}: the path {path!r} holds a NUL character, which no file name can")
    return Path(_substitute(path)).expanduser()


def variables(path: str) -> list[str]:
    """The names of the environment variables that ``path`` mentions, in order."""
    return [braced or bare for braced, bare in VARIABLE.findall(path)]


def beside(path: str, folder: Path) -> str:
    """``path`` itself, or ``folder/path`` where it is relative and such a file exists; variables stay unexpanded."""
    if any(name not in os.environ for name in variables(path)) or not path.strip() or "\0" in path:
        return path
    expanded = Path(_substitute(path)).expanduser()
    if expanded.is_absolute() or folder == Path(".") or not os.path.exists(folder / expanded):  # False for a name too long, too
        return path
    return f"{folder.as_posix()}/{path}"


def _substitute(path: str) -> str:
    return VARIABLE.sub(lambda found: os.environ[found.group(1) or found.group(2)], path)
