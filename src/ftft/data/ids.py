"""Example ids: the user's column, or a hash of the row's content; unique either way.

A content hash is the first 16 hexadecimal digits of the SHA-256 of the input columns (not of the label, so that
correcting a label keeps the id). Rows of equal content are told apart by ``-1``, ``-2``, ... in file order.

Where nobody names the column, :func:`find_id_column` does: one rule for `ftft init`, `ftft score` and the recorder, so that
what they write about one file can be joined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.hashing import content_hashes, hex_strings
from ftft.data.reading import read_table, records_of
from ftft.data.settings import Columns, DataFile
from ftft.errors import UserError
from ftft.paths import expand

Where = Callable[[int], str]  # a row's position -> "train.jsonl, line 17"
# The usual names, in the order in which they are taken; "" is what pandas calls the index it writes into a CSV file.
ID_NAMES = ("id", "guid", "uid", "idx", "example_id", "index", "uuid", "pairid", "pair_id", "row_id", "")


def find_id_column(names: Iterable[str], column: Callable[[str], pa.ChunkedArray | None]) -> str | None:
    """The column that identifies the rows: the first of ``ID_NAMES`` in any case, else the first whose name ends in "id",
    that holds a string or an integer in every row and none twice; None where there is none.

    ``column`` gives the values of one of the ``names`` (None where they cannot be had); only likely ones are asked for.
    """
    known = list(dict.fromkeys(names))
    likely = [name for usual in ID_NAMES for name in known if name.casefold() == usual]
    likely += [name for name in known if name.casefold().endswith("id") and name not in likely]
    for name in likely:
        values = column(name)
        if values is not None and can_identify(values):
            return name
    return None


def can_identify(column: pa.ChunkedArray) -> bool:
    """Whether every row has a string or an integer of its own in the column."""
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if column.null_count or not (text or pa.types.is_integer(kind)):
        return False
    if text and len(column) and pc.min(pc.binary_length(column.cast(pa.large_string()))).as_py() == 0:
        return False
    return pc.count_distinct(column).as_py() == len(column)


def id_column_of(file: DataFile, columns: Columns) -> str | None:
    """The column of a data file that :func:`find_id_column` takes, of those that ``columns`` uses for nothing else."""
    first = next(iter(islice(records_of(expand(file.path or "", "path"), header=file.header, given=file.format), 1)), None)
    used = {*columns.text, columns.label}

    def values(name: str) -> pa.ChunkedArray | None:
        # What is wrong with the file as a whole is said when it is read for its texts.
        with contextlib.suppress(UserError):
            return read_table(file, [name]).column(name)
        return None

    return find_id_column([] if first is None else [name for name in first[1] if name not in used], values)


def column_ids(column: pa.ChunkedArray, name: str, where: Where) -> pa.Array:
    """The ids of an id column as N strings; integers become their decimal digits.

    Raises UserError for another type, and for a null or empty id with its row. Uniqueness is :func:`require_unique`'s.
    """
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise UserError(f'{where(row)}: the id column "{name}" is null; every row needs an id of its own, or leave `id` out')
    kind = column.type
    if pa.types.is_integer(kind):
        return joined(column.cast(pa.string()))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f'{where(0)}: the id column "{name}" holds {kind} values; ids must be strings or integers')
    ids = joined(column.cast(pa.large_string()))
    if len(ids) and pc.min(pc.binary_length(ids)).as_py() == 0:
        row = int(np.argmax(pc.equal(ids, "").to_numpy(zero_copy_only=False)))
        raise UserError(f'{where(row)}: the id column "{name}" is empty; every row needs an id of its own, or leave `id` out')
    return ids if ids.nbytes > 2**31 - 1 else ids.cast(pa.string())


def content_ids(inputs: Sequence[pa.Array]) -> pa.Array:
    """An id for each row from its input columns (each N strings), equal rows told apart in order; linear in N."""
    hashes = content_hashes(inputs)
    ids = hex_strings(hashes)
    encoded = pa.array(hashes).dictionary_encode()
    if len(encoded.dictionary) == len(hashes):
        return ids
    codes = encoded.indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(codes)[codes] > 1)
    counts: dict[int, int] = {}
    suffixes = []
    for code in codes[repeated].tolist():
        counts[code] = counts.get(code, -1) + 1
        suffixes.append(f"-{counts[code]}" if counts[code] else "")
    mask = np.zeros(len(hashes), dtype=bool)
    mask[repeated] = True
    told_apart = pc.binary_join_element_wise(
        ids.take(pa.array(repeated)), pa.array(suffixes, ids.type), pa.scalar("", ids.type)
    )
    return pc.replace_with_mask(ids, pa.array(mask), told_apart)


def require_unique(ids: pa.Array, where: Where) -> None:
    """UserError naming the first id that occurs twice and both its rows; linear in N."""
    encoded = ids.dictionary_encode()
    if len(encoded.dictionary) == len(ids):
        return
    codes = encoded.indices.to_numpy()
    counts = np.bincount(codes)
    first = int(np.argmax(counts[codes] > 1))
    second = first + 1 + int(np.argmax(codes[first + 1 :] == codes[first]))
    others = int((counts > 1).sum()) - 1
    more = f" (and {others} more like it)" if others else ""
    raise UserError(
        f'the id "{ids[first].as_py()}" occurs twice, at {where(first)} and at {where(second)}{more}; ids must be unique, '
        "or leave the id column out to have them made from the content"
    )


def joined(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array (large strings where 32-bit offsets could not hold them)."""
    if pa.types.is_string(column.type) and column.nbytes > 2**31 - 1:
        column = column.cast(pa.large_string())
    if column.num_chunks == 1:  # Arrow would copy it
        return column.chunk(0)
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
