"""Dynamics from any long table: one row per example and epoch (id, epoch, value, optionally gold), in any order.

The value is a probability of the gold class, a loss (-ln p of it), or the logits: one column of lists, or one column per
class. CSV, TSV, JSONL (each also gzip'd) and Parquet, which is read by batches.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from ftft.dynamics.cartography import bounded_line
from ftft.dynamics.dynamics_file import ROWS_AT_ONCE, damaged, open_parquet
from ftft.dynamics.idhash import hash_of_ids
from ftft.dynamics.idindex import HashCollision, IdIndex
from ftft.dynamics.prefetch import ahead
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean

IDS = ("id", "guid", "example_id", "uid")
PROBABILITIES = ("probability", "gold_probability", "p_true", "prob")
GOLDS = ("gold", "label", "gold_label")
_LOGIT = re.compile(r"logits?_(\d+)")
_EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True)
class _Columns:
    """Which columns are read; exactly one of ``probability``, ``loss`` and ``logits`` (one list column, or one per class)."""

    id: str
    epoch: str
    probability: str | None
    loss: str | None
    logits: tuple[str, ...]
    gold: str | None

    @property
    def values(self) -> tuple[str, ...]:
        return self.logits or ((self.probability or self.loss or ""),)


@dataclass(frozen=True)
class _Source:
    """A table on disk: its column names, its number of rows, and its rows by batches of the named columns."""

    path: str
    names: tuple[str, ...]
    rows: int
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]


def read_long_table(
    path: Path | str,
    *,
    id: str | None = None,
    epoch: str = "epoch",
    probability: str | None = None,
    loss: str | None = None,
    logits: str | Sequence[str] | None = None,
    gold: str | None = None,
    num_classes: int | None = None,
) -> Dynamics:
    """Import a long table. The parameters name its columns; by default the usual names are looked for, and of several
    kinds of value logits are taken first, then the probability, then the loss.

    The examples stand in the order of their first row; an (id, epoch) without a row is unseen. ``num_classes``: with 2,
    correctness, entropy and EL2N follow from the probability alone. Integer ids become strings of digits.
    Raises UserError for a missing column, a missing or impossible value, a gold label that changes, or an (id, epoch)
    that stands twice.
    """
    source = _open(Path(path), id)
    columns = _resolve(source, id, epoch, probability, loss, logits, gold)
    epochs = _epochs(source, columns.epoch)
    try:
        codes, ids = _index_ids(source, columns.id)
    except HashCollision:
        codes, ids = _encode_ids(source, columns.id)
    filled = _fill(source, columns, epochs, codes, ids)
    if int(filled.seen.sum()) != len(codes):
        _refuse_duplicate(source, columns, epochs, codes, ids)
    metadata = {"source": "import", "format": "long_table"}
    if columns.logits:
        return Dynamics(ids, epochs, filled.seen, gold=filled.gold, logits=filled.values, metadata=metadata)
    if num_classes is not None:
        metadata["num_classes"] = num_classes  # type: ignore[assignment]
    values = filled.values[:, :, 0]
    if columns.loss is None:
        return Dynamics(ids, epochs, filled.seen, gold=filled.gold, pair_probability=values, metadata=metadata)
    statistics = {"mean_log_probability": np.negative(values, out=values)}
    return Dynamics(ids, epochs, filled.seen, gold=filled.gold, statistics=statistics, metadata=metadata)


def _open(path: Path, id: str | None) -> _Source:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    kind = next((extension for extension in _EXTENSIONS if path.name.lower().endswith(extension)), None)
    if kind is None:
        raise UserError(f"{path} is no table that can be read; there is {', '.join(_EXTENSIONS)}")
    if kind == ".parquet":
        file = open_parquet(path)

        def batches(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
            try:
                yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(dict.fromkeys(names)))
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from error

        return _Source(str(path), tuple(file.schema_arrow.names), file.metadata.num_rows, batches)
    table = _read_text(path, kind, id)
    try:
        names = tuple(table.column_names)
    except UnicodeDecodeError:
        raise UserError(f"the names of the columns in {path} are not valid UTF-8; save the file as UTF-8") from None
    return _Source(
        str(path),
        names,
        table.num_rows,
        lambda names: iter(table.select(list(dict.fromkeys(names))).to_batches(ROWS_AT_ONCE)),
    )


def _read_text(path: Path, kind: str, id: str | None) -> pa.Table:
    """The whole of a CSV, TSV or JSONL file. Ids of CSV stay the text they are ("007")."""
    candidates = IDS if id is None else (id,)
    try:
        if kind.startswith((".jsonl", ".ndjson")):
            # Without a type given, strings that look like dates would be turned into dates.
            with gzip.open(path) if kind.endswith(".gz") else open(path, "rb") as stream:
                first = json.loads(bounded_line(stream) or "null")
            texts = [name for name in candidates if isinstance(first, dict) and isinstance(first.get(name), str)]
            schema = pa.schema([(name, pa.string()) for name in texts])
            return pa.json.read_json(path, parse_options=pa.json.ParseOptions(explicit_schema=schema))
        parse = pa.csv.ParseOptions(delimiter="\t" if kind.startswith(".tsv") else ",")
        convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in candidates})
        return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except (pa.ArrowException, OSError, EOFError, ValueError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is empty, damaged or not {kind}: {reason}") from None


def _resolve(
    source: _Source,
    id: str | None,
    epoch: str,
    probability: str | None,
    loss: str | None,
    logits: str | Sequence[str] | None,
    gold: str | None,
) -> _Columns:
    """The columns to read: the given names, which must exist, or the usual ones."""
    given_logits = (logits,) if isinstance(logits, str) else tuple(logits or ())
    for name in (id, epoch, probability, loss, gold, *given_logits):
        if name is not None and name not in source.names:
            raise UserError(f'{source.path} has no column "{name}"{did_you_mean(name, source.names)}')
    given = [bool(kind) for kind in (given_logits, probability, loss)]
    if sum(given) > 1:
        raise UserError("name one kind of value for the long table: logits, probability or loss")
    if not any(given):
        given_logits = ("logits",) if "logits" in source.names else _logit_columns(source)
        if not given_logits:
            probability = next((name for name in PROBABILITIES if name in source.names), None)
            loss = "loss" if probability is None and "loss" in source.names else None
    found_id = id or next((name for name in IDS if name in source.names), None)
    missing = None
    if found_id is None:
        missing = f"ids ({', '.join(IDS)})"
    elif not (given_logits or probability or loss):
        missing = "values (logits, logit_0 and so on, probability or loss)"
    if missing or found_id is None:
        raise UserError(f"{source.path} has no column of {missing}; it has {', '.join(source.names)}")
    gold = gold or next((name for name in GOLDS if name in source.names), None)
    return _Columns(found_id, epoch, probability, loss, given_logits, gold)


def _logit_columns(source: _Source) -> tuple[str, ...]:
    numbered = {int(match[1]): name for name in source.names if (match := _LOGIT.fullmatch(name))}
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"the logit columns of {source.path} must be numbered from 0 without a gap, and are {sorted(numbered)}")
    return tuple(numbered[index] for index in range(len(numbered)))


def _integers(source: _Source, column: pa.Array, name: str) -> np.ndarray:
    """int64 of a column of integers (or of floats that are whole); UserError otherwise."""
    if column.null_count:
        raise UserError(f"{source.path} has {column.null_count} rows without {name}; every row needs one")
    try:
        return np.asarray(column.cast(pa.int64()))
    except (pa.ArrowException, NotImplementedError):
        raise UserError(f"the column {name} of {source.path} must hold integers, and holds {column.type}") from None


def _epochs(source: _Source, name: str) -> tuple[int, ...]:
    found: set[int] = set()
    for batch in ahead(source.batches([name])):
        epochs = _integers(source, batch.column(0), name)
        if len(epochs) and epochs.min() >= 0 and epochs.max() < 1 << 16:  # nearly always: count instead of sorting
            epochs = np.flatnonzero(np.bincount(epochs))
        found.update(np.unique(epochs).tolist())
    if not found:
        raise UserError(f"{source.path} holds no rows")
    if min(found) < 0 or len(found) > 10_000:
        raise UserError(
            f"the column {name} of {source.path} holds {len(found)} epochs from {min(found)}; they must count from 0"
        )
    return tuple(sorted(found))


def _ids(source: _Source, name: str) -> Iterator[pa.Array]:
    """The column of ids by batches, as strings (large strings where the file has those)."""
    for batch in source.batches([name]):
        column = batch.column(0)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
        if not text and not pa.types.is_integer(column.type):
            raise UserError(f"the column {name} of {source.path} must hold strings or integers, and holds {column.type}")
        if column.null_count:
            raise UserError(f"{source.path} has rows without {name}; every row needs one")
        yield column if pa.types.is_large_string(column.type) else column.cast(pa.string())


def _index_ids(source: _Source, name: str) -> tuple[np.ndarray, pa.Array]:
    """Every row's example (int32 [rows]) and the N ids in the order of their first row. HashCollision: see IdIndex."""

    def hashed() -> Iterator[tuple[pa.DataType, pa.Array, np.ndarray]]:
        for column in _ids(source, name):
            yield column.type, column.cast(pa.large_string()), hash_of_ids(column)

    codes = np.empty(source.rows, dtype=np.int32)
    index, start, kept = IdIndex(), 0, pa.string()
    for kind, column, hashes in ahead(hashed()):
        codes[start : start + len(column)] = index.numbers(column, hashes)
        start += len(column)
        kept = kind
    ids = index.strings()
    return codes, ids.cast(kept) if ids.nbytes < 2**31 else ids


