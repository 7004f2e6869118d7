"""Stochastic gradient descent with momentum.

    v <- momentum * v + (g + weight_decay * w),   w <- w - lr * v

as ``torch.optim.SGD`` has it (Sutskever et al. 2013, with the learning rate outside the velocity). Biases, norms and
other parameters of fewer than two dimensions do not decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = setting(1e-2, "peak learning rate", origin="ours: a starting point for the search", gt=0)
    momentum: float = setting(0.9, "share of the last velocity that is kept", origin="Sutskever et al. 2013", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2 decay added to the gradient", origin="as adamw", ge=0)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    paper: ClassVar[str] = "Sutskever et al. 2013, ICML"

    def start(self, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        """A torch optimizer over the trainable ones of ``named_parameters``; UserError when there are none."""
        import torch

        trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
        if not trainable:
            raise UserError("optimize: sgd has nothing to train; `adapt` left no parameter trainable")
        decaying = {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": self.weight_decay}
        others = {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0}
        groups = [group for group in (decaying, others) if group["params"]]
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
