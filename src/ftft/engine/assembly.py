"""The methods of a stage put together around a loaded model, in the order in which they depend on one another."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftft.methods.contract import Adapted, Models, StepHook, Trainables

if TYPE_CHECKING:
    import torch

    from ftft.engine.sharding import Shards
    from ftft.methods.contract import Adapter, Calibration, OptimizerMethod


@dataclass
class Assembled:
    """What a :class:`ftft.engine.training.Training` takes: the ``models`` by role, the ``optimizer`` and the hooks
    ``before_step``; ``adapted``, which merges what was learned back; and the model's ``shards``, if it lies in such: to be left
    before anything is merged."""

    models: Models
    adapted: Adapted
    optimizer: torch.optim.Optimizer
    before_step: Sequence[StepHook]
    shards: Shards | None = None

    @property
    def sharding(self) -> str:
        """How the processes hold the model, as the recipe's setting says it."""
        return "none" if self.shards is None else "fsdp2"

    def leave_shards(self) -> None:
        """Have the model whole in the first process; all must call it. Nothing changes where there are no shards."""
        if self.shards is not None:
            self.shards.leave()


def assemble(
    model: torch.nn.Module,
    adapt: Adapter,
    objective: Any,
    optimize: OptimizerMethod,
    calibration: Calibration | None,
    *,
    seed: int = 0,
    shard: Callable[[torch.nn.Module], Shards] | None = None,
) -> Assembled:
    """Adapt ``model`` (in place or not) and start the optimizer on what it leaves trainable.

    What the methods need is given to those that declare it: the calibration batches to an adapter, the frozen base to an
    objective. ``shard`` cuts the adapted model before the optimizer makes its state. Raises UserError where ``adapt`` leaves
    nothing trainable.
    """
    others = {"frozen": frozen_copy(model)} if "frozen_base" in needs_of(objective) else {}
    adapted = adapt.adapt(model, calibration if "calibration" in needs_of(adapt) else None)
    shards = None if shard is None else shard(adapted.model)
    # In shards the pairs' factors are no parameters any more.
    optimizer = optimize.start(Trainables.of(adapted.model, adapted.pairs if shards is None else (), seed))
    hooks = (adapted.before_step, getattr(optimizer, "before_step", None))
    return Assembled(Models(adapted.model, others), adapted, optimizer, [hook for hook in hooks if hook is not None], shards)


def needs_of(method: Any) -> Sequence[str]:
    """What a method declares that it needs."""
    declared = getattr(method, "needs", ())
    return (declared,) if isinstance(declared, str) else declared


def frozen_copy(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it is, in memory of its own, in evaluation mode and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)
