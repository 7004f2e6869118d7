"""How an objective begins: with the same random numbers in all processes."""

from __future__ import annotations

from collections.abc import Callable

from ftft.engine.processes import Processes
from ftft.engine.training import Training
from ftft.methods.contract import Batch, Loss, Models
from ftft.state import rng


def started(training: Training, models: Models, processes: Processes) -> Callable[[Batch], Loss]:
    """The training's objective, begun with the first process' random numbers; what each draws later is its own. Called by all
    processes."""
    own = rng.capture()
    first = processes.from_first(own)
    # Of CUDA each process has the state of its own device alone.
    rng.restore({**first, "cuda": dict(zip(own["cuda"], first["cuda"].values()))})
    loss_of = training.objective.start(models, training.task)
    if not processes.is_first:
        rng.restore(own)
    return loss_of
