"""BitFit: train the bias terms of the pretrained part, and the head.

y = W x + b with W frozen and b trained, in every linear layer and every layer norm that has a bias. Ben Zaken, Ravfogel
and Goldberg 2022, arXiv 2106.10199, section 3; the task's head is trained as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class BiasOnly:
    """Train the bias terms and the head only."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Ben Zaken et al. 2022, arXiv 2106.10199 (BitFit)"

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself with bias terms and head trainable; UserError where the pretrained part has no bias."""
        from ftft.methods.contract import Adapted
        from ftft.modelmap import head_parameters

        head = dict(head_parameters(model))
        named = dict(model.named_parameters())
        biases = [name for name in named if name not in head and name.rsplit(".", 1)[-1] == "bias"]
        if not biases:
            raise UserError(
                f"adapt: bias_only needs bias terms, and the pretrained part of {type(model).__name__} has none; "
                "use full or linear_probe, or a model with biases such as BERT"
            )
        for name, parameter in named.items():
            parameter.requires_grad_(name in head or name in biases)
        return Adapted(model)
