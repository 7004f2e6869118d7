"""AdamW: Adam with decoupled weight decay.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
    w <- w - lr * decay * w - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, as ``torch.optim.AdamW`` has it. Biases, norms and other
parameters of fewer than two dimensions do not decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    learning_rate: float = setting(2e-5, "peak learning rate", origin="FTFT code, small and base models (large: 1e-5)", gt=0)
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "decay of the first and second moments", origin="Loshchilov and Hutter 2019", ge=0, lt=1
    )
    epsilon: float = setting(1e-6, "added to the root of the second moment", origin="FTFT code", gt=0)
    weight_decay: float = setting(0.0, "decay per step and unit of learning rate", origin="FTFT code", ge=0)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Loshchilov and Hutter 2019, arXiv 1711.05101"
    library: ClassVar[str] = "torch"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters."""
        import torch

        # The fused kernel works element by element, so it is as reproducible as the plain loop and several times faster.
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for _, p in trainables.named)
        first, second = self.betas
        return torch.optim.AdamW(
            trainables.decay_groups(self.weight_decay),
            lr=self.learning_rate,
            betas=(first, second),
            eps=self.epsilon,
            fused=fused or None,
        )
