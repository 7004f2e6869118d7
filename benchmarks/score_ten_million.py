"""How long, and in how much memory, every score of ten million examples takes, from Parquet to Parquet.

    python benchmarks/score_ten_million.py [--examples 10000000] [--layout wide|long] [--json FILE]

Writes random dynamics (6 epochs x 3 classes, string ids, rows in arbitrary order) to a temporary folder, then scores
them in a fresh process and prints its seconds and peak memory. ``wide`` is our own file, one row per example; ``long``
is a foreign table, one row per example and epoch, all rows shuffled, which has to be joined by id first.
Target: at most 60 s and 4 GiB on 2 cores.
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EPOCHS, CLASSES, CHUNK = 6, 3, 1_000_000


def ids_of(numbers: np.ndarray) -> pa.Array:
    """Ids such as ``ex-0000123-7``: strings of 12 characters."""
    return pa.array(np.char.add(np.char.add("ex-", np.char.zfill(numbers.astype("U7"), 7)), "-7"))


def write_wide(path: Path, n: int, seed: int) -> None:
    """Our format, written part by part so that this process stays small too."""
    from ftft.dynamics.parquet import write_dynamics
    from ftft.dynamics.table import Dynamics

    generator = np.random.default_rng(seed)
    numbers = generator.permutation(n)
    writer, header = None, {}
    for start in range(0, n, CHUNK):
        part = numbers[start : start + CHUNK]
        logits = generator.standard_normal((EPOCHS, len(part), CLASSES), dtype=np.float32) * 3
        gold = generator.integers(0, CLASSES, len(part), dtype=np.int32)
        seen = np.ones((EPOCHS, len(part)), dtype=bool)
        piece = path.with_suffix(".part")
        write_dynamics(Dynamics(ids_of(part), tuple(range(EPOCHS)), seen, gold=gold, logits=logits), piece)
        table = pq.read_table(piece)
        if writer is None:
            header = json.loads(table.schema.metadata[b"ftft"]) | {"examples": n}
            schema = table.schema.with_metadata({b"ftft": json.dumps(header).encode()})
            writer = pq.ParquetWriter(path, schema, use_dictionary=False)
        writer.write_table(table.replace_schema_metadata(writer.schema.metadata), row_group_size=131_072)
        piece.unlink()
    if writer is not None:
        writer.close()


def write_long(path: Path, n: int, seed: int) -> None:
    """One row per (id, epoch) in random order: the table a user's own logging would leave."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(np.int32(n * EPOCHS)) if n * EPOCHS < 2**31 else generator.permutation(n * EPOCHS)
    gold = generator.integers(0, CLASSES, n, dtype=np.int32)
    writer = None
    for start in range(0, len(rows), CHUNK):
        epoch, example = np.divmod(rows[start : start + CHUNK], n)
        logits = generator.standard_normal((len(epoch), CLASSES), dtype=np.float32) * 3
        columns = {"id": ids_of(example), "epoch": epoch.astype(np.int32), "gold": gold[example]}
        table = pa.table(columns | {f"logit_{index}": logits[:, index] for index in range(CLASSES)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=131_072)
    if writer is not None:
        writer.close()


def score(source: Path, layout: str, out: Path) -> None:
    """The measured part, in a process of its own: prints one JSON object."""
    started = time.perf_counter()
    from ftft.dynamics.long_table import read_long_table
    from ftft.dynamics.score_file import score_file, write_scores
    from ftft.dynamics.scores import compute_scores

    read = None
    if layout == "wide":
        names = list(score_file(source, out))
    else:
        dynamics = read_long_table(source)
        read = time.perf_counter() - started
        scores = compute_scores(dynamics)
        names = list(scores)
        write_scores(dynamics.ids, scores, out)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "read_seconds": read, "peak_bytes": peak_bytes(), "scores": names}))


def peak_bytes() -> int:
    """The peak resident memory of this process. Linux's ``ru_maxrss`` would count the parent's memory before exec too."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000_000)
    parser.add_argument("--layout", choices=("wide", "long"), default="wide")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--score", nargs=2, type=Path, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score[0], arguments.layout, arguments.score[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "dynamics.parquet", Path(folder) / "scores.parquet"
        print(f"writing {arguments.examples:,} examples x {EPOCHS} epochs x {CLASSES} classes ({arguments.layout})", flush=True)
        (write_wide if arguments.layout == "wide" else write_long)(source, arguments.examples, arguments.seed)
        command = [sys.executable, __file__, "--layout", arguments.layout, "--score", str(source), str(out)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        measured |= {"examples": arguments.examples, "layout": arguments.layout, "file_bytes": source.stat().st_size}
        measured |= {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "pyarrow": pa.__version__}
        measured |= {"numpy": np.__version__, "python": platform.python_version()}
        assert pq.ParquetFile(out).metadata.num_rows == arguments.examples
    gibibytes = measured["peak_bytes"] / 2**30
    print(f"{len(measured['scores'])} scores in {measured['seconds']:.1f} s, peak memory {gibibytes:.2f} GiB")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
