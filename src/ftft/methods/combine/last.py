"""The last checkpoint: what training ended with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class Last:
    """Keep the weights of the last step."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = False

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The state of the checkpoint with the highest step."""
        from ftft.methods.contract import Artefact

        last = max(checkpoints, key=lambda checkpoint: checkpoint.step)
        return Artefact(kind="weights", state=last.load(), step=last.step)
