"""AutoFT: a weighted sum of many losses and regularisers, whose weights are searched on a small validation set elsewhere.

    L = a CE + b H + c D + d M + e |w|_1/P + f |w|^2/P + g |w - w0|_1/P + h |w - w0|^2/P

of an example with logits z, probabilities p, label y: cross-entropy CE = -log p_y; entropy H = -sum_v p_v log p_v; D the same
where argmax z != y and 0 elsewhere (the released code's "dcm"); hinge M = 1/C sum_{v != y} max(0, 1 - z_y + z_v). w are the
P trainable parameters and w0 the same before training. Choi et al. 2024, arXiv 2401.10220, section 4, and the released code.

Alone it is cross-entropy. The stage's ``search`` makes it AutoFT: short trials with other weights, learning rate and weight
decay, each scored on a validation set out of distribution (``searched`` are the paper's ranges), then one training with the
best. As the paper has it the weight of CE is 1 throughout. Two errors of the released code are mended: it trains its final
model with a sampled weight of CE that no trial had, and its scheduler sets the rate of the command line in every step, so that
the learning rate it searches is never applied. Its contrastive loss of images and captions is left out (it needs two towers);
so are its optional rates for each layer, its pruning of trials, and searched seeds: the seed is the recipe's, or runs under
several could not be compared.

A regulariser counts parameters that have a counterpart of their name and shape in the model before ``adapt``; set
``optimize.weight_decay`` beside it as you wish, the search varies it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class AutoFT:
    """A weighted sum of losses and regularisers, to be searched for on out-of-distribution validation data."""

    cross_entropy: float = setting(1.0, "weight of the cross-entropy", origin="paper: fixed", ge=0)
    entropy: float = setting(0.0, "weight of the mean entropy", origin="ours: searched", ge=0)
    entropy_when_wrong: float = setting(0.0, "weight of the entropy of misclassified examples", origin="ours: searched", ge=0)
    hinge: float = setting(0.0, "weight of the multi-class hinge loss of margin 1", origin="ours: searched", ge=0)
    l1_zero: float = setting(0.0, "weight of the mean absolute parameter", origin="ours: searched", ge=0)
    l2_zero: float = setting(0.0, "weight of the mean squared parameter", origin="ours: searched", ge=0)
    l1_start: float = setting(0.0, "weight of the mean absolute distance from the start", origin="ours: searched", ge=0)
    l2_start: float = setting(0.0, "weight of the mean squared distance from the start", origin="ours: searched", ge=0)

    needs: ClassVar[tuple[str, ...]] = ("frozen_base", "own_parameters")
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "image_classification")
    sharded: ClassVar[bool] = False
    coupling: ClassVar[str] = "none"
    paper: ClassVar[str] = "Choi et al. 2024, arXiv 2401.10220"
    searched: ClassVar[dict[str, dict[str, Any]]] = {
        "objective.entropy": {"low": 1e-4, "high": 10.0},
        "objective.entropy_when_wrong": {"low": 1e-4, "high": 10.0},
        "objective.hinge": {"low": 1e-4, "high": 10.0},
        "objective.l1_zero": {"low": 1e-4, "high": 10.0},
        "objective.l2_zero": {"low": 1e-4, "high": 10.0},
        "objective.l1_start": {"low": 1e-4, "high": 10.0},
        "objective.l2_start": {"low": 1e-4, "high": 10.0},
        "optimize.learning_rate": {"low": 0.01, "high": 100.0, "times": True},
        "optimize.weight_decay": {"low": 0.0, "high": 1.0, "scale": "linear"},
    }

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss; the start is ``models.others["frozen"]``.

        Its ``parts`` are the regularisers with their weights. UserError where one has a weight and no parameter to count.
        """
        from ftft.methods.contract import Loss

        pairs = self._pairs(models) if self.l1_zero or self.l2_zero or self.l1_start or self.l2_start else []

        def loss_of(batch: Batch) -> Loss:
            outputs = task.forward(models.main, batch)
            losses = self.cross_entropy * task.per_example_loss(outputs, batch)
            for weight, loss in ((self.entropy, _entropy), (self.entropy_when_wrong, _when_wrong), (self.hinge, _hinge)):
                if weight:
                    units = task.unit_logits(outputs, batch)
                    losses = losses + weight * loss(units.logits, units.targets).to(losses.dtype)
            share = batch.weights * task.units(batch)
            units_of_batch = float(share.double().sum())
            penalty = self._penalty(pairs, losses)
            return Loss(
                # Weighted by the micro-batch's units, the penalty counts once a step, however examples fall on micro-batches.
                total=(share * losses).sum() + penalty * units_of_batch,
                per_example=losses.detach().float(),
                outputs=outputs,
                parts={"penalty": float(penalty.detach())} if pairs else {},
            )

        return loss_of

    def _penalty(self, pairs: list[tuple[torch.Tensor, torch.Tensor]], like: torch.Tensor) -> torch.Tensor:
        total = like.new_zeros(())
        count = sum(now.numel() for now, _ in pairs)
        for now, start in pairs:
            for absolute, squared, value in ((self.l1_zero, self.l2_zero, now), (self.l1_start, self.l2_start, now - start)):
                if absolute:
                    total = total + absolute / count * value.abs().sum()
                if squared:
                    total = total + squared / count * value.square().sum()
        return total

    def _pairs(self, models: Models) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The trainable parameters with their values before training."""
        found: list[tuple[torch.Tensor, torch.Tensor]] = [(now, start) for _, now, start in models.with_starts()]
        if not found:
            raise UserError(
                "objective: autoft has no parameter to regularise, because adapt leaves none trainable under its own name; "
                "use adapt: full, or set l1_zero, l2_zero, l1_start and l2_start to 0"
            )
        return found


def _entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of every row's distribution, in nats: [U]."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def _when_wrong(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(dim=-1) != targets) * _entropy(logits, targets)


def _hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.multi_margin_loss(logits, targets, reduction="none")
