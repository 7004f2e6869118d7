"""The best checkpoint: the one with the highest score on the validation sets that steer, the earliest on ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class Best:
    """Keep the weights with the best validation score."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = True

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The state of the checkpoint with the highest score (of equal ones the earliest; one without a score, or with
        NaN, does not compete). UserError when no checkpoint has a score."""
        from ftft.methods.contract import Artefact

        scored = [(c.score, c) for c in checkpoints if c.score is not None and not math.isnan(c.score)]
        if not scored:
            raise UserError(
                "combine: best has no checkpoint with a validation score to choose from; give the stage a `stop` section, "
                "which names the validation sets, or use combine: last"
            )
        _, best = max(scored, key=lambda pair: (pair[0], -pair[1].step))
        return Artefact(kind="weights", state=best.load(), step=best.step)
