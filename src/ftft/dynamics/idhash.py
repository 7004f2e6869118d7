"""A number for every id that depends on the id and a seed alone: what makes a random score the same in any row order, and
the search for duplicates among millions of ids quick."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_GOLDEN = 0x9E3779B97F4A7C15
_ROWS_AT_ONCE = 1 << 15  # few enough for the processor's cache


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit; uint64 [n]."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform_of_ids(ids: pa.Array, seed: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [N], of N strings: the hash's upper 53 bits."""
    return (hash_of_ids(ids, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_of_ids(ids: pa.Array, seed: int = 0) -> np.ndarray:
    """A hash, uint64 [N], of the UTF-8 bytes of N strings under the seed; not cryptographic."""
    ids = ids.cast(pa.large_binary())
    offsets = np.frombuffer(ids.buffers()[1], dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    data = np.frombuffer(ids.buffers()[2] or b"", dtype=np.uint8)
    lengths = np.diff(offsets)
    out = np.empty(len(ids), dtype=np.uint64)
    start = 0
    while start < len(ids):
        # One long id must not cost as many passes over thousands of short ones: beside it, few are taken at a time.
        stop = min(start + _ROWS_AT_ONCE, len(ids))
        stop = start + max(1, min(stop - start, 64 * _ROWS_AT_ONCE // max(8, int(lengths[start:stop].max()))))
        out[start:stop] = _hash(data, offsets[start:stop], lengths[start:stop], seed)
        start = stop
    return out


def _hash(data: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    words = -(-int(lengths.max()) // 8)
    state = _mix(lengths.astype(np.uint64) ^ np.uint64((seed * _GOLDEN) % 2**64))
    for word in range(words):
        position = np.arange(8 * word, 8 * word + 8)
        inside = position[None, :] < lengths[:, None]
        # Places beyond an id's end read some byte that the mask then clears.
        at = np.minimum(offsets[:, None] + position[None, :], len(data) - 1)
        chunk = np.where(inside, data[at], 0).astype(np.uint8).view("<u8")[:, 0]
        mixed = _mix(state ^ chunk.astype(np.uint64))
        state = np.where(lengths > 8 * word, mixed, state)
    return _mix(state)
