"""Pretraining from the newest valid checkpoint, or from the start, to the planned end.

A loop of its own beside the engine's, whose parts it uses (batches, learning rate, precision, checkpoints, signals): the engine
trains on a table of examples with ids, collates a batch from its rows alone, and divides a step's loss by one count. Here the
blocks are no examples, the masks differ from step to step, and ELECTRA's two means have a count each.

Everything a step needs is a function of its number and the seed: the blocks, the learning rate, the masks, the generator's
draws. So a checkpoint holds the weights, AdamW's state and the losses, and a resumed run ends bit for bit as a straight one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftft.engine.allocation import kept_memory
from ftft.engine.batches import BatchSchedule
from ftft.engine.checkpoint import CheckpointFolder
from ftft.engine.interrupting import StopSignals, interrupted
from ftft.engine.precision import Precision, autocast
from ftft.engine.provenance import differences, provenance
from ftft.engine.schedule import rate_factor, warmup_steps
from ftft.errors import UserError
from ftft.methods.contract import Trainables
from ftft.pretraining.kinds import Kind
from ftft.pretraining.objectives import Pretraining, figures
from ftft.pretraining.packing import Blocks

WARMUP, CLIP, BETAS = 0.05, 1.0, (0.9, 0.98)
CHECKPOINT_SECONDS = 120.0
_TRAINING, _HELD_OUT = 0, 1  # streams of random numbers


@dataclass
class Run:
    """What a pretraining run is given."""

    kind: Kind
    objective: Pretraining
    blocks: Blocks
    held_out: Blocks
    steps: int
    seed: int
    precision: Precision
    folder: Path
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    warn: Callable[[str], None] = lambda sentence: None
    losses: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    start: dict[str, float] = field(default_factory=dict)


def numbers(seed: int, stream: int, step: int) -> torch.Generator:
    """The random numbers of a step, on the processor whatever the model runs on."""
    drawn = int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(drawn >> 1)


def optimizer_of(run: Run) -> torch.optim.AdamW:
    """AdamW; matrices are decayed, biases and normalisations are not."""
    groups = Trainables.of(run.objective).decay_groups(run.kind.weight_decay)
    return torch.optim.AdamW(groups, lr=run.kind.learning_rate, betas=BETAS, fused=True)


def blocks_seen(steps: int, blocks: int, batch: int) -> int:
    """How many blocks ``steps`` steps learn from: the last batch of a pass over all ``blocks`` holds what is left of them."""
    whole, rest = divmod(steps, math.ceil(blocks / batch))
    return whole * blocks + min(rest * batch, blocks)


def measure(run: Run) -> dict[str, float]:
    """The held-out figures of the model as it is, in float32; the same blocks and masks every time."""
    run.objective.eval()
    sums: dict[str, float] = {}
    with torch.no_grad():
        for index, start in enumerate(range(0, len(run.held_out), run.kind.batch)):
            positions = np.arange(start, min(start + run.kind.batch, len(run.held_out)))
            found = run.objective.sums(run.held_out.take(positions), numbers(run.seed, _HELD_OUT, index))
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    return figures(sums)


def train(run: Run) -> dict[str, float]:
    """Train to the end and give the held-out figures there; ``run`` keeps those of the start, the losses and the seconds.

    Raises Interrupted after Ctrl-C or SIGTERM (a checkpoint is saved first) and UserError when the loss stops being a number.
    """
    optimizer = optimizer_of(run)
    checkpoints = CheckpointFolder(run.folder, warn=run.warn)
    step = _resume(run, checkpoints, optimizer)
    if not run.start:
        run.start = measure(run)
    run.notify({"event": "measured", "step": step, "figures": run.start, "when": "at the start"})
    lengths = np.full(len(run.blocks), run.kind.block, dtype=np.int32)
    schedule = BatchSchedule(np.arange(len(run.blocks)), lengths, run.kind.batch, run.steps, run.seed, shuffle="plain")
    plan: list[np.ndarray] = []
    planned, saved, before = -1, time.monotonic(), run.seconds
    started = time.perf_counter()
    with StopSignals() as stop, kept_memory():
        while step < run.steps:
            epoch = schedule.epoch_of(step)
            if epoch != planned:
                plan, planned = schedule.plan(epoch), epoch
            parts = _step(run, optimizer, step, plan[step - epoch * schedule.steps_per_epoch])
            step += 1
            run.losses.append(parts)
            run.seconds = before + time.perf_counter() - started
            run.notify({"event": "step", "step": step, "steps": run.steps, "loss": parts["loss"]})
            if stop.requested or time.monotonic() - saved >= run.checkpoint_seconds or step == run.steps:
                _save(run, checkpoints, optimizer, step)
                saved = time.monotonic()
            if stop.requested:
                raise interrupted(step, run.steps)
    return measure(run)


def _step(run: Run, optimizer: torch.optim.AdamW, step: int, rows: np.ndarray) -> dict[str, float]:
    run.objective.train()
    factor = rate_factor(step, steps=run.steps, warmup=warmup_steps(run.steps, WARMUP), schedule="cosine")
    for group in optimizer.param_groups:
        group["lr"] = run.kind.learning_rate * factor
    optimizer.zero_grad(set_to_none=True)
    with autocast(run.precision, run.objective.device):
        parts = run.objective.loss(run.blocks.take(rows), numbers(run.seed, _TRAINING, step))
    parts["loss"].backward()
    norm = float(torch.nn.utils.clip_grad_norm_(run.objective.parameters(), CLIP))
    found = {name: float(part.detach()) for name, part in parts.items()}
    if not (math.isfinite(found["loss"]) and math.isfinite(norm)):
        raise UserError(
            f"the loss or its gradient became infinite or NaN at step {step + 1} of {run.steps} and pretraining stopped; "
            "try another --seed, or a smaller kind"
        )
    optimizer.step()
    return found


def _save(run: Run, checkpoints: CheckpointFolder, optimizer: torch.optim.AdamW, step: int) -> None:
    losses = {name: np.array([one[name] for one in run.losses]) for name in run.losses[0]}
    training = {"optimizer": optimizer.state_dict(), "losses": losses, "start": run.start, "seconds": run.seconds}
    checkpoints.save(step, {"model": dict(run.objective.state_dict()), "training": training}, provenance())


def _resume(run: Run, checkpoints: CheckpointFolder, optimizer: torch.optim.AdamW) -> int:
    """Take up the newest valid checkpoint; gives the number of finished steps."""
    found = checkpoints.newest_valid()
    if found is None:
        return 0
    run.objective.load_state_dict(found.trees["model"])
    training: Mapping[str, Any] = found.trees["training"]
    optimizer.load_state_dict(training["optimizer"])
    names, columns = list(training["losses"]), list(training["losses"].values())
    run.losses = [dict(zip(names, map(float, row))) for row in zip(*columns)]
    run.start, run.seconds = training["start"], training["seconds"]
    for sentence in differences(found.info, provenance()):
        run.warn(f"the resumed run may differ in its last digits from a straight one: {sentence}")
    run.notify({"event": "resumed", "step": found.step, "steps": run.steps})
    return found.step
