"""LoRA: a frozen weight learns a low-rank update.

    y = W x + (alpha / r) B A x,   A [r, n] random (Kaiming), B [m, r] zero: the model begins as it was.

Hu et al. 2021, arXiv 2106.09685, section 4.1. With ``rank_stabilised`` the scale is alpha / sqrt(r) (Kalajdzievski 2023,
arXiv 2312.03732). The layers are peft's. The paper adapts the attention's projections; here all linear projections of
every layer are the default, as later work found better at equal size (Dettmers et al. 2023, arXiv 2305.14314, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class LoRA:
    """Train a low-rank update of every projection, and the head."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv 2106.09685"
    library: ClassVar[str] = "peft"

    rank: int = setting(8, "rank r of the update", origin="Hu et al. 2021, table 6", ge=1)
    alpha: float = setting(16.0, "the update's scale is alpha / r", origin="twice the rank, as commonly used", gt=0)
    dropout: float = setting(0.0, "dropout on the input of the update", origin="Hu et al. 2021, RoBERTa", ge=0, lt=1)
    targets: list[str] | None = setting(
        None, "roles of the projections (query, key, value, output, up, gate, down); by default all"
    )
    rank_stabilised: bool = setting(False, "scale by alpha / sqrt(r) instead", origin="arXiv 2312.03732")

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with the low-rank layers in place; UserError for a role that the model has not."""
        from ftft.methods.peft_layers import configuration, projections, wrap

        options = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilised,
            "target_modules": projections(model, self.targets),
        }
        return wrap(model, configuration("lora", options))
