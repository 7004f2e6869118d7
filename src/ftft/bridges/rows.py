"""How a batch of any Trainer gets to know which rows of the train dataset it was made of.

The dataset is replaced by one whose items carry their position under a private key; the collator's wrapper takes the
key off before the user's collator sees the items and puts all positions of the batch into the batch. Both stand in only
while the train dataloader is built, so that evaluating or predicting on the train dataset is as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.utils.data

from ftft.errors import UserError

ROW_KEY = "_ftft_row"


@dataclass(frozen=True)
class Keyed:
    """An item that is no mapping, with its key beside it."""

    key: int | str
    item: Any


def with_key(item: Any, key: int | str) -> Any:
    """A shallow copy of ``item`` that carries ``key``; the item itself stays as it is."""
    if isinstance(item, dict):
        return {**item, ROW_KEY: key}
    if isinstance(item, MutableMapping):
        item = copy.copy(item)
        item[ROW_KEY] = key
        return item
    return Keyed(key, item)


def without_key(item: Any) -> tuple[int | str | None, Any]:
    """The key an item carries (None without one) and the item as it was."""
    if isinstance(item, Keyed):
        return item.key, item.item
    if isinstance(item, MutableMapping) and ROW_KEY in item:
        bare = copy.copy(item)
        return bare.pop(ROW_KEY), bare
    return None, item


class _WithRows:
    """Mixed in before a Hugging Face dataset class: single items and fetched batches carry their positions.

    What is derived from such a dataset by ``remove_columns`` or ``with_format`` (a copy) keeps the positions; what is
    reordered (``select``, ``shuffle``, ``map``) is a plain dataset again, so that a position can never be a wrong one.
    """

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)  # type: ignore[misc]
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            return with_key(item, int(key) % len(self))  # type: ignore[arg-type]
        return item

    def __getitems__(self, keys: Sequence[int]) -> list[Any]:
        items = super().__getitems__(keys)  # type: ignore[misc]
        return [with_key(item, int(key) % len(self)) for item, key in zip(items, keys, strict=True)]  # type: ignore[arg-type]


class DatasetWithRows(_WithRows, datasets.Dataset):
    """A ``datasets.Dataset`` with positions; a named class, so that spawned dataloader workers can import it."""


class ItemsWithRows(torch.utils.data.Dataset):
    """Any other sized dataset (a torch Dataset, a list) with positions."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: int) -> Any:
        return with_key(self._dataset[key], int(key) % len(self))

    def __getitems__(self, keys: Sequence[int]) -> list[Any]:
        fetch = getattr(self._dataset, "__getitems__", None)
        items = fetch(keys) if callable(fetch) else [self._dataset[key] for key in keys]
        return [with_key(item, int(key) % len(self)) for item, key in zip(items, keys, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name == "_dataset":  # asked for while unpickling in a worker, before it is set
            raise AttributeError(name)
        return getattr(self._dataset, name)


class StreamWithIds(torch.utils.data.IterableDataset):
    """An iterable dataset whose items carry the id they have in the column ``id_column``."""

    def __init__(self, dataset: Any, id_column: str) -> None:
        self._dataset, self._id_column = dataset, id_column

    def __iter__(self) -> Iterator[Any]:
        for item in self._dataset:
            if not isinstance(item, Mapping) or item.get(self._id_column) is None:
                raise UserError(
                    f'an item of the iterable train dataset has no id in the column "{self._id_column}"; every item needs one'
                )
            yield with_key(item, str(item[self._id_column]))

    def __getattr__(self, name: str) -> Any:
        if name in ("_dataset", "_id_column"):
            raise AttributeError(name)
        return getattr(self._dataset, name)


def with_rows(dataset: Any, id_column: str | None) -> Any:
    """The same dataset with items that carry their position (an iterable one: their id); of the same class where that
    matters to the Trainer (``datasets.Dataset``)."""
    if is_stream(dataset):
        assert id_column is not None
        return StreamWithIds(dataset, id_column)
    if not isinstance(dataset, datasets.Dataset):
        return ItemsWithRows(dataset)
    plain = type(dataset) is datasets.Dataset
    kind: Any = DatasetWithRows if plain else type("DatasetWithRows", (_WithRows, type(dataset)), {})
    rowed = kind.__new__(kind)
    rowed.__dict__.update(dataset.__dict__)
    return rowed


def is_stream(dataset: Any) -> bool:
    """Whether the dataset has no positions: it can only be iterated."""
    if isinstance(dataset, (torch.utils.data.IterableDataset, datasets.IterableDataset)):
        return True
    return not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))


@dataclass
class KeyCollator:
    """The user's collator, and the items' keys in the batch: int64 [B] positions, or ids as padded UTF-8, uint8 [B, W]."""

    collator: Callable[[list[Any]], Any]

    def __call__(self, features: list[Any]) -> Any:
        keys, items = zip(*(without_key(feature) for feature in features), strict=True)
        batch = self.collator(list(items))
        if any(key is None for key in keys):
            return batch
        if not isinstance(batch, MutableMapping):
            raise UserError(
                f"the data collator must give a dictionary for the recorder to attach, and it gives a {type(batch).__name__}"
            )
        batch[ROW_KEY] = encode_ids(keys) if isinstance(keys[0], str) else torch.tensor(keys, dtype=torch.int64)
        return batch


def encode_ids(ids: Sequence[str]) -> torch.Tensor:
    """Strings as rows of UTF-8 bytes padded with 0xFF, a byte that UTF-8 never uses; uint8 [B, W]."""
    encoded = [text.encode() for text in ids]
    width = max(len(text) for text in encoded)
    return torch.tensor([list(text) + [0xFF] * (width - len(text)) for text in encoded], dtype=torch.uint8)


def decode_ids(encoded: np.ndarray) -> list[str]:
    """The strings of :func:`encode_ids`."""
    return [bytes(row[row != 0xFF]).decode() for row in encoded]
