"""Checks what was read from YAML against type annotations; every refusal is one sentence led by the path of the key.

The walk over mappings, lists and unions is ours, because it knows which key it stands on and can suggest the nearest
spelling; scalars are judged by pydantic in strict mode (no number from text, no number from a boolean, a float from an
integer), infinities and NaN refused.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ftft.errors import UserError, did_you_mean

BOUND_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
NUMBER_TEXT = re.compile(r"([-+]?)(\d[\d_]*\.?\d*|\.\d+)(?:[eE]([-+]?)(\d+))?")
SCALAR_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def check(value: Any, kind: Any, where: str, bounds: Mapping[str, float] | None = None) -> Any:
    """``value`` as an instance of the annotation ``kind`` (dataclasses built, lists copied, integers widened to floats).

    ``where`` is the path of the key (``stages.main.train.epochs``); ``bounds`` (ge, gt, le, lt) holds for numbers,
    in lists too. Raises UserError.
    """
    if kind is Any:
        return value
    if is_union(kind):
        return _check_union(value, kind, where, bounds or {})
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _check_dataclass(value, kind, where)
    origin = get_origin(kind) or kind
    if origin is Literal:
        return _check_literal(value, kind, where)
    if origin is dict:
        return _check_dict(value, kind, where, bounds or {})
    if origin in (list, tuple):
        return _check_sequence(value, kind, where, bounds or {})
    return _check_scalar(value, kind, where, bounds or {})


def check_keys(given: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Refuse the first key that is not known, with the nearest right spelling."""
    known = list(known)
    for key in given:
        if key not in known:
            raise UserError(f'{join(where, str(key))}: there is no setting "{key}"{did_you_mean(str(key), known)}')


def join(where: str, key: str | int) -> str:
    """The path of a key inside ``where``; the path of the whole recipe is empty."""
    return f"{where}.{key}" if where else str(key)


