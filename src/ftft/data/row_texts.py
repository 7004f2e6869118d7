"""The texts and labels of rows by their ids, for showing them beside what was recorded about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ftft.data.ids import ID_NAMES, content_ids
from ftft.data.reading import records_of
from ftft.data.sniffing import LABEL_NAMES, guess_texts
from ftft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class RowTexts:
    """``columns``: the names of the text columns. By id, ``texts`` (one per column) and, where the file has labels,
    ``labels``, as they stand in it."""

    columns: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]


def read_row_texts(
    path: Path, wanted: pa.Array, *, text: Sequence[str] = (), id_column: str | None = None, label: str | None = None
) -> RowTexts:
    """The rows of a data file whose id is ``wanted`` (strings), columns guessed where none are named.

    The ids are those of ``id_column``; without one, whatever matches most of the wanted ones: a usual column of ids, the
    content's hash, ``row-<position>`` or the position. Raises UserError where a column is missing or nothing matches.
    """
    rows = [record for _, record in records_of(path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in (*text, *(one for one in (id_column, label) if one is not None)):
        if name not in names:
            raise UserError(f'{path} has no column "{name}"{did_you_mean(name, names)}')
    columns = tuple(text) or guess_texts(path)
    texts = [tuple("" if row.get(name) is None else str(row[name]) for name in columns) for row in rows]
    known = set(wanted.to_pylist())
    best, most = None, 0
    for ids in _candidates(rows, names, texts, id_column):
        matched = sum(one in known for one in dict.fromkeys(ids))
        if matched > most:
            best, most = ids, matched
    if best is None:
        by = f"in the column {id_column}" if id_column else "whatever they are taken from; name the column of ids with --id"
        raise UserError(f"none of the {len(known)} examples is among the rows of {path}, {by}")
    at = {one: row for row, one in enumerate(best) if one in known}
    column = label or next((name for usual in LABEL_NAMES for name in names if name.casefold() == usual), None)
    labels = {one: rows[row].get(column) for one, row in at.items()} if column else {}
    return RowTexts(
        columns,
        {one: texts[row] for one, row in at.items()},
        {one: str(value) for one, value in labels.items() if value is not None},
    )


def _candidates(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], texts: Sequence[tuple[str, ...]], id_column: str | None
) -> Iterator[list[str]]:
    """Every row's id, by one column after the other that may hold ids, then as the recorders make them."""
    if id_column is not None:
        yield [str(row.get(id_column)) for row in rows]
        return
    for name in names:
        if name.casefold() in ID_NAMES or name.casefold().endswith("id"):
            yield [str(row.get(name)) for row in rows]
    yield content_ids([pa.array(column, pa.large_string()) for column in zip(*texts)]).to_pylist()
    yield [f"row-{row}" for row in range(len(rows))]
    yield [str(row) for row in range(len(rows))]


def names_of_classes(gold: Mapping[str, int], labels: Mapping[str, str]) -> dict[int, str]:
    """What the rows' ``labels`` call each class of ``gold`` (by id): where all rows of a class agree and no two classes do."""
    found: dict[int, set[str]] = {}
    for one, code in gold.items():
        if one in labels:
            found.setdefault(code, set()).add(labels[one])
    agreed = {code: next(iter(names)) for code, names in found.items() if len(names) == 1}
    return agreed if len(set(agreed.values())) == len(agreed) else {}
