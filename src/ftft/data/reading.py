"""One table from one data file (JSONL, CSV, TSV, Parquet, gzip'd or not) or from one dataset of the hub.

Text formats are read in chunks by Python's own parsers, so that every complaint can name its line; only the wanted
columns are kept. The format is told by the file's name, or by its ``format``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftft.data.image_folders import folder_records
from ftft.data.records import Record, delimited_records, json_records
from ftft.data.settings import DataFile
from ftft.data.streams import FORMATS, open_bytes, require_file, require_no_folder
from ftft.errors import UserError, did_you_mean
from ftft.paths import expand

LINE = "__line__"
CHUNK = 8192
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
_DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, KeyError)


def describe(file: DataFile) -> str:
    """How error messages name the file: its expanded path, or the hub dataset with its split."""
    if file.path is not None:
        return str(expand(file.path, "path"))
    config = f" ({file.hub_config})" if file.hub_config else ""
    return f"hub dataset {file.hub}{config}, split {file.hub_split}"


def format_of(path: Path, given: str | None = None) -> str:
    """``jsonl``, ``csv``, ``tsv``, ``parquet`` or ``images``: the ``given`` one, else by the file's name; UserError for any
    other, pickles by name."""
    if given is not None:
        return given
    require_no_folder(path)  # a folder has no ending to complain of
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in PICKLES:
        raise UserError(f"{path} may hold pickled code, and ftft never unpickles; save the data as JSONL, CSV, TSV or Parquet")
    if last not in FORMATS:
        known = f"{', '.join(FORMATS)}, each also with .gz"
        raise UserError(
            f'{path} has the unknown ending "{last}"; ftft reads {known}, and others where `format:` says what it is'
        )
    return FORMATS[last]


def read_table(file: DataFile, wanted: Sequence[str]) -> pa.Table:
    """The rows of ``file`` that its ``where`` keeps, up to its ``limit``, in file order.

    ``wanted``: the columns to keep. Beside them the table has the int64 column ``LINE``, where each row starts in the file
    (1-based; the row's number for Parquet and the hub); :func:`place` words it. Integers and floats in one column become
    floats; NaN becomes null.

    Raises UserError, one sentence with file and line, for everything that can be wrong with a file.
    """
    names = list(dict.fromkeys(wanted))
    if (file.path is None) == (file.hub is None):
        raise UserError("a data file needs either `path` or `hub`, and not both")
    if file.limit is not None and file.limit < 1:
        raise UserError(f"{describe(file)}: limit is {file.limit}; it must be at least 1")
    chosen = _Filter(file)
    if file.path is None:
        table = _from_batches(_hub_table(file).to_batches(CHUNK), names, chosen, file)
    else:
        path = expand(file.path, "path")
        kind = format_of(path, file.format)
        _require(path, kind)
        if file.header is not None and kind not in ("csv", "tsv"):
            raise UserError(f"{path}: `header:` is for CSV and TSV files without a header line, and this is {kind}")
        table = _parquet(path, names, chosen, file) if kind == "parquet" else _from_text(path, names, chosen, file)
    if table.num_rows == 0:
        raise UserError(chosen.nothing_left())
    return table


def _require(path: Path, kind: str) -> None:
    """UserError where ``path`` is not what its format is read from: a folder of images, or a file that is not empty."""
    if kind != "images" or not path.exists():
        require_file(path)
    elif not path.is_dir():
        raise UserError(f"{path} is a file; `format: images` is for a folder of pictures")


def columns_in(file: DataFile) -> list[str]:
    """The columns of a data file; of JSONL the keys of its first row. Errors as in :func:`read_table`."""
    if file.path is None:
        return list(_hub_table(file).column_names)
    path = expand(file.path, "path")
    if format_of(path, file.format) == "parquet":
        require_file(path)
        return list(_open_parquet(path).schema_arrow.names)
    with contextlib.closing(records_of(path, header=file.header, quotes=file.quotes, given=file.format)) as found:
        return list(next(found, (0, {}))[1])


def place(table: pa.Table, row: int) -> str:
    """Where row ``row`` of a read table stands in its file: ``line 17`` (``row 17`` for Parquet and the hub)."""
    unit = (table.schema.metadata or {}).get(b"ftft.unit", b"row").decode()
    return f"{unit} {table.column(LINE)[row].as_py()}"


def records_of(
    path: Path, *, header: Sequence[str] | None = None, quotes: bool | None = None, given: str | None = None
) -> Generator[Record, None, None]:
    """(line or row number, values by column) of every row of a file of any format (``given``, else by name), lazily."""
    kind = format_of(path, given)
    _require(path, kind)
    if kind == "images":
        yield from folder_records(path)
        return
    if kind == "parquet":
        start = 1
        for batch in _parquet_batches(_open_parquet(path), path, None):
            yield from enumerate(batch.to_pylist(), start=start)
            start += batch.num_rows
        return
    with open_bytes(path) as stream:
        if kind == "jsonl":
            yield from json_records(stream, path)
        else:
            delimiter = "," if kind == "csv" else "\t"
            yield from delimited_records(stream, path, delimiter=delimiter, header=header, quotes=quotes)


class _Filter:
    """The file's ``where``: text equals text, numbers numbers; against text, 1 is "1" and true is "true" in any case."""

    def __init__(self, file: DataFile) -> None:
        self.name = describe(file)
        self.where: Mapping[str, str | int | bool] = file.where or {}
        self.limit = file.limit
        self.rows = 0
        self.values: dict[str, set[str]] = {column: set() for column in self.where}
        self.matched = dict.fromkeys(self.where, False)

    def keeps(self, record: Mapping[str, Any]) -> bool:
        self.rows += 1
        kept = True
        for column in self.where:  # every column is looked at, so that the sentence for no row at all can say which failed
            kept &= self.matches(column, record.get(column))
        return kept

    def matches(self, column: str, value: Any) -> bool:
        seen = self.values[column]
        if len(seen) < 1000:
            seen.add(str(value))
        same = same_value(value, self.where[column])
        self.matched[column] |= same
        return same

    def nothing_left(self) -> str:
        if not self.rows or not self.where:
            return f"{self.name} has no rows; a data file with at least one row is needed"
        for column, value in self.where.items():
            if not self.matched[column]:
                known = sorted(self.values[column])
                return f'{self.name}: no row has {column} = "{value}" as `where` asks{did_you_mean(str(value), known)}'
        return f"{self.name}: no row fulfils all conditions of `where` at once"


def same_value(value: Any, wanted: str | int | bool) -> bool:
    """Whether a cell has the value that a recipe's ``where`` asks for."""
    if isinstance(value, str) or isinstance(wanted, str):
        if isinstance(value, bool) or isinstance(wanted, bool):
            return str(value).casefold() == str(wanted).casefold()
        return str(value) == str(wanted)
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _missing_column(file: DataFile, missing: Iterable[str], known: Iterable[str]) -> UserError:
    name, known = sorted(missing)[0], list(known)
    listed = ", ".join(known[:30]) + (f", and {len(known) - 30} more" if len(known) > 30 else "")
    suggestion = did_you_mean(name, known)
    suggestion = suggestion if suggestion.startswith("; did") else ""
    return UserError(f'{describe(file)} has no column "{name}"; it has {listed}{suggestion}')


def _from_text(path: Path, names: list[str], chosen: _Filter, file: DataFile) -> pa.Table:
    missing = {*names, *chosen.where}
    known: dict[str, None] = {}
    chunks = _Chunks(names, str(path))
    with contextlib.closing(records_of(path, header=file.header, quotes=file.quotes, given=file.format)) as found:
        for line, record in found:
            if missing:
                known.update(dict.fromkeys(record))
                missing.difference_update(record)
                if missing and format_of(path, file.format) != "jsonl":
                    raise _missing_column(file, missing, known)
            if not chosen.keeps(record):
                continue
            chunks.add(line, record)
            if chunks.rows == chosen.limit:
                break
    if missing and known:
        raise _missing_column(file, missing, known)
    return chunks.table()


class _Chunks:
    """Rows gathered into Arrow chunk by chunk, so that Python objects of one chunk exist at a time."""

    def __init__(self, names: list[str], source: str) -> None:
        self.names, self.source, self.rows = names, source, 0
        self.pending: list[list[Any]] = [[] for _ in names]
        self.lines: list[int] = []
        self.done: list[list[pa.Array]] = [[] for _ in names]
        self.kinds: list[str | None] = [None for _ in names]
        self.line_chunks: list[pa.Array] = []

    def add(self, line: int, record: Mapping[str, Any]) -> None:
        self.rows += 1
        self.lines.append(line)
        for values, name in zip(self.pending, self.names):
            values.append(record.get(name))
        if len(self.lines) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        for index in range(len(self.names)):
            self._convert(index)
        self.line_chunks.append(pa.array(self.lines, pa.int64()))
        self.lines = []

    def _convert(self, index: int) -> None:
        values, self.pending[index] = self.pending[index], []
        kinds = dict.fromkeys(kind for kind in map(_kind, values) if kind is not None)
        if self.kinds[index] is None and kinds:
            self.kinds[index] = next(iter(kinds))
        if set(kinds) - {self.kinds[index]}:
            self._refuse_mixture(index, values)
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError) as error:
            raise UserError(self._inconvertible(index, values, error)) from None
        self.done[index] += array.chunks if isinstance(array, pa.ChunkedArray) else [array]

    def _refuse_mixture(self, index: int, values: list[Any]) -> None:
        for line, value in zip(self.lines, values):
            kind = _kind(value)
            if kind not in (None, self.kinds[index]):
                raise UserError(
                    f'{self.source}, line {line}: the column "{self.names[index]}" holds {kind} where the rows before '
                    f"hold {self.kinds[index]}; a column must hold one kind of value"
                )

    def _inconvertible(self, index: int, values: list[Any], error: Exception) -> str:
        for line, value in zip(self.lines, values):
            try:
                pa.array([value], from_pandas=True)
            except UnicodeError:
                reason = "holds half a surrogate pair, which is not valid Unicode text"
            except (OverflowError, pa.ArrowException, ValueError, TypeError):
                reason = (
                    "holds a number beyond 64 bits; write it as a string"
                    if isinstance(value, int)
                    else f"cannot be read ({error})"
                )
            else:
                continue
            return f'{self.source}, line {line}: the column "{self.names[index]}" {reason}'
        return f'{self.source}: the column "{self.names[index]}" cannot be read ({error})'

    def table(self) -> pa.Table:
        if self.lines:
            self.flush()
        arrays = [_unify(chunks, self.source, name) for name, chunks in zip(self.names, self.done)]
        table = pa.table([*arrays, pa.chunked_array(self.line_chunks, pa.int64())], names=[*self.names, LINE])
        return table.replace_schema_metadata({"ftft.unit": "line"})


