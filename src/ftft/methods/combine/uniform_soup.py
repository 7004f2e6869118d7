"""Uniform soup: the mean of the weights of several fine-tunes of one pretrained model.

    theta = (1/m) sum_i theta_i

Wortsman et al. 2022, arXiv 2203.05482, section 2. The members must begin from the same weights, head included; models from
different beginnings have no common basin, and their mean is no model. As in the released code every tensor is averaged, but for
whole numbers, which are the first member's (the code averages counters too); sums are in float32 and rounded once. Running
statistics of batch normalisation are averaged as they are, not estimated anew. Adapters are merged first: the mean of LoRA's
factors is not the mean of what they add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class UniformSoup:
    """Average the weights of this stage's model and of others."""

    needs: ClassVar[tuple[str, ...]] = ("members",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = False
    paper: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482"

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The mean of all members; UserError for fewer than two, or models of different shapes."""
        from ftft.methods.contract import Artefact
        from ftft.methods.members import members
        from ftft.state.algebra import weighted_mean

        all_members = members(checkpoints)
        share = 1.0 / len(all_members)
        return Artefact("weights", weighted_mean((one.load() for one in all_members), [share] * len(all_members)))