def is_union(kind: Any) -> bool:
    """Whether the annotation is ``A | B`` or ``Optional[A]``."""
    return get_origin(kind) in (Union, types.UnionType)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The resolved annotations of a dataclass's fields, in order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def required(field: dataclasses.Field[Any]) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def describe(kind: Any) -> str:
    """An annotation in words: ``float | None`` is "a number or null"."""
    if is_union(kind):
        return " or ".join(dict.fromkeys(describe(option) for option in get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return ("" if len(arguments) == 1 else "one of ") + ", ".join(show(option) for option in arguments)
    if origin is dict:
        return "a mapping"
    if origin in (list, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        plural = {"a whole number": "whole numbers", "a number": "numbers", "a mapping": "mappings"}
        of = f" of {plural.get(describe(inner[0]), describe(inner[0]))}" if len(inner) == 1 and inner[0] is not Any else ""
        return f"a list{of}"
    return SCALAR_WORDS.get(kind, "a value")


def show(value: Any) -> str:
    """A value as it would stand in YAML, short."""
    if isinstance(value, str):
        value = value.replace("\n", "\\n")
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def within_bounds(value: Any, bounds: Mapping[str, float], where: str) -> None:
    """Refuse a number outside its bounds; anything else passes."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not all(_compare(value, name, bound) for name, bound in bounds.items()):
        wanted = " and ".join(f"{BOUND_WORDS[name]} {show(bound)}" for name, bound in bounds.items())
        raise UserError(f"{where}: {show(value)} is out of range; it must be {wanted}")


def _compare(value: float, name: str, bound: float) -> bool:
    return {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[name]


def _wrong(value: Any, kind: Any, where: str) -> UserError:
    kinds = {"bool": " (a boolean)", "str": " (text)"}
    found = f"{show(value)}{kinds.get(type(value).__name__, '')}"
    return UserError(f"{where}: expected {describe(kind)}, found {found}{_hint(value, kind)}")


def _hint(value: Any, kind: Any) -> str:
    options = set(get_args(kind)) if is_union(kind) else {kind}
    if isinstance(value, str) and options & {int, float}:
        return _number_hint(value, whole=float not in options)
    if isinstance(value, bool) and str in options:
        return "; YAML reads yes, no, on and off as booleans, so put quotes around the word"
    if isinstance(value, (int, float)) and not isinstance(value, bool) and str in options:
        return f'; put quotes around it: "{value}"'
    if value is None:
        return "; nothing stands after the colon, so fill it in or leave the key out"
    return ""


def _number_hint(text: str, *, whole: bool) -> str:
    found = NUMBER_TEXT.fullmatch(text.strip())
    if found is None:
        return ""
    sign, mantissa, exponent_sign, exponent = found.groups()
    if exponent is None:
        return f"; write {text.strip()} without quotes"
    if whole:
        number = float(text.replace("_", "")) if int(exponent) < 300 else 0.5
        return f"; write {int(number)}" if number.is_integer() else ""
    mantissa = f"0{mantissa}" if mantissa.startswith(".") else mantissa
    mantissa = mantissa if "." in mantissa else f"{mantissa}."
    mantissa = f"{mantissa}0" if mantissa.endswith(".") else mantissa
    right = f"{sign}{mantissa}e{exponent_sign or '+'}{exponent}"
    return f"; YAML 1.1 takes a number for text unless it has a dot and a signed exponent, so write {right}"


def _check_union(value: Any, kind: Any, where: str, bounds: Mapping[str, float]) -> Any:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    if Any in options:
        return value
    if isinstance(value, Mapping):
        fitting = [option for option in options if dataclasses.is_dataclass(option) or (get_origin(option) or option) is dict]
    elif isinstance(value, list):
        fitting = [option for option in options if (get_origin(option) or option) in (list, tuple)]
    else:
        return _check_scalars(value, options, kind, where, bounds)
    if not fitting:
        raise _wrong(value, kind, where)
    return check(value, fitting[0], where, bounds)


def _check_scalars(value: Any, options: tuple[Any, ...], kind: Any, where: str, bounds: Mapping[str, float]) -> Any:
    """A scalar against the scalar members of a union; words of a Literal get their own "did you mean"."""
    literals = [option for option in options if get_origin(option) is Literal]
    scalars = [option for option in options if option in SCALAR_WORDS]
    for option in literals:
        if any(type(value) is type(allowed) and value == allowed for allowed in get_args(option)):
            return value
    if literals and isinstance(value, str) and str not in scalars:
        return _check_literal(value, literals[0], where)
    if not scalars:
        raise _wrong(value, kind, where)
    return _check_scalar(value, functools.reduce(operator.or_, scalars), where, bounds, described=kind)


def _check_dataclass(value: Any, cls: type, where: str) -> Any:
    if not isinstance(value, Mapping):
        names = ", ".join(field_types(cls))
        raise UserError(f"{where or 'the recipe'}: expected a mapping with keys such as {names}, found {show(value)}")
    kinds = field_types(cls)
    check_keys(value, kinds, where)
    settings = {}
    for field in dataclasses.fields(cls):
        path = join(where, field.name)
        if field.name in value:
            settings[field.name] = check(value[field.name], kinds[field.name], path, field.metadata.get("bounds"))
        elif required(field):
            raise UserError(f"{path} is missing; it must be {describe(kinds[field.name])}")
    return cls(**settings)


def _check_literal(value: Any, kind: Any, where: str) -> Any:
    options = get_args(kind)
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    if isinstance(value, str) and all(isinstance(option, str) for option in options):
        raise UserError(f'{where}: there is no "{value}"{did_you_mean(value, options)}')
    raise _wrong(value, kind, where)


def _check_dict(value: Any, kind: Any, where: str, bounds: Mapping[str, float]) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(value, kind, where)
    arguments = get_args(kind) or (Any, Any)
    return {
        check(key, arguments[0], join(where, str(key))): check(inner, arguments[1], join(where, str(key)), bounds)
        for key, inner in value.items()
    }


def _check_sequence(value: Any, kind: Any, where: str, bounds: Mapping[str, float]) -> Any:
    if not isinstance(value, (list, tuple)):
        hint = "; put it in square brackets" if isinstance(value, (str, int, float)) else ""
        raise UserError(f"{_wrong(value, kind, where)}{hint}")
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise UserError(f"{where}: expected a list of {len(arguments)}, found one of {len(value)}")
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    made = [check(inner, one, join(where, index), bounds) for index, (inner, one) in enumerate(zip(value, kinds))]
    return tuple(made) if origin is tuple else made


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _check_scalar(value: Any, kind: Any, where: str, bounds: Mapping[str, float], described: Any = None) -> Any:
    from pydantic import ValidationError

    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, found {value}")
    try:
        checked = _adapter(kind).validate_python(value)
    except ValidationError:
        raise _wrong(value, described or kind, where) from None
    within_bounds(checked, bounds, where)
    return checked


def plain(value: Any) -> Any:
    """Dataclasses as mappings and tuples as lists, all the way down: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
