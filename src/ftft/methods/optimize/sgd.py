"""Stochastic gradient descent with momentum.

    v <- momentum * v + (g + weight_decay * w),   w <- w - lr * v

as ``torch.optim.SGD`` has it (Sutskever et al. 2013, with the learning rate outside the velocity). Biases, norms and
other parameters of fewer than two dimensions do not decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = setting(1e-2, "peak learning rate", origin="ours: a starting point for the search", gt=0)
    momentum: float = setting(0.9, "share of the last velocity that is kept", origin="Sutskever et al. 2013", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2 decay added to the gradient", origin="as adamw", ge=0)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Sutskever et al. 2013, ICML"
    library: ClassVar[str] = "torch"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters."""
        import torch

        return torch.optim.SGD(trainables.decay_groups(self.weight_decay), lr=self.learning_rate, momentum=self.momentum)
