"""Scores as a file (scores.parquet: ``id`` and one float64 column per score), also of dynamics too large for memory."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ftft.dynamics.dynamics_file import KEY, ROWS_AT_ONCE, DynamicsFile, check_unique, damaged, open_file, open_parquet
from ftft.dynamics.scores import available_scores, check_score, choose_epochs, compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import atomic_path

FORMAT, VERSION = "ftft/scores", 1
ENDINGS = (".parquet", ".csv", ".jsonl")
BATCH = 65_536  # rows read and scored at a time
Scored = tuple[pa.Array, dict[str, np.ndarray]]


def score_file(
    source: Path | str | Dynamics,
    out: Path | str,
    names: Sequence[str] | None = None,
    *,
    ddof: int = 0,
    window: int | None = None,
    include_ci: bool = False,
    seed: int = 0,
    epochs: Sequence[int] | None = None,
    drop_first: int = 0,
    workers: int | None = None,
) -> tuple[str, ...]:
    """Score a dynamics file of ours, or dynamics in memory, batch by batch into the Parquet file ``out``; gives the names
    of the scores written.

    Of a file, a few batches of rows and the ids are in memory. Settings are those of ``compute_scores`` and
    ``choose_epochs``; ``workers`` threads score at the same time (by default one per processor, at most 4).
    Raises UserError as ``read_dynamics`` and ``compute_scores`` do; nothing is left at ``out`` then.
    """
    table = source if isinstance(source, Dynamics) else open_file(source)
    where = "the table of dynamics" if isinstance(source, Dynamics) else str(source)
    if not len(table):
        raise UserError(f"{where} holds no examples, so there is nothing to score")
    first = next(_batches(table, 1))
    chosen = choose_epochs(first, drop_first=drop_first, only=epochs)
    wanted = available_scores(first, num_epochs=len(chosen)) if names is None else list(names)
    for name in wanted:  # refuse an impossible score before the first row is read
        check_score(first, name, num_epochs=len(chosen))
    settings = {"ddof": ddof, "window": window, "include_ci": include_ci, "seed": seed, "epochs": chosen}

    def score(batch: Dynamics) -> Scored:
        return _short(batch.ids), compute_scores(
            batch, wanted, ddof=ddof, window=window, include_ci=include_ci, seed=seed, epochs=chosen
        )

    ids: list[pa.Array] = []
    with atomic_path(out) as temporary:
        with _writer(temporary, wanted, len(table), settings) as writer:
            for batch_ids, scores in _in_order(_batches(table, BATCH), score, workers or min(4, os.cpu_count() or 1)):
                writer.write_table(_table(batch_ids, scores, writer.schema))
                ids.append(batch_ids)
        check_unique(pa.chunked_array(ids, type=pa.string()), where)
    return tuple(wanted)


def _batches(table: Dynamics | DynamicsFile, size: int) -> Iterator[Dynamics]:
    if isinstance(table, DynamicsFile):
        return table.batches(size)
    return (table.of_rows(slice(start, start + size)) for start in range(0, len(table), size))


def _short(ids: pa.Array) -> pa.Array:
    """Part of a column as strings with 32-bit offsets, whatever the size of the whole column."""
    return ids if pa.types.is_string(ids.type) else ids.take(pa.array(np.arange(len(ids)))).cast(pa.string())


def _in_order(batches: Iterator[Dynamics], score: Callable[[Dynamics], Scored], workers: int) -> Iterator[Scored]:
    """The scores of every batch, in their order; batches are scored by threads while the next one is read."""
    pending: deque[Future[Scored]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for batch in batches:
            pending.append(pool.submit(score, batch))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def write_scores(
    ids: pa.Array, scores: Mapping[str, np.ndarray], path: Path | str, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Write scores (each float64 [N]) of N examples atomically, by the path's ending: Parquet (with ``settings``, how they
    were computed, in its header), CSV or JSON lines. NaN becomes null (an empty field in CSV)."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} must end in {', '.join(ENDINGS)}, which says how the scores are written")
    ids = ids.cast(pa.string())
    with atomic_path(path) as temporary:
        if ending == ".parquet":
            with _writer(temporary, list(scores), len(ids), settings or {}) as writer:
                writer.write_table(_table(ids, scores, writer.schema), row_group_size=ROWS_AT_ONCE)
            return
        table = _table(ids, scores, pa.schema([("id", pa.string()), *((name, pa.float64()) for name in scores)]))
        if ending == ".csv":
            pa.csv.write_csv(table, temporary)
            return
        with open(temporary, "w", encoding="utf-8") as stream:
            for batch in table.to_batches(ROWS_AT_ONCE):
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def _writer(path: Path, names: Sequence[str], rows: int, settings: Mapping[str, Any]) -> pq.ParquetWriter:
    header = {"format": FORMAT, "format_version": VERSION, "examples": rows, "scores": list(names), "settings": dict(settings)}
    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in names)])
    schema = schema.with_metadata({KEY: json.dumps(header).encode()})
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=False, write_statistics=["id"])


def _table(ids: pa.Array, scores: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    columns = [pa.array(values, type=pa.float64(), from_pandas=True) for values in scores.values()]  # NaN to null
    return pa.table([ids, *columns], schema=schema)


def read_scores(path: Path | str) -> Scored:
    """Ids and scores (float64 [N], NaN for null) of a file of scores; UserError where it is damaged, of another kind or
    from a newer version."""
    parquet = open_parquet(path)
    try:
        header = json.loads((parquet.schema_arrow.metadata or {}).get(KEY, b"{}"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: its header is not JSON ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f'{path} is not a file of the kind "{FORMAT}"')
    if not isinstance(header.get("format_version"), int) or header["format_version"] > VERSION:
        found = header.get("format_version")
        raise UserError(f"{path} has format version {found}, and this ftft reads up to {VERSION}; upgrade ftft to read it")
    names = header.get("scores", [])
    missing = [name for name in ["id", *names] if name not in parquet.schema_arrow.names]
    if missing or header.get("examples") != parquet.metadata.num_rows:
        what = f"has no column {missing[0]}" if missing else f"has {parquet.metadata.num_rows} rows"
        raise UserError(f"{path} is damaged: its header lists {header.get('examples')} examples, and it {what}")
    try:
        table = parquet.read(columns=["id", *names])
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    check_unique(table["id"], str(path))
    return table["id"].combine_chunks(), {name: table[name].to_numpy().astype(np.float64) for name in names}
