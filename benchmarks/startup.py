"""How long the command line takes of its own before it does what it is for, beyond importing the libraries.

    python benchmarks/startup.py [--repeats 7] [--out FILE]

Timed from the start of the process: `ftft --help` and `ftft check` to their end, `ftft run` to the moment before the first
step, of a recipe with 200 rows and a model of two small layers. Each is compared with a process that does nothing but import
the very modules of other packages that the command had imported by then; ``own`` is the difference: our modules' import and
all that is computed, reading the data and loading the model included. Both are started ``--repeats`` times, A B B A; the
figures are medians over the pairs, of wall seconds and of processor seconds, which are steadier on a machine that others use.
Target: ``own`` at most 1 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from telling import cores, tell

TARGET = 1.0  # seconds
OURS = "ftft"
MARK = "reached "

# What the child runs; it says when it got to the moment that is timed, by the clock that all processes share, and with what.
REPORT = f"""
import json, os, sys, time
def reached():
    known = time.monotonic(), time.process_time(), [name for name in sys.modules if name.partition(".")[0] != "{OURS}"]
    sys.stderr.write("\\n{MARK}" + json.dumps(known) + "\\n")
    sys.stderr.flush()
"""


def to_its_end(*arguments: str) -> str:
    """A program that runs a command of the command line."""
    return f"{REPORT}from ftft.cli.main import main\ntry:\n    main({list(arguments)!r})\nexcept SystemExit:\n    reached()\n"


def to_the_first_step(*arguments: str) -> str:
    """A program that runs a command up to the moment before its first training step."""
    stop = "ftft.engine.loop.TrainingLoop.run = lambda loop: (reached(), os._exit(0))"
    return f"{REPORT}from ftft.cli.main import main\nimport ftft.engine.loop\n{stop}\nmain({list(arguments)!r})\n"


def importing(names: Sequence[str]) -> str:
    """A program that imports modules; what cannot be imported by its name alone is left out."""
    return f"""{REPORT}
import importlib
for name in {list(names)!r}:
    if name != "__main__" and name not in sys.modules:
        try:
            importlib.import_module(name)
        except Exception:
            pass
reached()
"""


def prepare(folder: Path) -> Path:
    """Data, a model and a recipe of one stage in ``folder``."""
    one = common.subject("tiny")
    one.model.save_pretrained(folder / "model")
    one.tokenizer.save_pretrained(folder / "model")
    examples = common.sentence_pairs(200, one.tokenizer)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as stream:
        for row, (text, label) in enumerate(zip(examples.inputs["text"].to_pylist(), examples.labels.tolist())):
            stream.write(json.dumps({"id": f"row-{row}", "text": text, "label": str(label)}) + "\n")
    data = {"train": {"path": "train.jsonl"}, "columns": {"id": "id", "text": ["text"], "label": "label"}}
    stage = {"model": {"path": "model"}, "train": {"epochs": 1, "precision": "fp32"}}
    recipe = {"data": data, "stages": {"erm": stage}, "output": str(folder / "runs")}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process to its mark, and the modules of others it had imported by then."""

    wall: float
    processor: float
    modules: list[str]


def start(program: str, folder: Path) -> Start:
    """Run a program in a new interpreter."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment)
    _, found, after = done.stderr.partition(f"\n{MARK}")
    if not found:
        raise SystemExit(f"the command did not get to its moment:\n{done.stdout}{done.stderr[-2000:]}")
    at, processor, modules = json.loads(after.splitlines()[0])
    return Start(at - begun, processor, modules)


def measure(program: str, repeats: int, folder: Path) -> dict[str, Any]:
    """The seconds of a command, of importing what it imports, and the difference."""
    imports = importing(start(program, folder).modules)
    start(imports, folder)  # what is not in the disk's cache yet is no fault of either
    pairs = []
    for turn in range(repeats):
        sides = (program, imports) if turn % 2 == 0 else (imports, program)
        both = [start(one, folder) for one in sides]
        pairs.append(both if turn % 2 == 0 else both[::-1])
    result: dict[str, Any] = {}
    for per in ("wall", "processor"):
        ours, libraries = (np.array([getattr(pair[side], per) for pair in pairs]) for side in (0, 1))
        own = ours - libraries
        result[per] = {
            "own_seconds": round(float(np.median(own)), 4),
            "least_and_most": [round(float(own.min()), 4), round(float(own.max()), 4)],
            "libraries_seconds": round(float(np.median(libraries)), 4),
            "ratio": round(float(np.median(ours / libraries)), 4),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="starts of each command")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = str(prepare(Path(folder)))
        commands = {
            "--help": to_its_end("--help"),
            "check": to_its_end("check", recipe),
            "run, up to the first step": to_the_first_step("run", recipe),
        }
        found = {name: measure(program, arguments.repeats, Path(folder)) for name, program in commands.items()}
    fields = {"repeats": arguments.repeats, "commands": found, "target_seconds": TARGET}
    tell("startup", fields, machine={"cores": cores(), "load_before": common.LOAD_BEFORE}, out=arguments.out)


if __name__ == "__main__":
    main()
