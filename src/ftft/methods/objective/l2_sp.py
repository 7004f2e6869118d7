"""L2-SP: cross-entropy, with the weights pulled to where they started rather than to zero.

    L = mean_i l_i + alpha/2 ||w_S - w0_S||^2 + beta/2 ||w_N||^2

w_S are the backbone's parameters, w0_S the same before training and w_N those of the head, which is new. Li, Grandvalet and
Davoine 2018, arXiv 1802.01483, section 3. The paper chooses alpha and beta by cross-validation; our defaults are those of the
released training script (Stanford Dogs). The formula is over all parameters and so are we; the released code pulls
weight matrices only (``vectors: false``), not biases and norms.

A parameter is told by its name and shape: one that has no counterpart in the model before ``adapt`` (the factors of an
adapter, a head that an adapter has wrapped) is neither pulled nor decayed, and one that never changes costs nothing. The
penalty stands in the place of weight decay, which pulls to zero: set ``weight_decay: 0`` beside it. Under Adam its gradient is
scaled like the loss's, so that alpha does not mean what it means under SGD, with which the paper trains.
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
class L2SP:
    """Cross-entropy with a penalty on how far the backbone's weights go from the pretrained ones."""

    alpha: float = setting(0.1, "weight of the backbone's squared distance from its start", origin="code: train.sh", ge=0)
    beta: float = setting(0.01, "weight of the head's squared norm", origin="code: train.sh", ge=0)
    vectors: bool = setting(True, "whether biases, norms and other vectors count, too", origin="paper: all; code: matrices")

    needs: ClassVar[tuple[str, ...]] = ("frozen_base", "own_parameters")
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = False
    coupling: ClassVar[str] = "none"
    paper: ClassVar[str] = "Li, Grandvalet and Davoine 2018, arXiv 1802.01483"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss; the start is ``models.others["frozen"]``.

        Its ``parts`` are the two penalties as they stand in the formula. Raises UserError where no trainable parameter of the
        backbone has a counterpart at the start.
        """
        from ftft.methods.contract import Loss

        backbone, head = self._penalised(models)

        def loss_of(batch: Batch) -> Loss:
            outputs = task.forward(models.main, batch)
            losses = task.per_example_loss(outputs, batch)
            share = batch.weights * task.units(batch)
            units = float(share.double().sum())  # as exactly as the engine's
            none = losses.new_zeros(())
            pull = self.alpha / 2 * sum(((now - start).square().sum() for now, start in backbone), start=none)
            decay = self.beta / 2 * sum((now.square().sum() for now in head), start=none)
            return Loss(
                # The engine adds up the totals of a step's micro-batches and divides by the units of all of them: weighted by
                # the micro-batch's units, the penalty counts once a step, however the examples fall on micro-batches.
                total=(share * losses).sum() + (pull + decay) * units,
                per_example=losses.detach().float(),
                outputs=outputs,
                parts={"penalty_backbone": float(pull.detach()), "penalty_head": float(decay.detach())},
            )

        return loss_of

    def _penalised(self, models: Models) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
        """The trainable backbone parameters with their starting values, and the trainable head parameters."""
        from ftft.modelmap import head_parameters

        new = {name for name, _ in head_parameters(models.others["frozen"])}
        backbone: list[tuple[torch.Tensor, torch.Tensor]] = []
        head: list[torch.Tensor] = []
        for name, parameter, start in models.with_starts():
            if parameter.ndim < 2 and not self.vectors:
                continue
            if name in new:
                head.append(parameter)
            else:
                backbone.append((parameter, start))
        if not backbone:
            raise UserError(
                "objective: l2_sp has nothing to pull to its start, because adapt leaves no parameter of the pretrained part "
                "trainable under its own name; use adapt: full, or objective: cross_entropy"
            )
        return backbone, head
