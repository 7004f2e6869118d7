"""An opened dynamics file of ours: its header and columns are checked first, its rows come in batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftft.dynamics.idhash import hash_of_ids
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import fingerprint

KEY, FORMAT, VERSION, DIGEST = b"ftft", "ftft/dynamics", 1, "header_sha256"
ROWS_AT_ONCE = 131_072
GOLD_LOGIT, OTHER_LOGIT, GOLD_PROBABILITY = "gold_logit", "other_logit", "gold_probability"
_EPOCH_COLUMN = re.compile(r"(.+)_epoch_(\d+)")


def check_unique(ids: pa.Array | pa.ChunkedArray, where: str) -> None:
    """UserError naming an id that stands twice, or a missing one."""
    if ids.null_count:
        raise UserError(f"{where} has {ids.null_count} rows without an id; every row needs one")
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    hashes = np.concatenate([np.empty(0, np.uint64), *(hash_of_ids(chunk) for chunk in chunks if len(chunk))])
    hashes.sort()
    # Only where two hashes are equal are the ids themselves compared, which takes several times as long.
    if (hashes[1:] == hashes[:-1]).any() and pc.count_distinct(ids).as_py() != len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f'{where} holds the id "{twice}" more than once; ids must be unique')


@dataclass(frozen=True)
class DynamicsFile:
    """An opened file of ours whose header and schema were checked; its rows come in batches.

    ``kinds``: which of ``logits``, ``gold_logit``, ``other_logit``, ``gold_probability`` and the statistics it holds.
    """

    path: str
    parquet: pq.ParquetFile
    epochs: tuple[int, ...]
    kinds: tuple[str, ...]
    statistics: tuple[str, ...]
    has_gold: bool
    num_classes: int | None
    metadata: dict[str, Any]

    def __len__(self) -> int:
        return self.parquet.metadata.num_rows

    def batches(self, size: int = ROWS_AT_ONCE) -> Iterator[Dynamics]:
        """The rows in the file's order, as tables of at most ``size`` examples; UserError where the file is damaged.
        That ids are unique across batches is for the caller to check."""
        columns = ["id"] + (["gold"] if self.has_gold else [])
        columns += [f"{kind}_epoch_{epoch}" for epoch in self.epochs for kind in self.kinds]
        if not len(self):  # one empty table, which has the right arrays and shapes
            yield self._decode(pa.RecordBatch.from_pylist([], schema=self.parquet.schema_arrow))
        rows = 0
        try:
            for batch in self.parquet.iter_batches(batch_size=size, columns=columns):
                rows += len(batch)
                yield self._decode(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(self.path, error) from error
        if rows != len(self):
            raise UserError(
                f"{self.path} is damaged: it says it holds {len(self)} rows, and it has {rows}; write or copy it again"
            )

    def _decode(self, batch: pa.RecordBatch) -> Dynamics:
        n, e = len(batch), len(self.epochs)
        seen = np.zeros((e, n), dtype=bool)
        values: dict[str, np.ndarray] = {}
        for kind in self.kinds:
            shape = (e, n, self.num_classes) if kind == "logits" else (e, n)
            values[kind] = np.zeros(shape, dtype=np.float32)  # type: ignore[arg-type]
            for position, epoch in enumerate(self.epochs):
                name = f"{kind}_epoch_{epoch}"
                column = batch.column(name)
                valid = np.asarray(column.is_valid())
                if kind == self.kinds[0]:
                    seen[position] = valid
                elif not np.array_equal(seen[position], valid):
                    raise UserError(f"{self.path} is damaged: {name} and {self.kinds[0]}_epoch_{epoch} miss different rows")
                rows = valid if column.null_count else slice(None)
                values[kind][position, rows] = self._numbers(column, name, int(valid.sum()))
        pair = None
        if GOLD_LOGIT in values:
            pair = np.stack([values[GOLD_LOGIT], values[OTHER_LOGIT]], axis=2)
        return Dynamics(
            ids=batch.column("id").cast(pa.string()),
            epochs=self.epochs,
            seen=seen,
            gold=self._gold(batch.column("gold")) if self.has_gold else None,
            logits=values.get("logits"),
            pair_logits=pair,
            pair_probability=values.get(GOLD_PROBABILITY),
            statistics={name: values[name] for name in self.statistics},
            metadata=self.metadata,
        )

    def _numbers(self, column: pa.Array, name: str, count: int) -> np.ndarray:
        """The values of the rows that are there: float32 [count] or [count, C]."""
        if not name.startswith("logits_epoch_"):
            return np.asarray(column.drop_null()).astype(np.float32)
        flat = column.flatten()  # without the null lists
        classes = self.num_classes or 0
        uneven = pc.any(pc.not_equal(pc.list_value_length(column), classes)).as_py()  # nulls do not count
        if flat.null_count or uneven:
            raise UserError(f"{self.path} is damaged: the lists in {name} do not all hold {classes} numbers")
        return np.asarray(flat).astype(np.float32, copy=False).reshape(count, classes)

    def _gold(self, column: pa.Array) -> np.ndarray:
        if column.null_count:
            raise UserError(
                f"{self.path} has {column.null_count} examples without a gold label; give every one, or drop the column"
            )
        gold = np.asarray(column)
        if len(gold) and (gold.min() < 0 or (self.num_classes is not None and gold.max() >= self.num_classes)):
            raise UserError(f"{self.path} has gold labels outside 0..{(self.num_classes or 0) - 1}, the classes of its logits")
        return gold.astype(np.int32)


def damaged(path: Path | str, error: Exception) -> UserError:
    """The sentence for a file that cannot be read to its end."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{path} is damaged or is not a Parquet file ({first_line}); write or copy it again")


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """An opened Parquet file; UserError where there is none or its footer cannot be read."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a Parquet file")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        # Not memory-mapped: the pages read would count as memory used, and a file cut short meanwhile would end the process.
        # Not pre-buffered: what was read would be kept until the file is closed.
        return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def open_file(path: Path | str) -> DynamicsFile:
    """Open a file that :func:`write_dynamics` wrote and check its header and columns, without reading its rows."""
    try:
        return _checked(open_parquet(path), path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names that are no UTF-8, lists whose pages are cut
        raise damaged(path, error) from error


def _checked(parquet: pq.ParquetFile, path: Path | str) -> DynamicsFile:
    header = _header(parquet, path)
    schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if header.get("examples") != rows:
        raise UserError(f"{path} is damaged: it says it holds {header.get('examples')} examples, and it has {rows} rows")
    epochs, statistics = header.get("epochs"), header.get("statistics", [])
    if not (isinstance(epochs, list) and epochs == sorted({e for e in epochs if isinstance(e, int)})):
        raise UserError(f"{path} is damaged: its header lists the epochs {epochs!r}, which are not ascending integers")
    _refuse_renamed(header.get("columns"), schema.names, path)
    found = {match[1] for name in schema.names if (match := _EPOCH_COLUMN.fullmatch(name))}
    kinds = [kind for kind in ("logits", GOLD_LOGIT, OTHER_LOGIT, GOLD_PROBABILITY) if kind in found]
    if (GOLD_LOGIT in kinds) != (OTHER_LOGIT in kinds):
        kinds += [kind for kind in (GOLD_LOGIT, OTHER_LOGIT) if kind not in kinds]  # found missing below
    kinds += [name for name in statistics if name not in kinds]
    for name in ["id"] + [f"{kind}_epoch_{epoch}" for epoch in epochs for kind in kinds]:
        if schema.names.count(name) != 1:
            raise UserError(f"{path} must have the column {name} once, and has it {schema.names.count(name)} times")
    if epochs and not kinds:
        raise UserError(f"{path} holds no values: there is no column such as logits_epoch_{epochs[0]}")
    num_classes = _check_types(parquet, path, epochs, kinds)
    digest = header.pop(DIGEST, None)
    if digest is not None and digest != fingerprint(header):
        raise UserError(f"{path} is damaged: its header does not fit its own SHA-256; write or copy it again")
    return DynamicsFile(
        path=str(path),
        parquet=parquet,
        epochs=tuple(epochs),
        kinds=tuple(kinds),
        statistics=tuple(statistics),
        has_gold="gold" in schema.names,
        num_classes=num_classes,
        metadata=header.get("metadata") or {},
    )


def with_digest(header: str) -> bytes:
    """The header's JSON with its own SHA-256: the checksums of Parquet cover the pages alone."""
    return json.dumps({**json.loads(header), DIGEST: fingerprint(json.loads(header))}, ensure_ascii=False).encode()


