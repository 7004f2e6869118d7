"""Which example is which: the ids of a Trainer's train dataset, or one sentence why they cannot be established."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.bridges.randomness import randomness_kept
from ftft.bridges.rows import decode_ids, is_stream
from ftft.data.ids import find_id_column
from ftft.errors import UserError, did_you_mean

LABEL_COLUMNS = ("labels", "label", "label_ids")


def example_ids(trainer: Any, id_column: str | None) -> tuple[pa.Array | None, str]:
    """The ids of ``trainer.train_dataset``, N unique strings (None for an iterable one), and where they come from.

    In this order: ``id_column``; the column that :func:`ftft.data.ids.find_id_column` takes (id, guid, uid, ...); the row
    position, ``row-<i>``. The second value is the column's name, or ``row``. Raises UserError where the rows of the
    dataset are no longer the user's examples.
    """
    dataset = trainer.train_dataset
    if dataset is None:
        raise UserError(
            "the trainer has no train_dataset, so there is nothing to record; give it one before attaching the recorder"
        )
    sft = refuse_unsupported(trainer)
    if is_stream(dataset):
        return _stream_ids(trainer, id_column)
    if len(dataset) == 0:
        raise UserError("the train dataset is empty, so there is nothing to record")
    if id_column is not None:
        return _column_ids(dataset, id_column), id_column
    if isinstance(dataset, datasets.Dataset):
        named = [name for name in dataset.column_names if name not in (*trainer.label_names, *LABEL_COLUMNS)]
        found = find_id_column(named, partial(_column, dataset))
        if found is not None:
            return _column_ids(dataset, found), found
    if sft:
        _refuse_moved_rows(trainer)
    return pc.binary_join_element_wise("row", pa.array(np.arange(len(dataset))).cast(pa.string()), "-"), "row"


def refuse_unsupported(trainer: Any) -> bool:
    """UserError where a row of the batch is not one example; else whether this is TRL's SFTTrainer (or a subclass)."""
    from_trl = [kind for kind in type(trainer).__mro__ if kind.__module__.startswith("trl.")]
    if not from_trl:
        return False
    if not any(kind.__name__ == "SFTTrainer" for kind in from_trl):
        raise UserError(
            f"the recorder attaches to transformers.Trainer and TRL's SFTTrainer, not to TRL's {from_trl[0].__name__}"
        )
    if trainer.args.packing:
        raise UserError(
            "packing=True joins several examples into one row, so their dynamics cannot be told apart; set packing=False"
        )
    if trainer.args.padding_free or getattr(trainer, "padding_free", False):
        raise UserError(
            "padding_free=True joins a batch into one row, so its examples cannot be told apart; set padding_free=False"
        )
    return True


def _refuse_moved_rows(trainer: Any) -> None:
    """SFTTrainer keeps the order of the rows unless it shuffles; its last step (after truncation) may drop rows."""
    args, dataset = trainer.args, trainer.train_dataset
    way_out = "give every row a unique id in a column named id"
    if getattr(args, "shuffle_dataset", False):
        raise UserError(f"shuffle_dataset=True has reordered the rows, so their positions no longer identify them; {way_out}")
    skipped = (getattr(args, "dataset_kwargs", None) or {}).get("skip_prepare_dataset", False)
    if args.max_length is None or skipped or not isinstance(dataset, datasets.Dataset):
        return
    dropped = len(dataset.data) - len(dataset)
    if dropped:
        raise UserError(
            f"SFTTrainer has dropped {dropped} rows without a target within max_length={args.max_length}, so positions no "
            f"longer identify the rest; {way_out}, or raise max_length"
        )


def _stream_ids(trainer: Any, id_column: str | None) -> tuple[None, str]:
    if id_column is None:
        raise UserError(
            "an iterable train dataset has no row positions; name the column that holds a unique id with "
            "DynamicsRecorder(id_column=...)"
        )
    columns = getattr(trainer.train_dataset, "column_names", None)
    if columns and id_column not in columns:
        raise UserError(f'the train dataset has no column "{id_column}"{did_you_mean(id_column, columns)}')
    if trainer.accelerator.num_processes > 1:
        raise UserError(
            "an iterable train dataset can be recorded by one process only; with several use a dataset of known length"
        )
    return None, id_column


def _column(dataset: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column as Arrow has it, whatever the dataset's format or transform."""
    table = dataset.with_format(None).select_columns([name]).with_format("arrow")[:]
    return table.column(name)


def _as_ids(column: pa.ChunkedArray) -> pa.Array | None:
    """The values as strings; None where they cannot be ids (missing or nested values)."""
    if column.null_count:
        return None
    try:
        ids = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None
    return pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string())


def _unique(ids: pa.Array) -> bool:
    return pc.count_distinct(ids).as_py() == len(ids)


def _column_ids(dataset: Any, name: str) -> pa.Array:
    """The ids in the column the user named; UserError where it is missing, incomplete or not unique."""
    if isinstance(dataset, datasets.Dataset):
        if name not in dataset.column_names:
            raise UserError(f'the train dataset has no column "{name}"{did_you_mean(name, dataset.column_names)}')
        ids = _as_ids(_column(dataset, name))
    else:
        with randomness_kept():  # reading an item of an augmenting dataset draws random numbers
            items = [dataset[row] for row in range(len(dataset))]
        try:
            values = [item[name] for item in items]
        except (KeyError, TypeError, IndexError):
            raise UserError(f'not every item of the train dataset has the key "{name}"') from None
        ids = None if any(value is None for value in values) else pa.array([str(value) for value in values], pa.string())
    if ids is None:
        raise UserError(f'the column "{name}" must hold a string or a number in every row to serve as the id')
    if not _unique(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f'the column "{name}" cannot serve as the id: "{twice}" stands in several rows, and ids must be unique')
    return ids


def gold_column(dataset: Any, label_names: list[str]) -> np.ndarray | None:
    """The labels that stand in the dataset as integers, int32 [N] (-1 where missing or negative), or None."""
    if not isinstance(dataset, datasets.Dataset):
        return None
    for name in (*label_names, *LABEL_COLUMNS):
        if name in dataset.column_names:
            column = _column(dataset, name)
            if pa.types.is_integer(column.type):
                return np.maximum(column.fill_null(-1).to_numpy(), -1).astype(np.int32)
    return None


class KnownIds:
    """The ids of a dataset with positions; a batch's key is the position."""

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        self.fingerprint = fingerprint_ids(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Positions among the ids, int64 [B], of a batch's keys."""
        return keys.astype(np.int64)


class StreamIds:
    """The ids of an iterable dataset, numbered as they first appear; a batch's key is the encoded id."""

    fingerprint = "stream"

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> pa.Array:
        return pa.array(list(self._rows), pa.string())

    @ids.setter
    def ids(self, ids: pa.Array) -> None:
        self._rows = {text: row for row, text in enumerate(ids.to_pylist())}

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Positions among the ids, int64 [B], of a batch's keys; a new id gets the next position."""
        return np.array([self._rows.setdefault(text, len(self._rows)) for text in decode_ids(keys)], dtype=np.int64)


def fingerprint_ids(ids: pa.Array) -> str:
    """A SHA-256 of the ids in their order."""
    binary = ids.cast(pa.large_binary())
    digest = hashlib.sha256(np.asarray(pc.binary_length(binary), dtype="<i8").tobytes())
    if len(binary):
        offsets = np.frombuffer(binary.buffers()[1], dtype=np.int64)[binary.offset : binary.offset + len(binary) + 1]
        digest.update(memoryview(binary.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])])
    return digest.hexdigest()
