"""DFT: cross-entropy in which every token is weighted by the probability the model already gives it.

    l_u = -sg(p_u) log p_u        with p_u the model's probability of the target, sg: no gradient

so that the gradient is that of -p_u: the update of plain supervised fine-tuning divided by p_u, which undoes its
reward of 1 / p for unlikely targets. Wu et al. 2025, arXiv 2508.05629, section 3. In classification the unit is the
example and the target its label. The mean is over the units of the whole step, as in TRL's ``loss_type="dft"``, whose loss this
is. Units of low probability hardly learn: sets full of new facts can end below the base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class DFT:
    """Weight every target's cross-entropy by its own probability."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    coupling: ClassVar[str] = "none"
    paper: ClassVar[str] = "Wu et al. 2025, arXiv 2508.05629"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss under ``models.main``."""
        from ftft.methods.probability_weighted import probability_weighted

        return probability_weighted(models, task, anchor=0.0)
