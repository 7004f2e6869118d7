"""A result without the folders of the machine it was made on: paths as the recipe writes them, or their last part.

Results are committed, published and compared; a home folder or a mount point in them helps no reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from ftft.errors import UserError
from ftft.methods.registry import build_task
from ftft.paths import expand
from ftft.run.reading import named_paths, recipe_to_dict
from ftft.run.recipe import Recipe
from ftft.tasks.contract import files_of

# Two parts or more, not the rest of an address or of a relative path.
_ABSOLUTE = re.compile(r"(?<![\w/:.~}-])/(?:[^\s/:;,'\"()]+/)+[^\s/:;,'\"()]*")


def portable_path(path: str) -> str:
    """The path as written, or, where that is absolute, relative to the current folder if it lies there, else its last part."""
    if not PurePath(path).is_absolute():
        return path
    try:
        return PurePath(path).relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return PurePath(path).name or path


def portable_model(description: Mapping[str, Any]) -> dict[str, Any]:
    """A loaded model's description with the names it goes by made portable."""
    made = dict(description)
    if isinstance(made.get("source"), str):
        made["source"] = portable_path(made["source"])
    if isinstance(made.get("lineage"), (list, tuple)):
        made["lineage"] = list(dict.fromkeys(portable_path(str(name)) for name in made["lineage"]))
    return made


def portable_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain mappings with its paths made portable."""
    document = recipe_to_dict(recipe)
    train = document["data"]["train"]
    for file in [*(train if isinstance(train, list) else [train]), *document["data"]["evaluation"].values()]:
        _make_portable(file, "path")
    _make_portable(document["data"], "corrections")
    for stage in document["stages"].values():
        for model in (stage["model"], *stage["other_models"].values()):
            _make_portable(model, "path")
        _make_portable(stage.get("data") or {}, "path")
        _make_portable(stage, "use_dynamics_of")
    for key in files_of(build_task(recipe.task)):
        _make_portable(document["task"], key)
    for key in ("output", "store"):
        _make_portable(document, key)
    return document


def portable_sentences(sentences: Iterable[str], recipe: Recipe) -> list[str]:
    """Sentences in which the paths that the recipe names stand as it writes them, and any other by its last part."""
    named = [path for _, path, _ in named_paths(recipe)] + [recipe.output, *([recipe.store] if recipe.store else [])]
    written: dict[str, str] = {}  # where it lies -> as the recipe writes it
    for path in named:
        try:
            written[str(expand(path, "path"))] = portable_path(path)
        except UserError:
            continue
    longest_first = sorted((path for path in written if PurePath(path).is_absolute()), key=len, reverse=True)
    known = re.compile("|".join(rf"{re.escape(path)}(?![\w.-])" for path in longest_first) or "(?!)")
    made = []
    for sentence in sentences:
        sentence = known.sub(lambda found: written[found.group()], sentence)
        made.append(_ABSOLUTE.sub(lambda found: portable_path(found.group()), sentence))
    return made


def _make_portable(document: dict[str, Any], key: str) -> None:
    if isinstance(document.get(key), str):
        document[key] = portable_path(document[key])
