"""Hashes of rows: content, position-free fingerprints of whole sets, and the fraction an id falls on.

A row's fields are framed as netstrings (``b"5:hello"``) and joined, so that no two different rows give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

_BLOCK = 65536
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def utf8_values(array: pa.Array) -> Iterator[bytes]:
    """The bytes of each string (as UTF-8) or binary value of an array without nulls, straight from its buffers (no Python
    strings are made)."""
    narrow = pa.types.is_string(array.type) or pa.types.is_binary(array.type)
    if not (narrow or pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)):
        raise TypeError(f"an array of strings or of binary values is needed, not of {array.type}")
    if len(array) == 0:
        return
    width = np.int32 if narrow else np.int64
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=width)[array.offset : array.offset + len(array) + 1]
    data = memoryview(data_buffer) if data_buffer is not None else memoryview(b"")
    for start in range(0, len(array), _BLOCK):
        bounds = offsets[start : start + _BLOCK + 1].tolist()
        block = bytes(data[bounds[0] : bounds[-1]])
        first = bounds[0]
        for low, high in zip(bounds, bounds[1:]):
            yield block[low - first : high - first]


def framed_rows(columns: Sequence[pa.Array]) -> Iterator[bytes]:
    """Each row's fields as joined netstrings."""
    if len(columns) == 1:
        return (b"%d:%b" % (len(value), value) for value in utf8_values(columns[0]))
    return (
        b"".join([b"%d:%b" % (len(value), value) for value in values])
        for values in zip(*(utf8_values(column) for column in columns))
    )


def content_hashes(columns: Sequence[pa.Array]) -> np.ndarray:
    """The first 8 bytes of the SHA-256 of each row's framed fields, uint64 [N] (big-endian value)."""
    return _digests(framed_rows(columns))


def _digests(rows: Iterator[bytes]) -> np.ndarray:
    joined = bytearray()
    for row in rows:
        joined += hashlib.sha256(row).digest()[:8]
    return np.frombuffer(bytes(joined), dtype=">u8").astype(np.uint64)


def short_hashes(rows: Iterator[bytes]) -> np.ndarray:
    """8-byte BLAKE2b of each row, uint64 [N]: for comparing rows within a run."""
    joined = bytearray()
    for row in rows:
        joined += hashlib.blake2b(row, digest_size=8).digest()
    return np.frombuffer(bytes(joined), dtype="<u8").astype(np.uint64)


def hex_strings(hashes: np.ndarray) -> pa.Array:
    """uint64 [N] as strings of 16 hexadecimal digits."""
    octets = hashes.astype(">u8").view(np.uint8)
    digits = np.empty(2 * len(octets), dtype=np.uint8)
    digits[0::2], digits[1::2] = _HEX[octets >> 4], _HEX[octets & 15]
    offsets = np.arange(len(hashes) + 1, dtype=np.int64) * 16
    array = pa.Array.from_buffers(pa.large_string(), len(hashes), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])
    return array if array.nbytes > 2**31 - 1 else array.cast(pa.string())


def hash_below(ids: pa.Array, fraction: float) -> np.ndarray:
    """bool [N]: whether the id's SHA-256, read as a number in [0, 1) (its first 8 bytes over 2^64), is below ``fraction``.

    An id's side never depends on the other rows, so a set keeps its split when it grows.
    """
    return _digests(utf8_values(ids)) < np.uint64(int(fraction * 2**64))


def lowest_hashes(ids: pa.Array, count: int) -> np.ndarray:
    """int64 [min(count, N)], rising: the rows whose ids' SHA-256 (first 8 bytes) are the lowest, ties in row order.

    A fair sample whatever the order of the rows, and the same one in any order; a larger count only adds rows to it.
    """
    return np.sort(np.argsort(_digests(utf8_values(ids)), kind="stable")[:count])


def fingerprint_examples(ids: pa.Array, inputs: Mapping[str, pa.Array], labels: np.ndarray, label_names: Sequence[str]) -> str:
    """A SHA-256 (64 hexadecimal digits) of ids, inputs and label names that does not depend on the order of the rows.

    Each row is the netstrings of its id, its inputs in the order of their names, and its label's name; the rows'
    SHA-256 are summed modulo 2^256; the result is the SHA-256 of ``ftft-examples-1``, N, the input names and that sum.
    """
    names = sorted(inputs)
    named = list(label_names) or [""]  # rows without classes have the code 0
    label_column = pa.array(named, pa.string()).take(pa.array(np.asarray(labels, dtype=np.int64)))
    total = 0
    for row in framed_rows([ids, *(inputs[name] for name in names), label_column]):
        total += int.from_bytes(hashlib.sha256(row).digest(), "big")
    text = "\n".join(["ftft-examples-1", str(len(ids)), ",".join(names), f"{total % 2**256:064x}"])
    return hashlib.sha256(text.encode()).hexdigest()
