"""A number for every id that depends on the id and a seed alone: what makes a random score the same in any row order, and
the search for equal ids among millions of rows quick."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_GOLDEN = 0x9E3779B97F4A7C15
_ROWS_AT_ONCE = 1 << 15  # few enough for the processor's cache
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)  # masks of 0 to 8 bytes


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit; uint64 [n]."""
    x = x + np.uint64(_GOLDEN)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def uniform_of_ids(ids: pa.Array, seed: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [N], of N strings: the hash's upper 53 bits."""
    return (hash_of_ids(ids, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_of_ids(ids: pa.Array, seed: int = 0) -> np.ndarray:
    """A hash, uint64 [N], of the UTF-8 bytes of N strings under the seed; not cryptographic."""
    ids = ids.cast(pa.large_binary())
    offsets = np.frombuffer(ids.buffers()[1], dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    data = np.frombuffer(ids.buffers()[2] or b"", dtype=np.uint8)
    if len(data) < 8:
        data = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    # A word of 8 bytes may begin at any byte.
    words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    out = np.empty(len(ids), dtype=np.uint64)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = offsets[start : start + _ROWS_AT_ONCE + 1]
        out[start : start + _ROWS_AT_ONCE] = _hash(words, part[:-1], np.diff(part), seed)
    return out


def _hash(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """Fold every string's words of 8 bytes, the last one filled up with zeros, into its state."""
    state = _mix(lengths.astype(np.uint64) ^ np.uint64((seed * _GOLDEN) % 2**64))
    longer: np.ndarray | slice = slice(None)  # the strings that have an index-th word
    for index in range(-(-int(lengths.max()) // 8)):
        if isinstance(longer, np.ndarray) or int(lengths.min()) <= 8 * index:
            longer = np.flatnonzero(lengths > 8 * index) if isinstance(longer, slice) else longer[lengths[longer] > 8 * index]
        position = starts[longer] + 8 * index
        # Near the end of all data the word is read a little earlier and shifted into place.
        readable = np.minimum(position, len(words) - 1)
        word = words[readable] >> ((position - readable) * 8).astype(np.uint64)
        word &= _FIRST_BYTES[np.minimum(lengths[longer] - 8 * index, 8)]
        state[longer] = _mix(state[longer] ^ word)
    return _mix(state)
