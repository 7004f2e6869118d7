"""Columns of chats: every row a list of turns ``{role, content}``, kept as one canonical JSON text.

As a text a chat has an id and a hash like any other input, and two equal chats are equal whatever the file they come from:
values that are null are left out at every level, for a Parquet file has all of a struct's fields in every row. Only in what a
turn has beside role and content (``tool_calls``) the order of keys is kept, since a chat template may write it as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ftft.data.ids import Where
from ftft.errors import UserError, did_you_mean

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(column: pa.ChunkedArray, name: str, source: str, where: Where) -> pa.Array:
    """The chats as large strings of JSON (role first, then content, then what else a turn has, by name); a column of texts is
    read as JSON. UserError with the row for what is no chat, or has no turn of the assistant."""
    chats: list[str] = []
    for chunk in column.chunks:
        for value in chunk.to_pylist():
            chats.append(_canonical(value, f'{where(len(chats))}: the messages column "{name}"'))
    return pa.array(chats, pa.large_string())


def messages_of(text: str) -> list[dict[str, Any]]:
    """The turns of a chat as :func:`read_messages` keeps it."""
    found: list[dict[str, Any]] = json.loads(text)
    return found


def text_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """The one text that stands for the turns of a chat, whose keys are in their order already."""
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":"))


def _canonical(value: Any, what: str) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f"{what} holds a text that is no JSON; it takes a list of {{role, content}}") from None
        except RecursionError:
            raise UserError(f"{what} is nested too deeply to be read; it takes a list of {{role, content}}") from None
    if not isinstance(value, list) or not value:
        raise UserError(f"{what} holds no list of turns; it takes a list of {{role, content}}")
    try:
        turns = [_turn(one, f"{what}, turn {place}") for place, one in enumerate(value, start=1)]
    except RecursionError:
        raise UserError(f"{what} is nested too deeply to be read; it takes a list of {{role, content}}") from None
    if not any(turn["role"] == "assistant" for turn in turns):
        raise UserError(f"{what} has no turn of the assistant to learn from; leave the row out, or give it one")
    try:
        text = text_of(turns)
        text.encode("utf-8")
    except TypeError as error:
        raise UserError(f"{what} has a value that JSON cannot hold ({error}); give it as text, or leave it out") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{what} has a text that is no Unicode ({error.reason}); mend it, or leave the row out") from None
    return text


def _turn(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what}, is no {{role, content}} but {type(value).__name__}")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise UserError(f'{what}, has the role "{role}"{did_you_mean(str(role), ROLES)}')
    if not isinstance(content, str):
        raise UserError(f"{what}, has a content that is not text; only chats of text are read")
    more = {key: _without_nulls(value[key]) for key in sorted(value) if key not in ("role", "content")}
    return {"role": role, "content": content, **{key: one for key, one in more.items() if one is not None}}


def _without_nulls(value: Any) -> Any:
    """The value without the keys whose values are null, at every level."""
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
