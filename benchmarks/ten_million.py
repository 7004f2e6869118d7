"""Up to ten million rows through the library: loading with ids and duplicates, dynamics, scores, selection, report.

    python benchmarks/ten_million.py [--rows 100000 1000000 10000000] [--seed 0] [--folder DIR] [--out FILE]

Rows are generated: about 60 characters of text, two classes, an id; an evaluation set of a thousandth of the size shares a
tenth of its rows with training, but for their capitals. Every phase runs in a process of its own through the library's own
functions; its wall and processor seconds and its peak memory are reported, and how the seconds grow from one size to the next
(1 is linear). Targets: at most 4 GiB in every phase, time linear in the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from score_ten_million import peak_bytes
from telling import cores, tell

EPOCHS, CLASSES = 4, 2
CHUNK = 100_000
WORDS = ["a", "film", "plot", "dog", "cat", "man", "woman", "sits", "runs", "under", "bright", "dark", "good", "bad", "never"]
PHRASES = 1000
GIB = 2**30


# -- the data ----------------------------------------------------------------------------------------------------------


def chunks(rows: int, seed: int) -> Iterator[pa.Table]:
    """``id``, ``text`` and ``label`` of so many rows; a number in every text makes it unlike the others."""
    generator = np.random.default_rng(seed)
    phrases = [" ".join(words) for words in generator.choice(WORDS, (PHRASES, 3)).tolist()]
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        drawn = generator.integers(0, PHRASES, (4, count)).tolist()
        texts = [
            f"{start + row} {phrases[a]} {phrases[b]} {phrases[c]} {phrases[d]}" for row, (a, b, c, d) in enumerate(zip(*drawn))
        ]
        labels = np.array(["no", "yes"])[generator.integers(0, CLASSES, count)]
        yield pa.table({"id": [f"row-{start + row:08d}" for row in range(count)], "text": texts, "label": labels})


def write_data(folder: Path, rows: int, seed: int) -> None:
    """``train.jsonl``, the same as ``train.parquet``, and ``test.jsonl``, whose last rows are training rows in capitals."""
    writer = None
    with open(folder / "train.jsonl", "w", encoding="utf-8") as stream:
        for table in chunks(rows, seed):
            stream.writelines(
                f'{{"id": "{id_}", "text": "{text}", "label": "{label}"}}\n'
                for id_, text, label in zip(*(column.to_pylist() for column in table.columns))
            )
            writer = writer or pq.ParquetWriter(folder / "train.parquet", table.schema)
            writer.write_table(table)
    assert writer is not None
    writer.close()
    size = max(100, rows // 1000)
    held = next(chunks(CHUNK, seed + 1)).to_pylist()[:size]
    shared = next(chunks(min(rows, CHUNK), seed)).to_pylist()[: size // 10]
    with open(folder / "test.jsonl", "w", encoding="utf-8") as stream:
        for number, row in enumerate([*held, *shared]):
            stream.write(json.dumps({**row, "id": f"test-{number}", "text": row["text"].upper()}) + "\n")


# -- the phases --------------------------------------------------------------------------------------------------------


def load(folder: Path, name: str, with_ids: bool) -> dict[str, Any]:
    """Read, give ids, hold out, find duplicates, take fingerprints."""
    from ftft.data.loading import load_data
    from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile

    columns = Columns(id="id" if with_ids else None, text=["text"], label="label")
    test = EvaluationFile(path=str(folder / "test.jsonl"), role="ood")
    settings = DataSettings(train=DataFile(path=str(folder / name)), columns=columns, evaluation={"test": test})
    data = load_data(settings)
    return {"rows": len(data.train), "duplicates": data.report["evaluation"]["test"]["duplicates"]["normalised"]}


def record(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    """The dynamics of a training, batch by batch as it sees them, and their file."""
    from ftft.dynamics.buffer import DynamicsBuffer
    from ftft.dynamics.parquet import write_dynamics

    generator = np.random.default_rng(seed)
    table = pq.read_table(folder / "train.parquet", columns=["id", "label"])
    gold = (table["label"].to_numpy() == "yes").astype(np.int32)
    buffer = DynamicsBuffer(table["id"].combine_chunks(), gold, num_classes=CLASSES, metadata={"label_names": ["no", "yes"]})
    for epoch in range(EPOCHS):
        order = generator.permutation(rows)
        for start in range(0, rows, 1000):
            batch = order[start : start + 1000]
            logits = generator.standard_normal((len(batch), CLASSES), dtype=np.float32)
            logits[np.arange(len(batch)), gold[batch]] += epoch
            buffer.observe(epoch, batch, {"logits": logits})
    write_dynamics(buffer.dynamics(), folder / "dynamics.parquet")
    return {"bytes": (folder / "dynamics.parquet").stat().st_size}


def command(*arguments: Any) -> None:
    """A command of the command line, in this process."""
    from ftft.cli.main import main

    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code:
            raise


def report(folder: Path) -> dict[str, Any]:
    """The page of a run whose stage `reference` left these dynamics and whose stage `main` selected by them."""
    from ftft.report.page import page
    from ftft.report.parts import load_parts

    run = folder / "run"
    for stage, file in (("reference", "dynamics.parquet"), ("main", "selection.parquet"), ("main", "selection.parquet.json")):
        place = run / "stages" / stage / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(folder / file, place)
    stages = {"reference": {}, "main": {"use_dynamics_of": "reference"}}
    result = {
        "name": "run",
        "recipe": {"stages": stages},
        "stages": {"reference": {"dynamics": "stages/reference/dynamics.parquet"}, "main": {}},
    }
    written = page(result, load_parts(run, result))
    (folder / "report.html").write_text(written, encoding="utf-8")
    return {"page_bytes": len(written)}


def phases(folder: Path, rows: int, seed: int) -> dict[str, Callable[[], Any]]:
    """By name what is measured, in the order in which one needs another's files."""
    dynamics = folder / "dynamics.parquet"
    return {
        "load JSONL with an id column": lambda: load(folder, "train.jsonl", True),
        "load Parquet, ids from the content": lambda: load(folder, "train.parquet", False),
        "record and write the dynamics": lambda: record(folder, rows, seed),
        "ftft score": lambda: command("score", dynamics, "--out", folder / "scores.parquet"),
        "ftft select": lambda: command("select", dynamics, "--fraction", 0.33, "--out", folder / "selection.parquet"),
        "report page": lambda: report(folder),
        "ftft map, a picture": lambda: command("map", dynamics, "--out", folder / "map.png"),
    }


