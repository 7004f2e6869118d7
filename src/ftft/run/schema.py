"""The recipe's JSON Schema (draft 2020-12), for editors that complete and check YAML while it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from ftft.methods.header import MethodHeader, SettingHeader
from ftft.methods.questions import ASKED
from ftft.methods.registry import list_methods, list_tasks
from ftft.run.reading import SECTIONS
from ftft.run.recipe import Recipe, Stage
from ftft.validation import field_types, is_union, plain, required

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file, with every installed method's settings, defaults and help texts."""
    definitions: dict[str, Any] = {}
    root = _dataclass_schema(Recipe, definitions)
    return {"$schema": DRAFT, "title": "ftft recipe", **root, "$defs": definitions}


def type_schema(kind: Any, definitions: dict[str, Any], bounds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The schema of an annotation; dataclasses go to ``definitions`` and are referred to."""
    if kind is Any:
        return {}
    if is_union(kind):
        return _union_schema(get_args(kind), definitions, bounds)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # the name is taken before the walk, for classes that hold one another
            definitions[kind.__name__] = _dataclass_schema(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        inner = type_schema(arguments[1], definitions, bounds) if arguments else {}
        return {"type": "object", "additionalProperties": inner or True}
    if origin in (list, tuple):
        return _sequence_schema(origin, arguments, definitions, bounds)
    limits = {BOUNDS[name]: bound for name, bound in (bounds or {}).items()} if kind in (int, float) else {}
    return {"type": SCALARS[kind], **limits}


def _union_schema(options: tuple[Any, ...], definitions: dict[str, Any], bounds: Mapping[str, float] | None) -> dict[str, Any]:
    schemas = [type_schema(option, definitions, bounds) for option in options]
    if {} in schemas:
        return {}
    return {"anyOf": schemas}


def _sequence_schema(
    origin: Any, arguments: tuple[Any, ...], definitions: dict[str, Any], bounds: Mapping[str, float] | None
) -> dict[str, Any]:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        parts = [type_schema(argument, definitions, bounds) for argument in arguments]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    return {"type": "array", **({"items": type_schema(arguments[0], definitions, bounds)} if arguments else {})}


def _dataclass_schema(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for field in dataclasses.fields(cls):
        if cls is Stage and field.name in SECTIONS:
            schema: dict[str, Any] = {"$ref": f"#/$defs/{field.name}"}
            definitions[field.name] = section_schema(field.name, definitions)
            if is_union(kind := field_types(Stage)[field.name]):  # one section or a list of them, or none
                several = (
                    {"type": "null"} if type(None) in get_args(kind) else {"type": "array", "items": schema, "minItems": 1}
                )
                schema = {"anyOf": [schema, several]}
        elif cls is Recipe and field.name == "task":
            schema = {"$ref": "#/$defs/task"}
            definitions["task"] = _section_schema(list_tasks(), "What kind of data and model is it?", definitions)
        else:
            schema = type_schema(field_types(cls)[field.name], definitions, field.metadata.get("bounds"))
        properties[field.name] = {**schema, **_notes(field)}
    needed = [field.name for field in dataclasses.fields(cls) if required(field)]
    return {
        "type": "object",
        "description": (cls.__doc__ or "").strip().partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _notes(field: dataclasses.Field[Any]) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if field.metadata.get("help"):
        notes["description"] = field.metadata["help"]
    if field.default is not dataclasses.MISSING:
        notes["default"] = plain(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        notes["default"] = plain(field.default_factory())
    return notes


def section_schema(question: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A method section: the bare name of a method whose settings all have defaults, or one method with its settings."""
    return _section_schema(list_methods(question), ASKED[question], definitions)


def _section_schema(methods: Sequence[MethodHeader], asked: str, definitions: dict[str, Any]) -> dict[str, Any]:
    bare = [method.name for method in methods if not any(setting.required for setting in method.settings)]
    forms = ([{"enum": bare}] if bare else []) + [_method_schema(method, definitions) for method in methods]
    return {"description": asked, **({"oneOf": forms} if forms else {"not": {}})}


def _method_schema(method: MethodHeader, definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "title": method.name,
        "description": method.summary,
        "properties": {
            "name": {"const": method.name},
            **{setting.name: _setting_schema(setting, definitions) for setting in method.settings},
        },
        "required": ["name", *(setting.name for setting in method.settings if setting.required)],
        "additionalProperties": False,
    }


def _setting_schema(setting: SettingHeader, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = type_schema(setting.kind, definitions, setting.bounds)
    if setting.words:
        schema = _with_words(schema, setting.words)
    note = f"{setting.help} (default from {setting.origin})" if setting.origin else setting.help
    described = {"description": note} if note else {}
    return {**schema, **described, **({} if setting.required else {"default": plain(setting.default)})}


def _with_words(schema: Any, words: Sequence[str]) -> Any:
    """The schema with every text in it narrowed to ``words``."""
    if schema == {"type": "string"}:
        return {"enum": list(words)}
    if isinstance(schema, Mapping):
        return {key: _with_words(inner, words) for key, inner in schema.items()}
    return [_with_words(inner, words) for inner in schema] if isinstance(schema, list) else schema
