"""Full fine-tuning: every parameter of the model may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class Full:
    """Train all parameters."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    trainable: ClassVar[str] = "fixed"

    def adapt(self, model: torch.nn.Module, calibration: Iterator[Batch]) -> torch.nn.Module:
        """``model`` itself with every parameter trainable."""
        return model.requires_grad_(True)
