"""Example ids: the user's column, or a hash of the row's content; unique either way.

A content hash is the first 16 hexadecimal digits of the SHA-256 of the input columns (not of the label, so that
correcting a label keeps the id). Rows of equal content are told apart by ``-1``, ``-2``, ... in file order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.hashing import content_hashes, hex_strings
from ftft.errors import UserError

Where = Callable[[int], str]  # a row's position -> "train.jsonl, line 17"


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
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
