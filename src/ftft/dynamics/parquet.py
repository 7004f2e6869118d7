"""The dynamics on disk: one Parquet row per example, readable without this package (docs/dynamics-format.md).

Columns: ``id`` (string), ``gold`` (int32), and per epoch e ``logits_epoch_<e>`` (fixed-size list of float32), or
``gold_logit_epoch_<e>``, ``other_logit_epoch_<e>``, ``gold_probability_epoch_<e>``, or ``<statistic>_epoch_<e>``; null
where the example was not seen. The file's key ``ftft`` holds format, version, counts and the metadata as JSON.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftft.dynamics import cartography, long_table
from ftft.dynamics.dynamics_file import (
    FORMAT,
    GOLD_LOGIT,
    GOLD_PROBABILITY,
    KEY,
    OTHER_LOGIT,
    ROWS_AT_ONCE,
    VERSION,
    DynamicsFile,
    check_unique,
    is_dynamics_file,
    open_file,
    with_digest,
)
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import atomic_path


def write_dynamics(dynamics: Dynamics, path: Path | str) -> None:
    """Write the dynamics atomically; UserError where the file cannot be written (full disk, no permission) or the ids
    are not unique."""
    check_unique(dynamics.ids, str(path))
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "examples": len(dynamics),
        "epochs": [int(epoch) for epoch in dynamics.epochs],
        "statistics": list(dynamics.statistics),
        "metadata": dynamics.metadata,
    }
    schema: pa.Schema | None = None
    with atomic_path(path) as temporary:
        writer = None
        for start in range(0, max(1, len(dynamics)), ROWS_AT_ONCE):
            columns = _columns(dynamics, slice(start, min(start + ROWS_AT_ONCE, len(dynamics))))
            if writer is None:
                schema = pa.schema([(name, column.type) for name, column in columns.items()])
                header["columns"] = schema.names
                schema = schema.with_metadata({KEY: with_digest(json.dumps(header, default=_plain, ensure_ascii=False))})
                # Floats of trained models hardly repeat: dictionaries and minima would only cost time.
                writer = pq.ParquetWriter(
                    temporary,
                    schema,
                    compression="snappy",
                    use_dictionary=False,
                    write_statistics=["id"],
                    write_page_checksum=True,
                )
            writer.write_table(pa.table(list(columns.values()), schema=schema), row_group_size=ROWS_AT_ONCE)
        assert writer is not None
        writer.close()


def _plain(value: Any) -> Any:
    """Numpy scalars, arrays and paths of the metadata as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def _columns(dynamics: Dynamics, rows: slice) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {"id": dynamics.ids[rows].cast(pa.string())}
    if dynamics.gold is not None:
        columns["gold"] = pa.array(dynamics.gold[rows], type=pa.int32())
    for position, epoch in enumerate(dynamics.epochs):
        unseen = ~dynamics.seen[position, rows]

        def column(values: np.ndarray, unseen: np.ndarray = unseen) -> pa.Array:
            return pa.array(np.ascontiguousarray(values, dtype=np.float32), mask=unseen, from_pandas=False)

        if dynamics.logits is not None:
            flat = pa.array(np.ascontiguousarray(dynamics.logits[position, rows], dtype=np.float32).reshape(-1))
            mask = pa.array(unseen) if unseen.any() else None
            columns[f"logits_epoch_{epoch}"] = pa.FixedSizeListArray.from_arrays(flat, dynamics.logits.shape[2], mask=mask)
        if dynamics.pair_logits is not None:
            columns[f"{GOLD_LOGIT}_epoch_{epoch}"] = column(dynamics.pair_logits[position, rows, 0])
            columns[f"{OTHER_LOGIT}_epoch_{epoch}"] = column(dynamics.pair_logits[position, rows, 1])
        if dynamics.pair_probability is not None:
            columns[f"{GOLD_PROBABILITY}_epoch_{epoch}"] = column(dynamics.pair_probability[position, rows])
        for name, values in dynamics.statistics.items():
            columns[f"{name}_epoch_{epoch}"] = column(values[position, rows])
    return columns


def read_dynamics(path: Path | str) -> Dynamics:
    """Read a file that :func:`write_dynamics` wrote; the columns may stand in any order, others are left alone.

    Raises UserError in one sentence where the file is missing, damaged, from a newer version, or has duplicate ids,
    wrong types or another number of rows than its header says.
    """
    return gather(open_file(path))


