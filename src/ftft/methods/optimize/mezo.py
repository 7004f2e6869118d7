"""MeZO: fine-tuning with forward passes alone, in the memory of inference.

Every step draws a direction z ~ N(0, I) over the trainable parameters w and measures the slope along it on the batch,

    g = (L(w + eps z) - L(w - eps z)) / (2 eps),   w <- w - lr (g z + weight_decay w)

z is never kept: it is made anew, parameter by parameter, from the step's seed. So a run is its list of seeds and slopes, which
the optimizer's state holds (:meth:`ftft.nn.zeroth_order.ZerothOrderSGD.replay`). Malladi et al. 2023, arXiv 2305.17333,
algorithm 1 and section 2.1. As in its code, the model is in evaluation mode, and biases, norms and other vectors do not decay.
Only loss values are asked for: the optimizer itself also minimises what has no gradient, such as an error rate.

Known troubles of the released code, from its issues: in float16 the loss becomes 0 or NaN, and in 16 bits moving there and back
wears the weights down, so that here they are float32 or wider; a log made on a GPU cannot be replayed on a CPU, whose random
numbers are others, and that holds here too. There is no accumulation in it; here both losses are of the whole step.

The loss that is reported of a step is the one at w + eps z. Use a constant learning rate, as the paper does. It takes many more
steps than AdamW (the paper: 20,000 to 100,000) and begins from a model that can do the task to some extent: with a new random
head it hardly learns, and a small model needs a far larger learning rate than the default, which is that for RoBERTa-large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class MeZO:
    """Zeroth-order SGD in place: two forward passes a step, no gradient."""

    learning_rate: float = setting(1e-6, "learning rate", origin="Malladi et al. 2023, RoBERTa-large, all parameters", gt=0)
    epsilon: float = setting(1e-3, "how far the weights are moved along z", origin="Malladi et al. 2023, RoBERTa-large", gt=0)
    weight_decay: float = setting(0.0, "decay per step and unit of learning rate", origin="Malladi et al. 2023", ge=0)
    seed: int = setting(0, "added to the run's seed, from which the directions are drawn", origin="ours", ge=0)

    needs: ClassVar[tuple[str, ...]] = ("closure",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = False
    paper: ClassVar[str] = "Malladi et al. 2023, arXiv 2305.17333"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """The optimizer over the trainable parameters; it takes the loss as a closure and puts the model in evaluation mode."""
        from ftft.nn.zeroth_order import ZerothOrderSGD

        groups = trainables.decay_groups(self.weight_decay)
        return ZerothOrderSGD(
            groups, trainables.model, lr=self.learning_rate, epsilon=self.epsilon, seed=self.seed + trainables.seed
        )
