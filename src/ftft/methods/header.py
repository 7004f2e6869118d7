"""A method file's header, read from its source without importing it: the class, its declarations and its settings.

A method is the one public class of a file that is decorated ``@dataclass(frozen=True)`` and defines its question's
verb. Declarations are literals annotated ``ClassVar``; settings are fields with a literal default or ``setting(...)``.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, Union

from ftft.dynamics.score_names import SCORES
from ftft.errors import UserError

Aliases = Mapping[str, ast.expr]
BOUNDS = ("ge", "gt", "le", "lt")
FACTORIES = {"list": list, "dict": dict, "tuple": tuple, "set": set}
TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "Any": Any,
    "Literal": Literal,
    "ScoreName": str,
}
VOCABULARIES: dict[str, tuple[str, ...]] = {"ScoreName": tuple(SCORES)}


@dataclass(frozen=True)
class SettingHeader:
    """One setting: its annotation as written and as a type, its default (None where ``required``), help and bounds.

    ``words``: what its texts may be, where the annotation names one of ``VOCABULARIES``; none where any text will do.
    """

    name: str
    annotation: str
    kind: Any
    required: bool = False
    default: Any = None
    help: str = ""
    origin: str = ""
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        names = {node.id for node in ast.walk(ast.parse(self.annotation, mode="eval")) if isinstance(node, ast.Name)}
        return next((words for name, words in VOCABULARIES.items() if name in names), ())


@dataclass(frozen=True)
class MethodHeader:
    """What a file says of its method. ``question`` is "tasks" for a task; ``package`` is who brought it; ``sharded`` is None
    where it does not say."""

    question: str
    name: str
    path: Path
    module: str
    class_name: str
    summary: str
    needs: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    offers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("*",)
    sharded: bool | None = None
    coupling: str = "none"
    trainable: str = "fixed"
    artefact: str | None = None
    paper: str = ""
    library: str = ""
    exceptions: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)
    searched: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[SettingHeader, ...] = ()
    package: str = "ftft"

    def serves(self, task: str) -> bool:
        """Whether the method can be used for the task of that name."""
        return "*" in self.tasks or task in self.tasks

    @property
    def meets_shards(self) -> bool:
        """Whether the method touches the weights while they may lie in shards; others work on whole ones in every case."""
        return self.question in ("adapt", "objective", "optimize") or (self.question == "select" and "losses" in self.needs)


LISTS = ("needs", "roles", "offers", "tasks")  # declared as tuples of words, or as one word
DECLARATIONS = (
    *LISTS, "sharded", "coupling", "trainable", "artefact", "paper", "library", "exceptions", "example", "searched",
)  # fmt: skip


def read_header(path: Path, question: str, verb: str, module: str, package: str = "ftft") -> MethodHeader | None:
    """The header of the method in a file, or None where the file holds none (a helper).

    Raises UserError where the file is not Python, holds two methods, or a setting is not written as a literal.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"the method file {path} cannot be read: {error}") from None
    return _read_header(path, question, verb, module, package, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1024)
def _read_header(
    path: Path, question: str, verb: str, module: str, package: str, version: tuple[int, int]
) -> MethodHeader | None:
    """As :func:`read_header`; a file is parsed once as long as its ``version`` (time and size) stays the same."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"the method file {path} cannot be read: {error}") from None
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_method(node, verb)]
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(node.name for node in found)
        raise UserError(f"the method file {path} holds two methods, {names}; a file holds one")
    node, aliases = found[0], _aliases(tree)
    declared: dict[str, Any] = {}
    settings = []
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        where = f"{path.name}, line {statement.lineno}"
        if "ClassVar" in ast.unparse(statement.annotation):
            if statement.target.id in DECLARATIONS and statement.value is not None:
                declared[statement.target.id] = _literal(statement.value, where)
        elif not statement.target.id.startswith("_"):
            settings.append(_setting(statement, aliases, where))
    lines = (ast.get_docstring(node) or "").strip().splitlines()
    for name in LISTS:
        if name in declared:
            declared[name] = (declared[name],) if isinstance(declared[name], str) else tuple(declared[name])
    return MethodHeader(
        question=question,
        name=path.stem,
        path=path,
        module=module,
        class_name=node.name,
        summary=lines[0] if lines else "",
        settings=tuple(settings),
        package=package,
        **declared,
    )


def _is_method(node: ast.ClassDef, verb: str) -> bool:
    if node.name.startswith("_"):
        return False
    frozen = any(
        isinstance(decorator, ast.Call)
        and ast.unparse(decorator.func) in ("dataclass", "dataclasses.dataclass")
        and any(
            keyword.arg == "frozen" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            for keyword in decorator.keywords
        )
        for decorator in node.decorator_list
    )
    return frozen and any(isinstance(statement, ast.FunctionDef) and statement.name == verb for statement in node.body)


def _aliases(tree: ast.Module) -> dict[str, ast.expr]:
    """The file's own names for annotations and literals: ``Apply = Literal["subset", "copies"]``."""
    return {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    }


