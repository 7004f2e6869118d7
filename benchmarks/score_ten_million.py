"""How long, and in how much memory, every score of ten million examples takes, from Parquet to Parquet.

    python benchmarks/score_ten_million.py [--examples 10000000] [--layout both|wide|long] [--json FILE]

Writes random dynamics (6 epochs x 3 classes, string ids, rows in arbitrary order) to a temporary folder (3 GB at most),
scores them in a fresh process, checks the scores of a thousand examples against a direct computation, and prints the wall
seconds, the processor's seconds (user and system, all threads) and the peak resident memory of that process. ``wide`` is our
own file, one row per example; ``long`` is a foreign table, one row per example and epoch, all rows shuffled, which has to be
joined by id first. Target: at most 60 s and 4 GiB on 2 cores. Beside other work, wall seconds say little: the processor's
seconds, divided by the cores, bound them from below.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from telling import cores

from ftft.dynamics.table import Dynamics

EPOCHS, CLASSES, CHUNK, ROW_GROUP, CHECKED = 6, 3, 1_000_000, 131_072, 1000


def ids_of(numbers: np.ndarray) -> pa.Array:
    """Ids such as ``ex-00000123-7``: strings of 13 characters."""
    text = np.empty((len(numbers), 13), dtype=np.uint8)
    text[:] = np.frombuffer(b"ex-00000000-7", dtype=np.uint8)
    rest = numbers
    for place in range(10, 2, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, place] += digit.astype(np.uint8)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * 13
    return pa.Array.from_buffers(pa.string(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def write_wide(path: Path, n: int, seed: int) -> Dynamics:
    """Our format, written part by part so that this process stays small too; gives the first examples."""
    from ftft.dynamics.parquet import write_dynamics

    generator = np.random.default_rng(seed)
    numbers = generator.permutation(n)
    writer, checked = None, None
    for start in range(0, n, CHUNK):
        part = numbers[start : start + CHUNK]
        logits = generator.standard_normal((EPOCHS, len(part), CLASSES), dtype=np.float32) * 3
        gold = generator.integers(0, CLASSES, len(part), dtype=np.int32)
        seen = np.ones((EPOCHS, len(part)), dtype=bool)
        piece = path.with_suffix(".part")
        dynamics = Dynamics(ids_of(part), tuple(range(EPOCHS)), seen, gold=gold, logits=logits)
        checked = checked or dynamics.of_rows(slice(0, CHECKED))
        write_dynamics(dynamics, piece)
        table = pq.read_table(piece)
        if writer is None:
            header = json.loads(table.schema.metadata[b"ftft"]) | {"examples": n}
            schema = table.schema.with_metadata({b"ftft": json.dumps(header).encode()})
            writer = pq.ParquetWriter(path, schema, use_dictionary=False)
        writer.write_table(table.replace_schema_metadata(writer.schema.metadata), row_group_size=ROW_GROUP)
        piece.unlink()
    assert writer is not None and checked is not None
    writer.close()
    return checked


def write_long(path: Path, n: int, seed: int) -> Dynamics:
    """One row per (id, epoch) in random order: the table a user's own logging would leave. Gives the first examples."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(np.arange(n * EPOCHS, dtype=np.int32))
    gold = generator.integers(0, CLASSES, n, dtype=np.int32)
    kept = np.zeros((EPOCHS, min(n, CHECKED), CLASSES), dtype=np.float32)
    writer = None
    for start in range(0, len(rows), CHUNK):
        epoch, example = np.divmod(rows[start : start + CHUNK], n)
        logits = generator.standard_normal((len(epoch), CLASSES), dtype=np.float32) * 3
        first = example < kept.shape[1]
        kept[epoch[first], example[first]] = logits[first]
        columns = {"id": ids_of(example), "epoch": epoch.astype(np.int32), "gold": gold[example]}
        table = pa.table(columns | {f"logit_{index}": logits[:, index] for index in range(CLASSES)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=ROW_GROUP)
    assert writer is not None
    writer.close()
    first_ids = ids_of(np.arange(kept.shape[1]))
    seen = np.ones(kept.shape[:2], dtype=bool)
    return Dynamics(first_ids, tuple(range(EPOCHS)), seen, gold=gold[: kept.shape[1]], logits=kept)


def score(source: Path, layout: str, out: Path) -> None:
    """The measured part, in a process of its own: prints one JSON object."""
    started, read = time.perf_counter(), {}
    from ftft.dynamics.long_table import read_long_table
    from ftft.dynamics.score_file import score_file

    table: Path | Dynamics = source
    if layout == "long":
        table = read_long_table(source)
        read = {"read_seconds": time.perf_counter() - started, "read_cpu_seconds": time.process_time()}
    names = score_file(table, out)
    measured = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time(), "peak_bytes": peak_bytes()}
    print(json.dumps({**measured, **read, "scores": names}))


def peak_bytes() -> int:
    """The peak resident memory of this process. Linux's ``ru_maxrss`` would count the parent's memory before exec too."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def check(out: Path, examples: int, sample: Dynamics) -> None:
    """The file holds every example, and the scores of the sample are those computed directly."""
    from ftft.dynamics.scores import compute_scores

    assert pq.ParquetFile(out).metadata.num_rows == examples
    table = pq.read_table(out, filters=pc.field("id").isin(sample.ids))
    at = np.asarray(pc.index_in(sample.ids, value_set=table["id"].combine_chunks()))
    for name, values in compute_scores(sample).items():
        np.testing.assert_allclose(table[name].to_numpy()[at], values, rtol=1e-6, atol=1e-9, err_msg=name)


def measure(layout: str, examples: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "dynamics.parquet", Path(folder) / "scores.parquet"
        print(f"{layout}: writing {examples:,} examples x {EPOCHS} epochs x {CLASSES} classes, seed {seed}", flush=True)
        sample = (write_wide if layout == "wide" else write_long)(source, examples, seed)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        command = [sys.executable, __file__, "--layout", layout, "--score", str(source), str(out)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        check(out, examples, sample)
        settings = {"layout": layout, "examples": examples, "epochs": EPOCHS, "classes": CLASSES, "seed": seed}
        machine = {"cores": cores(), "load_before": load, "arrow_threads": pa.cpu_count(), "machine": platform.machine()}
        versions = {"pyarrow": pa.__version__, "numpy": np.__version__, "python": platform.python_version()}
        return settings | {"file_bytes": source.stat().st_size} | measured | machine | versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000_000)
    parser.add_argument("--layout", choices=("both", "wide", "long"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--score", nargs=2, type=Path, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score[0], arguments.layout, arguments.score[1])
        return
    figures = []
    for layout in ("wide", "long") if arguments.layout == "both" else (arguments.layout,):
        figure = measure(layout, arguments.examples, arguments.seed)
        figures.append(figure)
        reading = ", of which reading {read_seconds:.1f} s wall and {read_cpu_seconds:.1f} s CPU" if layout == "long" else ""
        line = "{layout}: {count} scores in {seconds:.1f} s wall and {cpu_seconds:.1f} s CPU" + reading
        line += "; peak memory {peak:.2f} GiB; {cores} cores, load {load_before:.1f} before, {arrow_threads} Arrow threads"
        print(line.format(**figure, count=len(figure["scores"]), peak=figure["peak_bytes"] / 2**30), flush=True)
    print("python {python}, numpy {numpy}, pyarrow {pyarrow}, {machine}".format(**figures[0]))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
