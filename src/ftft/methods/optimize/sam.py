"""SAM: step by the gradient at the worst point nearby, so that training ends in flat minima.

    g = grad L(w),   w' = w + rho * g / ||g||_2   (one norm over all parameters),   w <- AdamW step from w with grad L(w')

Foret et al. 2021, arXiv 2010.01412, equation 3 and algorithm 1; both gradients are of the same batch with the same dropout
masks. The paper's base optimizer is SGD with momentum; for transformers AdamW is usual, and is the base here. It costs
two forward and backward passes a step. Where the engine clips, both gradients are clipped: the first one's norm does not
matter, and the second is clipped as any other optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class SAM:
    """Step by the gradient at the worst point nearby (sharpness-aware minimisation), with AdamW."""

    needs: ClassVar[tuple[str, ...]] = ("closure",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Foret et al. 2021, arXiv 2010.01412"

    learning_rate: float = setting(2e-5, "peak learning rate", origin="as adamw", gt=0)
    rho: float = setting(0.05, "radius of the neighbourhood, an L2 norm over all parameters", origin="Foret et al. 2021", gt=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moments", origin="as adamw", ge=0, lt=1)
    epsilon: float = setting(1e-6, "added to the root of the second moment", origin="as adamw", gt=0)
    weight_decay: float = setting(0.0, "decay per step and unit of learning rate", origin="as adamw", ge=0)

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """AdamW whose ``step(closure)`` takes the gradient at the perturbed weights."""
        import torch

        rho = self.rho

        class SharpnessAware(torch.optim.AdamW):
            needs_closure = True

            def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
                loss = closure()
                moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
                if not moved:
                    return loss
                norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in moved]))
                before = [p.detach().clone() for p in moved]
                if norm > 0:
                    with torch.no_grad():
                        for p in moved:
                            p.add_(rho / norm * p.grad)
                    closure()
                    with torch.no_grad():
                        for p, value in zip(moved, before):
                            p.copy_(value)  # adding and subtracting would leave rounding behind
                super().step()
                return loss

        first, second = self.betas
        return SharpnessAware(
            trainables.decay_groups(self.weight_decay), lr=self.learning_rate, betas=(first, second), eps=self.epsilon
        )
