"""Which files a cell was computed from: a cell whose data have changed since is not finished."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from ftft.errors import UserError
from ftft.paths import expand
from ftft.run.portable import portable_path
from ftft.run.reading import named_paths
from ftft.run.recipe import Recipe


def file_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of every data file a recipe reads that is here, by the path of its key in the recipe."""
    found = {}
    for where, path, is_folder in named_paths(recipe):
        if is_folder:
            continue
        try:
            file = expand(path, where)
            status = file.stat()
        except (OSError, UserError):
            continue
        if file.is_file():
            found[where] = _sha256(file, status.st_size, status.st_mtime_ns)
    return found


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    """``size`` and ``changed`` (time of the last change) are for the cache: a file is hashed once while it stays the same."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_files(recipe: Recipe, recorded: Mapping[str, str]) -> list[str]:
    """The data files that are here and are not what they were when the cell was computed."""
    paths = {where: portable_path(path) for where, path, _ in named_paths(recipe)}
    now = file_hashes(recipe)
    return [paths[where] for where in now if recorded.get(where, now[where]) != now[where]]
