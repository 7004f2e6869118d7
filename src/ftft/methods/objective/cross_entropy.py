"""Cross-entropy: the plain supervised loss, weighted by example.

total = sum_i w_i u_i l_i over the batch, units = sum_i w_i u_i, with weight w_i, units u_i (1, or the number of target
tokens) and l_i the task's loss of example i, the mean over its units. The engine divides total by the units of the
whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class CrossEntropy:
    """Minimise the cross-entropy of the gold labels (empirical risk minimisation)."""

    label_smoothing: float = setting(
        0.0, "share of the target spread evenly over all classes", origin="FTFT code: none", ge=0, lt=1
    )

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    coupling: ClassVar[str] = "none"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss under ``models.main``."""
        import torch

        from ftft.methods.contract import Loss

        def loss_of(batch: Batch) -> Loss:
            outputs = task.forward(models.main, batch)
            losses = task.per_example_loss(outputs, batch, label_smoothing=self.label_smoothing)
            share = batch.weights * task.units(batch)
            return Loss(
                total=(share * losses).sum(),
                per_example=losses.detach().to(torch.float32),
                outputs=outputs,
            )

        return loss_of