def _encode_ids(source: _Source, name: str) -> tuple[np.ndarray, pa.Array]:
    """As :func:`_index_ids`, by Arrow's dictionaries: several times slower, and free of hashes that could be equal."""
    encoded = pa.chunked_array(list(_ids(source, name))).dictionary_encode()
    codes = np.concatenate([np.asarray(chunk.indices, dtype=np.int32) for chunk in encoded.chunks])
    return codes, encoded.chunk(0).dictionary


@dataclass
class _Filled:
    seen: np.ndarray
    values: np.ndarray
    gold: np.ndarray | None


@dataclass(frozen=True)
class _Part:
    """A batch of rows: ``example`` and ``position`` (of the epoch), each [n]; ``values`` float32 [n, C]; ``labels`` [n]."""

    example: np.ndarray
    position: np.ndarray
    values: np.ndarray
    labels: np.ndarray | None


def _parts(source: _Source, columns: _Columns, epochs: tuple[int, ...], codes: np.ndarray, ids: pa.Array) -> Iterator[_Part]:
    start = 0
    wanted = [columns.epoch, *columns.values] + ([columns.gold] if columns.gold else [])
    for batch in source.batches(wanted):
        example = codes[start : start + len(batch)]
        start += len(batch)
        position = _integers(source, batch.column(columns.epoch), columns.epoch)
        if epochs[-1] != len(epochs) - 1:
            position = np.searchsorted(np.array(epochs), position)
        values = _values(source, batch, columns, example, ids)
        labels = _integers(source, batch.column(columns.gold), columns.gold) if columns.gold else None
        yield _Part(example, position, values, labels)


