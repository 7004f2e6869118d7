"""Overrides from the command line: `stages.main.train.epochs=3` changes one key of a recipe before it is checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_origin

from ftft.errors import UserError, did_you_mean
from ftft.run.recipe import Recipe, Section, Stage
from ftft.run.yaml_reading import parse_yaml, read_yaml_file
from ftft.validation import field_types, is_union


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Change ``raw`` (the recipe as read) in place by one ``path=value``; the value is read as YAML, ``@file`` from a file
    (relative to the current folder; no YAML value can begin with @).

    The path is checked against the recipe's settings: keys of mappings by name, items of lists by index (from 0). New
    evaluation sets may be added, new stages may not. Raises UserError with the nearest key.
    """
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path:
        raise UserError(f'the override "{override}" is not of the form key=value, for instance stages.main.train.epochs=3')
    source = f"the override {path}"
    value = read_yaml_file(Path(text[1:]), f"{source}: the file") if text.startswith("@") else parse_yaml(text, source)
    apply_change(raw, path, value)


def apply_change(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set the key at a dotted ``path`` of ``raw`` in place, as :func:`apply_override` does."""
    container: Any = raw
    kind: Any = Recipe
    parts = path.split(".")
    done: list[str] = []
    while True:
        kind = _member(kind, container)
        key, used = _step(container, kind, parts, done, path)
        parts, done = parts[used:], [*done, str(key)]
        inner = _inner(kind, key)
        if not parts:
            container[key] = value
            return
        current = container[key] if isinstance(container, list) or key in container else None
        if current is None:
            current = _start(kind, key, inner)
        elif isinstance(current, str) and _is_section(inner):
            current = {"name": current}
        if not isinstance(current, (dict, list)):
            raise UserError(f'the override {path}: {".".join(done)} is a single value, so it has no key "{parts[0]}"')
        container[key] = current
        container, kind = current, inner


def _step(container: Any, kind: Any, parts: list[str], done: list[str], path: str) -> tuple[Any, int]:
    """The next key (or list index) and how many dotted parts it takes, since names may hold dots."""
    here = ".".join(done) or "the recipe"
    if isinstance(container, list):
        if not parts[0].isdigit() or int(parts[0]) >= len(container):
            last = len(container) - 1
            raise UserError(f"the override {path}: {here} is a list with the indices 0 to {last}, not {parts[0]}")
        return int(parts[0]), 1
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if parts[0] not in field_types(kind):
            raise UserError(f'the override {path}: {here} has no key "{parts[0]}"{did_you_mean(parts[0], field_types(kind))}')
        return parts[0], 1
    for used in range(len(parts), 0, -1):
        if ".".join(parts[:used]) in container:
            return ".".join(parts[:used]), used
    if get_args(kind)[1:] == (Stage,):
        raise UserError(f'the override {path}: there is no stage "{parts[0]}"{did_you_mean(parts[0], container)}')
    return parts[0], 1


def _member(kind: Any, container: Any) -> Any:
    """The member of a union that the container is written as."""
    if not is_union(kind):
        return kind
    wanted = list if isinstance(container, list) else dict
    for option in get_args(kind):
        if get_origin(option) is wanted or (wanted is dict and dataclasses.is_dataclass(option)):
            return option
    return kind


def _inner(kind: Any, key: Any) -> Any:
    """The annotation of what stands under ``key``."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return field_types(kind)[key]
    arguments = get_args(kind)
    return arguments[-1] if arguments else Any


def _is_section(kind: Any) -> bool:
    return kind == Section or (is_union(kind) and Section in get_args(kind))


def _start(kind: Any, key: Any, inner: Any) -> Any:
    """What an absent key begins as: a method section as its default, any other as an empty mapping."""
    if _is_section(inner) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        field = next(field for field in dataclasses.fields(kind) if field.name == key)
        if field.default_factory is not dataclasses.MISSING:
            return dict(field.default_factory())
    options = get_args(inner) if is_union(inner) else (inner,)
    holds = any(dataclasses.is_dataclass(option) or get_origin(option) is dict for option in options) or inner is Any
    return {} if holds else None
