"""Numbers 0, 1, 2 ... for ids in the order in which they first come, over tens of millions of rows in batches.

An open-addressing table (linear probing) from the 64-bit hash of an id to its number, all steps vectorised; the ids of the
numbers found are then compared as strings, so that two ids of one hash are noticed and not taken for one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_EMPTY = np.uint64(0)
_FIRST_SLOTS = 1 << 12


class HashCollision(Exception):
    """Two different ids have the same hash."""


class IdIndex:
    """The ids met so far: their strings, and the table that finds an id's number. Of N ids of B bytes in all it holds
    at most 12 N + 1.5 B bytes of strings and 48 N bytes of table."""

    def __init__(self) -> None:
        self._count = 0
        self._starts = np.zeros(1 << 10, dtype=np.int64)  # of every id in the bytes, and the end of the last one
        self._bytes = np.empty(1 << 14, dtype=np.uint8)
        self._make_slots(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def numbers(self, ids: pa.Array, hashes: np.ndarray) -> np.ndarray:
        """The numbers, int32 [n], of n large strings with their hashes (uint64 [n], of ``idhash.hash_of_ids``); an id that
        was not met before gets the next number. HashCollision where two different ids have the same hash."""
        hashes = hashes | np.uint64(1)  # never the mark of an empty slot
        if 2 * (self._count + len(ids)) > len(self._hashes):
            self._grow(2 * (self._count + len(ids)))
        slots = self._find(hashes)
        numbers = self._numbers[slots]
        new = np.flatnonzero(numbers < 0)
        if len(new):
            numbers[new], first = self._insert(hashes[new], slots[new])
            self._append(ids.take(pa.array(new[first])))
        if not self.strings().take(pa.array(numbers)).equals(ids):
            raise HashCollision
        return numbers

    def strings(self) -> pa.Array:
        """All ids met, large strings in the order of their numbers. Valid until the next call of ``numbers``."""
        buffers = [None, pa.py_buffer(self._starts), pa.py_buffer(self._bytes)]
        return pa.Array.from_buffers(pa.large_string(), self._count, buffers)

    def _make_slots(self, count: int) -> None:
        """``count``, a power of two, empty slots; a hash's slot is given by its upper bits."""
        self._hashes = np.full(count, _EMPTY, dtype=np.uint64)
        self._numbers = np.full(count, -1, dtype=np.int32)
        self._shift = np.uint64(64 - count.bit_length() + 1)

    def _grow(self, least: int) -> None:
        used = np.flatnonzero(self._numbers >= 0)
        hashes, numbers = self._hashes[used], self._numbers[used]
        self._make_slots(1 << (least - 1).bit_length())
        self._numbers[self._claim(hashes, self._home(hashes))] = numbers

    def _home(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> self._shift).astype(np.int64)

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        """Every hash's slot, int64 [n], or the empty slot at which the search for it ends."""
        slots = self._home(hashes)
        found = self._hashes[slots]
        left = np.flatnonzero((found != hashes) & (found != _EMPTY))
        while len(left):
            slots[left] = (slots[left] + 1) & (len(self._hashes) - 1)
            found = self._hashes[slots[left]]
            left = left[(found != hashes[left]) & (found != _EMPTY)]
        return slots

    def _claim(self, hashes: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Write hashes (some may be equal) into the table, each at or after its slot; gives the slots they have."""
        slots = slots.copy()
        left = np.arange(len(hashes))
        while len(left):
            free = left[self._hashes[slots[left]] == _EMPTY]
            self._hashes[slots[free]] = hashes[free]  # of several at one slot, one is written; the others move on
            left = left[self._hashes[slots[left]] != hashes[left]]
            slots[left] = (slots[left] + 1) & (len(self._hashes) - 1)
        return slots

    def _insert(self, hashes: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number new hashes, of which some may be equal: their numbers, and which of them come first (bool)."""
        slots = self._claim(hashes, slots)
        place = np.arange(len(hashes), dtype=np.int32)
        self._numbers[slots] = len(hashes)
        np.minimum.at(self._numbers, slots, place)
        first_place = self._numbers[slots]
        first = first_place == place
        numbers = (self._count - 1 + np.cumsum(first, dtype=np.int64)).astype(np.int32)[first_place]
        self._numbers[slots] = numbers
        return numbers, first

    def _append(self, ids: pa.Array) -> None:
        _, offsets, data = ids.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
        start, size = int(self._starts[self._count]), int(ends[-1] - ends[0])
        stop = self._count + len(ids)
        self._starts = _with_room(self._starts, stop + 1)
        self._bytes = _with_room(self._bytes, start + size)
        self._starts[self._count + 1 : stop + 1] = ends[1:] - ends[0] + start
        if size:
            self._bytes[start : start + size] = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
        self._count = stop


def _with_room(values: np.ndarray, size: int) -> np.ndarray:
    """``values``, in an array of at least ``size``; a longer one is made half as long again, so that few are made."""
    if size <= len(values):
        return values
    out = np.empty(max(size, len(values) * 3 // 2), dtype=values.dtype)
    out[: len(values)] = values
    return out