def _fill(source: _Source, columns: _Columns, epochs: tuple[int, ...], codes: np.ndarray, ids: pa.Array) -> _Filled:
    """Scatter every row into seen [E, N], values [E, N, C] and gold [N]."""
    n, filled = len(ids), None
    for part in ahead(_parts(source, columns, epochs, codes, ids)):
        classes = part.values.shape[1]
        if filled is None:
            shape = (len(epochs), n)
            gold = np.full(n, -1, dtype=np.int32) if columns.gold else None
            filled = _Filled(np.zeros(shape, dtype=bool), np.zeros((*shape, classes), dtype=np.float32), gold)
        if classes != filled.values.shape[2]:
            raise UserError(f"{source.path} has rows with {classes} logits and rows with {filled.values.shape[2]}")
        flat = part.position * n + part.example
        filled.seen.reshape(-1)[flat] = True
        # A row's C numbers move as one item: half the time of moving them one by one.
        item = np.dtype((np.void, 4 * classes))
        filled.values.reshape(-1, classes).view(item)[flat] = part.values.view(item)
        if part.labels is not None and filled.gold is not None:
            _set_gold(source, filled.gold, part.labels, part.example, ids, classes if columns.logits else 0)
    assert filled is not None
    return filled


def _values(source: _Source, batch: pa.RecordBatch, columns: _Columns, example: np.ndarray, ids: pa.Array) -> np.ndarray:
    """The batch's values, float32 [rows, C] (C = 1 for a probability or a loss), checked."""

    def refuse(row: int, what: str) -> UserError:
        return UserError(f'{source.path} has {what} for the example "{ids[int(example[row])].as_py()}"')

    out = np.empty((len(batch), len(columns.values)), dtype=np.float32)
    for index, name in enumerate(columns.values):
        column = batch.column(name)
        if column.null_count:
            raise refuse(int(np.flatnonzero(np.asarray(column.is_null()))[0]), f"no {name}")
        if len(columns.logits) == 1 and hasattr(column, "flatten") and pa.types.is_nested(column.type):
            lengths = np.asarray(pc.list_value_length(column))
            if (lengths != lengths[0]).any() or lengths[0] == 0:
                raise refuse(
                    int(np.flatnonzero((lengths != lengths[0]) | (lengths == 0))[0]), f"a list of another length in {name}"
                )
            column = column.flatten()
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise UserError(f"the column {name} of {source.path} must hold numbers, and holds {batch.column(name).type}")
        numbers = np.asarray(column).astype(np.float32).reshape(len(batch), -1)  # a null inside a list becomes NaN
        if columns.logits:
            if len(columns.logits) == 1:
                return numbers
            out[:, index] = numbers[:, 0]
            continue
        wrong = ~np.isfinite(numbers[:, 0]) | (numbers[:, 0] < 0)
        if columns.probability:
            wrong |= numbers[:, 0] > 1
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            allowed = "0 to 1" if columns.probability else "0 or more"
            raise refuse(row, f"the {name} {numbers[row, 0]:g} (it must be {allowed})")
        return numbers
    return out