def _setting(statement: ast.AnnAssign, aliases: Aliases, where: str) -> SettingHeader:
    assert isinstance(statement.target, ast.Name)
    name, annotation = statement.target.id, ast.unparse(statement.annotation)
    kind = annotation_type(statement.annotation, aliases, where)
    value = statement.value
    if value is None:
        return SettingHeader(name, annotation, kind, required=True)
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "setting":
        return _setting_call(name, annotation, kind, value, aliases, where)
    if isinstance(value, ast.Call):
        raise UserError(
            f'{where}: the default of "{name}" must be a literal or setting(...), so that it can be read statically'
        )
    return SettingHeader(name, annotation, kind, default=_literal(value, where, aliases))


def _setting_call(name: str, annotation: str, kind: Any, call: ast.Call, aliases: Aliases, where: str) -> SettingHeader:
    given = dict(zip(("default", "help"), call.args)) | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    factory = given.pop("factory", None)
    if factory is not None and ast.unparse(factory) not in FACTORIES:
        raise UserError(f'{where}: the factory of "{name}" must be one of {", ".join(FACTORIES)}')
    values = {key: _literal(value, where, aliases) for key, value in given.items()}
    default = values.get("default")
    return SettingHeader(
        name,
        annotation,
        kind,
        default=default if factory is None else FACTORIES[ast.unparse(factory)](default),
        help=values.get("help", ""),
        origin=values.get("origin", ""),
        bounds={bound: values[bound] for bound in BOUNDS if values.get(bound) is not None},
    )


def _literal(node: ast.expr, where: str, aliases: Aliases | None = None) -> Any:
    if isinstance(node, ast.Name) and aliases and node.id in aliases:
        return _literal(aliases[node.id], where)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise UserError(
            f"{where}: {ast.unparse(node)} is not a literal, and a method's header must be readable as such"
        ) from None


def annotation_type(node: ast.expr, aliases: Aliases, where: str) -> Any:
    """The type an annotation means, without running it: scalars, ``Literal``, list, dict, tuple, unions and
    the file's own aliases for these."""
    match node:
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=str(text)):
            return annotation_type(ast.parse(text, mode="eval").body, aliases, where)
        case ast.Constant(value=types.EllipsisType()):
            return ...
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in TYPES:
            return TYPES[name]
        case ast.Name(id=name) if name in aliases:
            rest = {key: value for key, value in aliases.items() if key != name}
            return annotation_type(aliases[name], rest, where)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[annotation_type(left, aliases, where), annotation_type(right, aliases, where)]  # noqa: UP007
        case ast.Subscript(value=base, slice=inside):
            return _subscript(base, inside, aliases, where)
    raise UserError(
        f"{where}: the annotation {ast.unparse(node)} is none a recipe can hold; use int, float, str, bool, None, list, dict, "
        "tuple, Literal or Any"
    )


def _subscript(base: ast.expr, inside: ast.expr, aliases: Aliases, where: str) -> Any:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    word = base.attr if isinstance(base, ast.Attribute) else ast.unparse(base)
    if word == "Literal":
        return Literal[tuple(_literal(part, where) for part in parts)]
    arguments = tuple(annotation_type(part, aliases, where) for part in parts)
    if word == "Optional":
        return Union[arguments[0], None]  # noqa: UP007 - the type of an annotation written so
    if word == "Union":
        return Union[arguments]  # noqa: UP007 - the type of an annotation written so
    return annotation_type(base, aliases, where)[arguments if len(arguments) > 1 else arguments[0]]


def locate(module: str) -> Path | None:
    """A module's source file, found without importing it or the packages it lies in."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    full = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        full = f"{full}.{part}"
        spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
