"""LIFT: train the entries that are large in the low-rank approximation of each weight, chosen anew during training.

Of every matrix W [m, n] of the pretrained part but its embeddings, with the singular value decomposition W = U S V^T,

    W_f = sum over i <= f of s_i u_i v_i^T,   M = the k largest entries of |W_f|,   k = density * m * n

and only W[M] is trained (``ftft.nn.sparse_delta``), so an optimizer's moments have k entries. Before the step of number i
(from 0) where i + 1 is a multiple of ``interval``, M is chosen from W as it has become: entries that stay keep their moments,
new ones begin with zeros, the optimizer's step counter goes on. Liu et al. 2025, arXiv 2506.00772; what is written here is
what their code does (src/sparseAdam.py), the moment of the refresh included.

Where we depart from the code, whose adapter is an optimizer of its own:
- Any optimizer goes that has an entry of state per trained entry, but none whose moments are quantised in blocks. Their
  AdamW is ours with betas (0.9, 0.95); it adds eps to sqrt(v) where torch adds it to sqrt(v / (1 - b2^t)), so that its eps
  counts for more in the first steps.
- Weight decay, 0 by default there too, pulls a matrix's masked entries towards 0 there. Here they do not decay: they are kept
  as a vector, and vectors are spared by the optimizers here.
- Its refresh passes over a matrix that got no gradient in that step; here every matrix is chosen from anew.
- It spares only layers named lm_head, so that a new classifier would be masked; here every parameter outside the pretrained
  part is trained whole, or with ``train_head: false`` not at all.
- Its budget (m + n) * 128 is 6 % of a 4096 x 4096 matrix but a third of BERT's; the default is the paper's 5 % of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class LIFT:
    """Train the entries that are large in each matrix's low-rank approximation, and the head."""

    density: float = setting(0.05, "share of each matrix that is trained", origin="Liu et al. 2025, abstract", gt=0, le=1)
    lora_rank: int | None = setting(
        None, "train as many entries as LoRA of this rank has, (m + n) * lora_rank, instead of density", ge=1
    )
    filter_rank: int = setting(
        32, "rank f of the approximation (they use 16 to 128: tune it)", origin="LIFT code, the smallest model", ge=1
    )
    interval: int | None = setting(400, "steps between choices; null: choose once", origin="LIFT code, arithmetic", ge=1)
    randomised: bool = setting(False, "approximate the decomposition, for large matrices", origin="an option of LIFT's code")
    train_head: bool = setting(True, "train the parameters outside the pretrained part")

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ("merge",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = False
    trainable: ClassVar[str] = "scheduled"
    paper: ClassVar[str] = "Liu et al. 2025, arXiv 2506.00772"
    example: ClassVar[dict[str, Any]] = {"interval": 4, "filter_rank": 4}

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself, its matrices parametrized; UserError where the pretrained part has no matrix to train."""
        from ftft.methods.contract import Adapted
        from ftft.modelmap import head_parameters
        from ftft.nn.sparse_delta import DeltaTensor, plain_state

        head = [parameter for _, parameter in head_parameters(model)]
        matrices = _matrices(model)
        if not matrices:
            raise UserError(f"adapt: lift found no linear layer in the pretrained part of {type(model).__name__}; use full")
        model.requires_grad_(False)
        for parameter in head:
            parameter.requires_grad_(self.train_head)
        tensors = [DeltaTensor.attach(model, name, self.choose(weight)) for name, weight in matrices]

        def before_step(step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
            if self.interval is not None and step > 0 and (step + 1) % self.interval == 0:
                for tensor in tensors:
                    tensor.move(self.choose(tensor.weight()), optimizer)

        return Adapted(model, lambda: plain_state(model, tensors), before_step=before_step)

    def choose(self, weight: torch.Tensor) -> torch.Tensor:
        """The flat indices (int64 [k], ascending) of the entries of ``weight`` [m, n] to train, at least one."""
        from ftft.nn.sparse_delta import low_rank_approximation, top_entries

        m, n = weight.shape
        count = round(self.density * m * n) if self.lora_rank is None else (m + n) * self.lora_rank
        approximation = low_rank_approximation(weight, self.filter_rank, randomised=self.randomised)
        return top_entries(approximation.abs(), min(max(count, 1), m * n))


def _matrices(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The weights of the linear layers of the pretrained part by their names in ``model``."""
    from torch import nn

    from ftft.modelmap import backbone_of

    prefix, backbone = backbone_of(model)
    return [
        (".".join(part for part in (prefix, name, "weight") if part), weight)
        for name, module in backbone.named_modules()
        if isinstance(weight := module._parameters.get("weight"), nn.Parameter)
        and weight.ndim == 2
        and not isinstance(module, nn.Embedding)
    ]
