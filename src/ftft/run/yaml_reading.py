"""YAML read with care: bounded size, depth and alias expansion, no key twice, keys as they are spelled.

YAML 1.1 reads the bare word `on` as true; the keys of a mapping are therefore taken as the text that was written, so
that `stop: {on: [...]}` means what it says. Dates stay text. Nothing but plain values can be built. An alias (`*name`)
gives a copy of what the anchor (`&name`) marks, so that changing one place later changes that place alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ftft.errors import UserError, nearest

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # with every alias expanded
MAX_DEPTH = 100
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader with mapping keys as text and dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        return {_key(key, node): self.construct_object(value, deep=True) for key, value in node.value}


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)


def read_yaml_file(path: Path, what: str = "the recipe") -> Any:
    """The content of a YAML file. Raises UserError for a file that is missing, too large, no UTF-8, or no sound YAML.

    ``what``: what its sentences call the file.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the recipe file itself")
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist{_beside(path)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{what} {path} is larger than 1 MiB; a recipe holds settings, and data is named in it by path")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{what} {path} is no UTF-8 text (line {line}); save it as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """The value of YAML text; ``source`` leads the sentence. Raises UserError."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Inspection(source).visit(node, 1)
        return _unshared(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or "the text cannot be read"
        hint = "; indent with spaces" if "'\\t'" in problem else ""
        raise UserError(f"{source}{place}: this is no valid YAML: {problem}{hint}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"{source}: this is no valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{source}: mappings and lists are nested more than {MAX_DEPTH} deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def _unshared(value: Any) -> Any:
    """The value with every mapping and list a new one; ``copy.deepcopy`` would keep the aliases' sharing."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value


class _Inspection:
    """One walk over the parsed nodes before anything is built: size with aliases expanded, depth, cycles, duplicates."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sizes: dict[int, int | None] = {}  # by identity of the node; None while it is being visited

    def visit(self, node: yaml.Node, depth: int) -> int:
        """The number of nodes under ``node``, aliases expanded."""
        known = self.sizes.get(id(node), 0)
        if known is None:
            raise UserError(f"{self.source}, {_line(node)}: an alias stands inside the value it names")
        if known:
            return known
        if depth > MAX_DEPTH:
            raise UserError(f"{self.source}, {_line(node)}: mappings and lists are nested more than {MAX_DEPTH} deep")
        self.sizes[id(node)] = None
        size = 1
        if isinstance(node, yaml.MappingNode):
            self._refuse_duplicates(node)
            size += sum(self.visit(value, depth + 1) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            size += sum(self.visit(value, depth + 1) for value in node.value)
        if size > MAX_NODES:
            raise UserError(f"{self.source}, {_line(node)}: aliases expand to more than {MAX_NODES} values; write them out")
        self.sizes[id(node)] = size
        return size

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            name = _key(key, node)
            if name in lines:
                raise UserError(
                    f'{self.source}, {_line(key)}: the key "{name}" was already given in {_line(lines[name])}; keep one of them'
                )
            if key.tag != MERGE:
                lines[name] = key


def _key(key: yaml.Node, parent: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark or parent.start_mark)
    return key.value


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _beside(path: Path) -> str:
    """A suggestion from the folder's own YAML files."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return f"; there is no folder {path.parent}"
    near = nearest(path.name, names)
    return f"; did you mean {path.with_name(near)}?" if near else ""