def _room(file: DynamicsFile, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        return np.empty(shape, dtype=dtype)
    except (MemoryError, ValueError):
        raise UserError(f"{file.path} says it holds {shape}, more than fits into memory; it may be damaged") from None


def gather(file: DynamicsFile) -> Dynamics:
    """All batches of a file as one table."""
    n, start = len(file), 0
    parts: dict[str, np.ndarray] = {}
    ids: list[pa.Array] = []
    for batch in file.batches():
        rows = slice(start, start + len(batch))
        ids.append(batch.ids)
        if batch.gold is not None:
            parts.setdefault("gold", _room(file, (n,), np.dtype(np.int32)))[rows] = batch.gold
        arrays = {name: getattr(batch, name) for name in ("seen", "logits", "pair_logits", "pair_probability")}
        for name, values in (arrays | {f"statistics.{name}": v for name, v in batch.statistics.items()}).items():
            if values is not None:
                if name not in parts:
                    parts[name] = _room(file, (values.shape[0], n, *values.shape[2:]), values.dtype)
                parts[name][:, rows] = values
        start = rows.stop
    column = pa.chunked_array(ids, type=pa.string())
    check_unique(column, file.path)
    return Dynamics(
        # Beyond 2 GiB of text a single Arrow array needs 64-bit offsets.
        ids=(column if column.nbytes < 2**31 else column.cast(pa.large_string())).combine_chunks(),
        epochs=file.epochs,
        seen=parts["seen"],
        gold=parts.get("gold"),
        logits=parts.get("logits"),
        pair_logits=parts.get("pair_logits"),
        pair_probability=parts.get("pair_probability"),
        statistics={name: parts[f"statistics.{name}"] for name in file.statistics},
        metadata=file.metadata,
    )


def fingerprint_dynamics(dynamics: Dynamics) -> str:
    """A SHA-256 of what was recorded: ids, gold labels, epochs, seen mask and values. It does not depend on the order of
    the rows, on unseen values, or on the metadata; the rows are hashed sorted by the bytes of their ids."""
    order = np.asarray(pc.sort_indices(dynamics.ids.cast(pa.large_binary())))
    ids = dynamics.ids.cast(pa.large_binary()).take(pa.array(order))
    shapes = {name: list(values.shape[2:]) for name, values in _arrays(dynamics).items()}
    header = {
        "n": len(dynamics),
        "epochs": [int(e) for e in dynamics.epochs],
        "gold": dynamics.gold is not None,
        "values": shapes,
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    lengths = np.asarray(pc.binary_length(ids)).astype("<i8")
    digest.update(lengths.tobytes())
    offset = np.frombuffer(ids.buffers()[1], dtype=np.int64)[ids.offset] if len(ids) else 0
    digest.update(memoryview(ids.buffers()[2] or b"")[int(offset) : int(offset) + int(lengths.sum())])
    if dynamics.gold is not None:
        digest.update(dynamics.gold[order].astype("<i4").tobytes())
    for position in range(len(dynamics.epochs)):
        seen = dynamics.seen[position, order]
        digest.update(seen.tobytes())
        for values in _arrays(dynamics).values():
            digest.update(values[position, order[seen]].astype("<f4").tobytes())
    return digest.hexdigest()


def _arrays(dynamics: Dynamics) -> dict[str, np.ndarray]:
    """Every array of values by name, in a fixed order."""
    named = {name: getattr(dynamics, name) for name in ("logits", "pair_logits", "pair_probability")}
    named |= {f"statistics.{name}": dynamics.statistics[name] for name in sorted(dynamics.statistics)}
    return {name: values for name, values in named.items() if values is not None}


def open_dynamics(path: Path | str) -> Dynamics:
    """The dynamics at ``path``, whatever holds them: our Parquet file, a run's or a stage's folder with a
    ``dynamics.parquet``, a folder of allenai/cartography (``training_dynamics`` or its parent), or a long table
    (id, epoch, value) in CSV, TSV, JSONL or Parquet.

    Raises UserError where nothing of the kind is there, or where a run has the dynamics of several stages.
    """
    path = Path(path)
    own = find_dynamics_file(path)
    if own is not None:
        return read_dynamics(own)
    if path.is_dir():
        return cartography.read_cartography(path)
    if cartography.EPOCH_FILE.fullmatch(path.name):
        return cartography.read_cartography(path.parent)
    if cartography.is_metrics_file(path):
        raise UserError(
            f"{path} holds metrics, a row for each example, and not the dynamics they were computed from; "
            "only `ftft select` and `ftft score` take it, so name the dynamics here"
        )
    return long_table.read_long_table(path)


def find_dynamics_file(path: Path | str) -> Path | None:
    """Our own Parquet file that :func:`open_dynamics` reads for ``path``; None where it reads another tool's format.

    Raises UserError where there are no dynamics, or those of several stages.
    """
    path = Path(path)
    if path.is_dir():
        return _file_in_folder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name a dynamics.parquet, a run's folder, or a cartography folder")
    if path.suffix in (".pt", ".pth", ".bin"):
        raise UserError(f"{path} is a tensor file; convert it first with ftft.dynamics.ftft_repository.read_uid_to_logits")
    return path if path.name.endswith(".parquet") and is_dynamics_file(path) else None


def _file_in_folder(folder: Path) -> Path | None:
    if (folder / "dynamics.parquet").is_file():
        return folder / "dynamics.parquet"
    found = sorted(folder.glob("stages/*/dynamics.parquet"))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{folder} has the dynamics of {len(found)} stages; name one of {', '.join(str(p) for p in found)}")
    if cartography.epoch_folder(folder) is not None:
        return None
    raise UserError(
        f"{folder} holds no dynamics: there is neither dynamics.parquet, nor stages/*/dynamics.parquet, "
        "nor training_dynamics/dynamics_epoch_0.jsonl in it"
    )
