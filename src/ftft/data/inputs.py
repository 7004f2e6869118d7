"""What a row gives a task to read: the task's input columns, of which kind each is, and which column of a file holds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.ids import Where, joined
from ftft.data.images import read_images
from ftft.data.messages import read_messages
from ftft.data.settings import Columns
from ftft.errors import UserError, did_you_mean

Kind = Literal["text", "image", "messages"]
Layout = Mapping[str, Kind]  # the task's name of an input column -> its kind
Read = Callable[[pa.ChunkedArray, str, str, Where], pa.Array]

MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class TaskInputs:
    """The rows a task can read. ``layouts``: the columns of a row, in one of several ways; where a recipe names none, the
    first is taken of which a file has every column. ``labelled``: whether a row has a class as its label."""

    layouts: tuple[Layout, ...]
    labelled: bool = True

    def columns_of(self, columns: Columns, where: str, present: Callable[[], Collection[str]] = tuple) -> dict[str, str]:
        """The task's name -> the file's column, in the layout's order: what ``columns.inputs`` says, or the columns of
        ``columns.text`` in order; UserError, led by ``where``, for names that make no layout. ``present`` gives the columns
        that the file has, and is asked where nothing is named."""
        if columns.inputs is not None:
            return self._named(columns.inputs, where)
        if not columns.text:
            found = frozenset(present()) if len(self.layouts) > 1 else frozenset()
            layout = next((one for one in self.layouts if one.keys() <= found), self.layouts[0])
            return {name: name for name in layout}
        for layout in self.layouts:
            if len(layout) == len(columns.text) and set(layout.values()) == {"text"}:
                return dict(zip(layout, columns.text))
        raise UserError(f"{where}: columns.text names {len(columns.text)} columns; this task takes {self._said()}")

    def kind(self, name: str) -> Kind:
        """The kind of an input column by the task's name of it."""
        return next(layout[name] for layout in self.layouts if name in layout)

    @property
    def images(self) -> bool:
        """Whether a row may hold an image, so that a folder of them is data."""
        return any("image" in layout.values() for layout in self.layouts)

    def _named(self, given: Mapping[str, str], where: str) -> dict[str, str]:
        known = list(dict.fromkeys(name for layout in self.layouts for name in layout))
        for name in given:
            if name not in known:
                raise UserError(f'{where}: columns.inputs: this task has no input "{name}"{did_you_mean(name, known)}')
        for layout in self.layouts:
            if layout.keys() == given.keys():
                return {name: given[name] for name in layout}
        raise UserError(f"{where}: columns.inputs names {', '.join(given) or 'nothing'}; this task takes {self._said()}")

    def _said(self) -> str:
        return ", or ".join(" and ".join(layout) for layout in self.layouts)


TEXTS = TaskInputs(({"text": "text"}, {"text": "text", "text_pair": "text"}))


def read_input(kind: Kind, column: pa.ChunkedArray, name: str, source: str, where: Where) -> pa.Array:
    """A file's column as an input of that kind, one value for each row; UserError with file and row for what is not."""
    return READERS[kind](column, name, source, where)


def _texts(column: pa.ChunkedArray, name: str, source: str, where: Where) -> pa.Array:
    """The column as large strings; UserError for null, NaN and anything that is not text."""
    kind = column.type
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise UserError(
            f'{where(row)}: the text column "{name}" is null or NaN; write "" for an empty text, or leave the row out'
        )
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(
            f'{source}: the text column "{name}" holds {kind} values, not text; name a column of strings in `columns.text`'
        )
    return joined(column.cast(pa.large_string()))


def refuse_absurd_lengths(values: pa.Array, kind: Kind, name: str, ids: pa.Array | None, where: Where) -> None:
    """UserError for the first text or chat of more than a million characters: such a row is a mistake in the file."""
    if len(values) == 0 or pc.max(pc.binary_length(values)).as_py() <= MAX_CHARACTERS:
        return
    lengths = pc.utf8_length(values).to_numpy(zero_copy_only=False)
    if lengths.max() > MAX_CHARACTERS:
        row = int(np.argmax(lengths > MAX_CHARACTERS))
        which = f"{where(row)} (id {ids[row].as_py() if ids is not None else 'none'})"
        what = f'the {kind} column "{name}" has {lengths[row]:,} characters'
        raise UserError(f"{which}: {what}; at most {MAX_CHARACTERS:,} are taken, so cut it or leave the row out")


READERS: dict[Kind, Read] = {"text": _texts, "image": read_images, "messages": read_messages}


def inputs_named(columns: Columns, named: Mapping[str, str], *, labelled: bool) -> Sequence[str]:
    """The file's columns that a task reads, each once: its inputs as ``named``, label, id, group and cluster."""
    names = [*named.values(), *([columns.label] if labelled else [])]
    names += [name for name in (columns.id, columns.group, columns.cluster) if name is not None]
    return list(dict.fromkeys(names))
