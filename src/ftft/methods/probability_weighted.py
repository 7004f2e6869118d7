"""What DFT and ASFT share: cross-entropy whose every unit is weighted by the probability the model gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ftft.methods.contract import Loss, Models

if TYPE_CHECKING:
    from ftft.tasks.contract import Batch


def probability_weighted(models: Models, task: Any, anchor: float) -> Callable[[Batch], Loss]:
    """The loss function of  -sg(p_u) log p_u + anchor * KL(reference || model)_u,  summed over the units u.

    ``anchor`` above 0 needs ``models.others["frozen"]``, the reference. A unit's loss weighs as much as its example, and an
    example's loss is the mean over its units.
    """

    def loss_of(batch: Batch) -> Loss:
        outputs = task.forward(models.main, batch)
        units = task.unit_logits(outputs, batch)
        log_p = units.logits.log_softmax(dim=-1)
        target = log_p.gather(1, units.targets[:, None])[:, 0]
        losses = -target.detach().exp() * target
        parts = {}
        if anchor > 0:
            with torch.no_grad():
                frozen = models.others["frozen"]
                reference = task.unit_logits(task.forward(frozen, batch), batch).logits.log_softmax(dim=-1)
            divergence = (reference.exp() * (reference - log_p)).sum(dim=-1)
            losses = losses + anchor * divergence
            parts["kl"] = float(divergence.detach().mean()) if len(divergence) else 0.0
        share = (batch.weights * task.units(batch)).to(losses.dtype)
        count = torch.bincount(units.example, minlength=len(batch)).clamp(min=1)
        per_example = losses.new_zeros(len(batch)).index_add(0, units.example, losses) / count
        return Loss(
            total=(share * per_example).sum(),
            per_example=per_example.detach().to(torch.float32),
            outputs=outputs,
            parts=parts,
        )

    return loss_of
