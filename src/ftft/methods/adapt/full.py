"""Full fine-tuning: every parameter of the model may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class Full:
    """Train all parameters."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself with every parameter trainable."""
        from ftft.methods.contract import Adapted

        return Adapted(model.requires_grad_(True))