def run_phase(name: str, folder: Path, rows: int, seed: int) -> None:
    """The measured part, in a process of its own: its last line is one JSON object."""
    started = time.perf_counter()
    found = phases(folder, rows, seed)[name]()
    told = found if isinstance(found, dict) else {}
    measured = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time(), "peak_bytes": peak_bytes()}
    print(json.dumps({**measured, **told}))


# -- the sizes ---------------------------------------------------------------------------------------------------------


def measure(rows: int, seed: int, parent: Path | None, only: list[str] | None) -> dict[str, Any]:
    """Every phase on so many rows."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        write_data(folder, rows, seed)
        found = {}
        for name in phases(folder, rows, seed):
            if only and name not in only:
                continue
            load_before = round(os.getloadavg()[0], 2)
            line = [sys.executable, __file__, "--phase", name, str(folder), str(rows), str(seed)]
            done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            if done.returncode:
                raise SystemExit(f"{name}: {done.stdout}{done.stderr}")
            found[name] = {**json.loads(done.stdout.splitlines()[-1]), "load_before": load_before}
            one = found[name]
            print(
                f"{rows:>10,} {name}: {one['seconds']:.1f} s, {one['cpu_seconds']:.1f} s of processor time, "
                f"{one['peak_bytes'] / GIB:.2f} GiB",
                flush=True,
            )
        return found
    finally:
        shutil.rmtree(folder)


def growth(small: dict[str, Any], large: dict[str, Any], rows: tuple[int, int]) -> dict[str, float]:
    """The power of the number of rows by which each phase's processor seconds grow from one size to the next."""
    step = math.log(rows[1] / rows[0])
    return {name: round(math.log(large[name]["cpu_seconds"] / small[name]["cpu_seconds"]) / step, 3) for name in large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are written meanwhile (4 GB for ten million rows)")
    parser.add_argument("--only", nargs="+", help="these phases only")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    parser.add_argument("--phase", nargs=4, metavar=("NAME", "FOLDER", "ROWS", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        name, folder, rows, seed = arguments.phase
        run_phase(name, Path(folder), int(rows), int(seed))
        return
    sizes = sorted(arguments.rows)
    found = {rows: measure(rows, arguments.seed, arguments.folder, arguments.only) for rows in sizes}
    fields = {
        "epochs": EPOCHS,
        "classes": CLASSES,
        "pyarrow": pa.__version__,
        "sizes": {str(rows): found[rows] for rows in sizes},
        "growth": {f"{a} to {b}": growth(found[a], found[b], (a, b)) for a, b in zip(sizes, sizes[1:])},
    }
    tell("ten_million", fields, machine={"cores": cores(), "arrow_threads": pa.cpu_count()}, out=arguments.out)


if __name__ == "__main__":
    main()