def _set_gold(source: _Source, gold: np.ndarray, labels: np.ndarray, example: np.ndarray, ids: pa.Array, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes) if classes else labels < 0
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        span = f"0 to {classes - 1}" if classes else "0 or more"
        raise UserError(
            f'{source.path} has the gold label {labels[row]} for "{ids[int(example[row])].as_py()}"; it must be {span}'
        )
    known = gold[example]
    new = np.flatnonzero(known < 0)
    gold[example[new]] = labels[new]
    known[new] = gold[example[new]]  # not the row's own label where the example stands twice in the batch
    changed = known != labels
    if changed.any():
        row = int(np.flatnonzero(changed)[0])
        raise UserError(f'{source.path} has different gold labels for "{ids[int(example[row])].as_py()}"; it must have one')


def _refuse_duplicate(source: _Source, columns: _Columns, epochs: tuple[int, ...], codes: np.ndarray, ids: pa.Array) -> None:
    """Some (id, epoch) stands twice: find one and name it."""
    start, flat = 0, np.empty(len(codes), dtype=np.int64)
    for batch in source.batches([columns.epoch]):
        rows = slice(start, start + len(batch))
        position = np.searchsorted(np.array(epochs), _integers(source, batch.column(0), columns.epoch))
        flat[rows] = position * len(ids) + codes[rows]
        start = rows.stop
    flat.sort()
    epoch, example = divmod(int(flat[1:][flat[1:] == flat[:-1]][0]), len(ids))
    raise UserError(
        f'{source.path} has more than one row for the example "{ids[example].as_py()}" in epoch {epochs[epoch]}; keep one'
    )
