"""Tokens per second of pretraining, for each kind, and how many steps fit into 20 minutes on two idle cores.

    python benchmarks/pretraining.py [TEXT ...] [--seconds 60] [--kinds decoder-1m mlm-small] [--threads N] [--out FILE]
    python benchmarks/pretraining.py --table        # writes the table of docs/pretraining.md from the committed result

Without a text, random words are generated. Every kind trains for so many seconds, its first steps not counted; wall and
processor seconds are those of whole steps. Steps that fit: SHARE of what two cores would do at the measured rate per processor
second, since two threads do not work twice as fast as one, and the tokenizer and the held-out figures take their time too. On
a machine that others use, the rate per processor second is too low rather than too high.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from telling import between_markers, tell

from ftft.engine.precision import Precision, resolve
from ftft.pretraining.kinds import KINDS, MINUTES, VOCABULARY, Kind
from ftft.pretraining.loop import Run, train
from ftft.pretraining.objectives import OBJECTIVES
from ftft.pretraining.packing import open_blocks, write_tokens
from ftft.pretraining.texts import Piece, pieces_of
from ftft.pretraining.tokenizing import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
RESULT, PAGE = ROOT / "results" / "benchmarks" / "pretraining.json", ROOT / "docs" / "pretraining.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LIMIT = 1_500_000  # characters: enough for a tokenizer and for a minute of steps
WARMUP = 2
SHARE = 0.7


class Enough(Exception):
    """The seconds are over."""


class Clock:
    """Notes wall and processor seconds of every step, and ends the run after enough of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._last: tuple[float, float] | None = None
        self._steps = 0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] != "step":
            return
        now = time.perf_counter(), time.process_time()
        self._steps += 1
        if self._last is not None and self._steps > WARMUP:
            self.wall.append(now[0] - self._last[0])
            self.processor.append(now[1] - self._last[1])
        self._last = now
        if self.wall and sum(self.wall) >= self.seconds:
            raise Enough


def beginning(texts: list[Path]) -> list[Piece]:
    """The first characters of the texts, or generated words with Zipf's frequencies."""
    if not texts:
        generator = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlu"))
        words = ["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(8000)]
        drawn = np.minimum(generator.zipf(1.2, 150_000), len(words)) - 1
        lines = np.array_split(np.array(words)[drawn], 10_000)
        return [Piece(" ".join(line) + "\n", last=False) for line in lines]
    pieces, left = [], LIMIT
    for piece in pieces_of(texts, "text"):
        pieces.append(piece)
        left -= len(piece.text)
        if left <= 0:
            break
    return pieces


def measure(name: str, kind: Kind, tokenizer: Any, tokens: Path, seconds: float, precision: Precision) -> dict[str, Any]:
    """The rates of one kind on a file of tokens."""
    blocks = open_blocks(tokens, tokenizer, kind.block)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(seconds)
        run = Run(
            kind=kind,
            objective=OBJECTIVES[kind.objective](kind, tokenizer, 0),
            blocks=blocks,
            held_out=blocks.only(np.arange(1)),
            steps=kind.steps,
            seed=0,
            precision=precision,
            folder=Path(folder) / "checkpoints",
            checkpoint_seconds=1e9,
            notify=clock,
        )
        with contextlib.suppress(Enough):
            train(run)
    wall, processor = float(np.mean(clock.wall)), float(np.mean(clock.processor))
    per_processor_second = kind.tokens_per_step / processor
    return {
        "kind": name,
        "parameters": sum(one.numel() for one in run.objective.model.parameters()),
        "vocabulary": len(tokenizer),
        "precision": run.precision,
        "tokens_per_step": kind.tokens_per_step,
        "steps_timed": len(clock.wall),
        "tokens_per_second": round(kind.tokens_per_step / wall),
        "tokens_per_processor_second": round(per_processor_second),
        "steps_that_fit": int(SHARE * 2 * per_processor_second * 60 * MINUTES / kind.tokens_per_step),
    }


def table(result: dict[str, Any]) -> str:
    """The Markdown table of a result."""
    lines = [
        "| kind | parameters | tokens a step | default steps | tokens | steps that fit | tokens per second here "
        "| per processor second |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in result["kinds"]:
        steps = KINDS[one["kind"]].steps
        tokens = f"{steps * one['tokens_per_step'] / 1e6:.1f} M"
        lines.append(
            f"| `{one['kind']}` | {one['parameters']:,} | {one['tokens_per_step']:,} | {steps:,} | {tokens} "
            f"| {one['steps_that_fit']:,} | {one['tokens_per_second']:,} | {one['tokens_per_processor_second']:,} |"
        )
    machine = result["machine"]
    load = f"load {machine['load_before']} before, {machine['load_after']} after, on {machine['cores_of_machine']} cores"
    busy = "a busy machine" if machine["load_before"] > 0.5 else "an idle machine"
    where = f"{machine['processor']}, {machine['threads']} thread(s), {result['kinds'][0]['precision']}"
    return "\n".join([*lines, "", f"Measured on {busy} ({load}): {where}, {result['seconds_each']:g} s for each kind."])


def written(page: str, result: dict[str, Any]) -> str:
    """The page with the table between its markers."""
    return between_markers(page, BEGIN, END, table(result))


def options() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--threads", type=int, help="torch threads; by default torch's choice")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    parser.add_argument("--table", action="store_true", help="only write the table of docs/pretraining.md")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.table:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")
        return
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    load_before, pieces = round(os.getloadavg()[0], 2), beginning(arguments.texts)
    precision, kinds = resolve("auto", torch.device("cpu")), []
    with tempfile.TemporaryDirectory() as folder:
        ready: dict[bool, tuple[Any, Path]] = {}  # decoders and encoders have tokenizers of their own
        for name in arguments.kinds:
            kind = KINDS[name]
            encoder = kind.objective != "causal"
            if encoder not in ready:
                tokenizer = train_tokenizer(pieces, kind.objective, vocabulary=VOCABULARY, max_length=kind.block)
                ready[encoder] = tokenizer, Path(folder) / f"{name}.bin"
                write_tokens(ready[encoder][1], pieces, tokenizer)
            kinds.append(measure(name, kind, *ready[encoder], arguments.seconds, precision))
    load = {"load_before": load_before, "load_after": round(os.getloadavg()[0], 2), "cores_of_machine": os.cpu_count()}
    text = "given" if arguments.texts else "generated"
    fields = {"text": text, "seconds_each": arguments.seconds, "kinds": kinds}
    tell("pretraining", fields, machine=load, out=arguments.out)


if __name__ == "__main__":
    main()
