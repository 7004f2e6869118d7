"""Rows of the training set that an evaluation set holds too, exactly or after normalisation.

Normalised: Unicode compatibility composition (NFKC) and case folding, then letters, marks and digits only, of each input
column, joined with a separator. A row with nothing left (":-)") is compared as it stands. Of an image the pixels count, not
how they were encoded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.hashing import framed_rows, short_hashes, utf8_values
from ftft.data.images import shown

_SEPARATOR = b"\x1f"
_ASCII_DROPPED = bytes(code for code in range(128) if not chr(code).isalnum())


@dataclass(frozen=True)
class Overlap:
    """What an evaluation set shares with the training set.

    ``exact``, ``normalised``: evaluation examples whose inputs equal a training example's, as they stand, and after
    normalisation (includes the exact ones). ``train_rows``: int64, the positions of the training examples whose
    normalised inputs are in the evaluation set, ascending.
    """

    exact: int
    normalised: int
    train_rows: np.ndarray


class Normaliser:
    """Normalises UTF-8 text; remembers which characters are kept."""

    def __init__(self) -> None:
        self._table = _KeptCharacters()

    def __call__(self, text: bytes) -> bytes:
        if text.isascii():
            return text.lower().translate(None, _ASCII_DROPPED)
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.decode()).casefold())
        return folded.translate(self._table).encode()


class _KeptCharacters(dict[int, int | None]):
    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


def normalised_keys(inputs: Mapping[str, pa.Array]) -> np.ndarray:
    """A 64-bit hash of each row's normalised inputs, uint64 [N]; linear in the text."""
    return short_hashes(_normalised_rows(inputs))


def _normalised_rows(inputs: Mapping[str, pa.Array]) -> Iterator[bytes]:
    texts = Normaliser()
    columns = [inputs[name] for name in sorted(inputs)]
    normalise = [shown if pa.types.is_large_binary(column.type) else texts for column in columns]
    for values in zip(*map(utf8_values, columns)):
        parts = [one(value) for one, value in zip(normalise, values)]
        yield _SEPARATOR.join(parts if any(parts) else values)


def find_overlaps(train: Mapping[str, pa.Array], evaluation: Mapping[str, Mapping[str, pa.Array]]) -> dict[str, Overlap]:
    """The overlap of the training inputs with each evaluation set's, by set name.

    Linear in the rows: 8 bytes are kept for each training row, and texts are compared exactly only where the normalised
    ones agree. Two different texts are taken for one with a chance of 2^-64 a pair.
    """
    if not evaluation:
        return {}
    train_keys = pa.array(normalised_keys(train))
    overlaps = {}
    for name, inputs in evaluation.items():
        keys = pa.array(normalised_keys(inputs))
        train_rows = np.flatnonzero(pc.is_in(train_keys, value_set=keys.unique()).to_numpy(zero_copy_only=False))
        set_rows = np.flatnonzero(
            pc.is_in(keys, value_set=train_keys.take(pa.array(train_rows)).unique()).to_numpy(zero_copy_only=False)
        )
        shared = pa.array(_exact_keys(train, train_rows)).unique()
        exact = pc.is_in(pa.array(_exact_keys(inputs, set_rows)), value_set=shared)
        overlaps[name] = Overlap(int(pc.sum(exact).as_py() or 0), len(set_rows), train_rows)
    return overlaps


def _exact_keys(inputs: Mapping[str, pa.Array], rows: np.ndarray) -> np.ndarray:
    taken = pa.array(rows)
    return short_hashes(framed_rows([inputs[name].take(taken) for name in sorted(inputs)]))