def _kind(value: Any) -> str | None:
    """The kind of a JSON value, by which mixed columns are refused; None for null and NaN, which go with every kind."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "booleans"
    return "numbers" if isinstance(value, (int, float)) else "lists or objects"


def _unify(chunks: list[pa.Array], source: str, name: str) -> pa.ChunkedArray:
    types = {chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)}
    if len(types) <= 1:
        kind = next(iter(types), pa.null())
        return pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
    try:
        return pa.concat_tables([pa.table([c], names=[name]) for c in chunks], promote_options="permissive").column(0)
    except pa.ArrowException as error:
        raise UserError(f'{source}: the column "{name}" holds different kinds of values ({error})') from None


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        if path.suffix.lower() == ".gz":
            with open_bytes(path) as stream:
                return pq.ParquetFile(pa.BufferReader(stream.read()))
        return pq.ParquetFile(path)
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _parquet_batches(opened: pq.ParquetFile, path: Path, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    known = opened.schema_arrow.names
    present = known if names is None else [name for name in known if name in names]
    try:
        for batch in opened.iter_batches(batch_size=65536, columns=present):
            batch.validate(full=True)  # invalid UTF-8 shows only here
            yield batch
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged and cannot be read as Parquet ({' '.join(str(error).split())[:200]})")


def _parquet(path: Path, names: list[str], chosen: _Filter, file: DataFile) -> pa.Table:
    opened = _open_parquet(path)
    missing = {*names, *chosen.where} - set(opened.schema_arrow.names)
    if missing:
        raise _missing_column(file, missing, opened.schema_arrow.names)
    return _from_batches(_parquet_batches(opened, path, [*names, *chosen.where]), names, chosen, file)


def _from_batches(batches: Iterable[pa.RecordBatch], names: list[str], chosen: _Filter, file: DataFile) -> pa.Table:
    """The wanted columns of the batches' rows that the filter keeps, dictionaries decoded, NaN made null."""
    tables: list[pa.Table] = []
    kept = 0
    for batch in batches:
        missing = {*names, *chosen.where} - set(batch.schema.names)
        if missing:
            raise _missing_column(file, missing, batch.schema.names)
        keep = np.ones(batch.num_rows, dtype=bool)
        for column in chosen.where:
            encoded = batch.column(column)
            encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
            matches = np.array([chosen.matches(column, value) for value in encoded.dictionary.to_pylist()] + [False])
            codes = encoded.indices.fill_null(len(matches) - 1).to_numpy(zero_copy_only=False)
            keep &= matches[codes]
        numbers = chosen.rows + 1 + np.flatnonzero(keep)
        chosen.rows += batch.num_rows
        if chosen.limit is not None:
            numbers = numbers[: chosen.limit - kept]
        rows = pa.array(numbers - (chosen.rows - batch.num_rows) - 1)
        kept += len(numbers)
        arrays = [_plain(batch.column(name).take(rows)) for name in names]
        tables.append(pa.table([*arrays, pa.array(numbers, pa.int64())], names=[*names, LINE]))
        if kept == chosen.limit:
            break
    if not tables:
        return pa.table({LINE: pa.array([], pa.int64())})
    metadata = {"ftft.unit": "row", **{f"ftft.labels.{k}": v for k, v in _class_names(batch.schema, names).items()}}
    return pa.concat_tables(tables).replace_schema_metadata(metadata)


def _plain(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return pa.array(values, mask=np.isnan(values))
    return array


def _class_names(schema: pa.Schema, names: Sequence[str]) -> dict[str, str]:
    """Label names that a hub dataset (or a Parquet file it wrote) carries with an integer column, as JSON."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: features.get(name) for name in names}
        return {
            name: json.dumps(f["names"]) for name, f in found.items() if f and f.get("_type") == "ClassLabel" and f.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _hub_table(file: DataFile) -> pa.Table:
    import datasets

    try:
        dataset = datasets.load_dataset(file.hub, file.hub_config, split=file.hub_split)
        return dataset.with_format("arrow")[:].replace_schema_metadata(dataset.features.arrow_schema.metadata)
    except Exception as error:  # the hub's errors come from several libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{describe(file)} cannot be loaded: {reason}") from None