def _header(parquet: pq.ParquetFile, path: Path | str) -> dict[str, Any]:
    raw = (parquet.schema_arrow.metadata or {}).get(KEY)
    if raw is None:
        raise UserError(
            f"{path} is a Parquet file without ftft dynamics; a table of (id, epoch, value) is read as a long table"
        )
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise UserError(f"{path} is damaged: its header is not JSON ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        kind = header.get("format") if isinstance(header, dict) else header
        raise UserError(f'{path} is a file of the kind "{kind}", not "{FORMAT}"')
    version = header.get("format_version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{path} has format version {version}, and this ftft reads up to {VERSION}; upgrade ftft to read it")
    return header


def _refuse_renamed(written: Any, names: list[str], path: Path | str) -> None:
    """UserError for a damaged name: columns may be dropped and added, but none is missing beside a new one that differs from it
    in one character, as a damaged byte makes it."""
    if not isinstance(written, list):
        return
    added = [name for name in names if name not in written]
    for name in written:
        if name not in names and any(_one_apart(str(name), other) for other in added):
            raise UserError(f"{path} is damaged: it was written with a column {name}, which has another name now")


def _one_apart(one: str, other: str) -> bool:
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other)) == 1


def _is_string(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_types(parquet: pq.ParquetFile, path: Path | str, epochs: list[int], kinds: list[str]) -> int | None:
    """The number of classes of the logits (None without logits); UserError for a column of the wrong type."""
    schema = parquet.schema_arrow
    expected: list[tuple[str, str, bool]] = [("id", "strings", _is_string(schema.field("id").type))]
    if "gold" in schema.names:
        expected.append(("gold", "integers", pa.types.is_integer(schema.field("gold").type)))
    classes: set[int] = set()
    for epoch in epochs:
        for kind in kinds:
            name = f"{kind}_epoch_{epoch}"
            found = schema.field(name).type
            if kind != "logits":
                expected.append((name, "floats", pa.types.is_floating(found)))
                continue
            is_list = any(test(found) for test in (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list))
            expected.append((name, "lists of floats", is_list and pa.types.is_floating(found.value_type)))
            if pa.types.is_fixed_size_list(found):
                classes.add(found.list_size)
    for name, what, right in expected:
        if not right:
            raise UserError(f"the column {name} of {path} must hold {what}, and holds {schema.field(name).type}")
    if "logits" in kinds and not classes:  # rewritten by a program without fixed-size lists
        classes = {_first_length(parquet, f"logits_epoch_{epoch}") for epoch in epochs} - {0}
    if len(classes) > 1:
        raise UserError(f"{path} is damaged: its epochs have different numbers of classes, {sorted(classes)}")
    return min(classes, default=1) if "logits" in kinds else None


def _first_length(parquet: pq.ParquetFile, name: str) -> int:
    for batch in parquet.iter_batches(columns=[name]):
        longest = pc.max(pc.list_value_length(batch.column(0))).as_py()
        if longest:
            return longest
    return 0


def is_dynamics_file(path: Path | str) -> bool:
    """Whether a Parquet file carries our header; UserError where it is no readable Parquet file."""
    try:
        return KEY in (open_parquet(path).schema_arrow.metadata or {})
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
