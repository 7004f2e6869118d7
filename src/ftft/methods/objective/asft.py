"""ASFT: DFT's probability-weighted cross-entropy, anchored to the model before fine-tuning.

    l_u = -sg(p_u) log p_u + anchor * sum_v r_u(v) (log r_u(v) - log q_u(v))

with r the frozen model's and q the trained model's distribution over the classes (the vocabulary) at unit u: the forward
divergence KL(r || q), which the paper's ablation finds better than the reverse. Without an anchor DFT drifts. Zhu et al.
2025, arXiv 2509.23753; mechanism read in the released code, whose README and paper use 0.05 (its function's default is 0.1).
There the mean is taken over a micro-batch's tokens, which breaks accumulation, and with LoRA the reference is the adapted model
with its adapters off but its dropout on; here it is over the whole step, and the reference is a frozen copy in evaluation mode.
The code's other modes are dft (anchor 0) and sft + kl, which is not built. Its README warns that the rounding of DeepSpeed can
undo what DFT's weights do; there is no DeepSpeed here.
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
class ASFT:
    """Weight every target's cross-entropy by its probability, and stay close to the model before fine-tuning."""

    needs: ClassVar[tuple[str, ...]] = ("frozen_base",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    coupling: ClassVar[str] = "none"
    paper: ClassVar[str] = "Zhu et al. 2025, arXiv 2509.23753"

    anchor: float = setting(0.05, "weight of the divergence from the model before fine-tuning", origin="paper", ge=0)

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss under ``models.main``, anchored to ``models.others["frozen"]``."""
        from ftft.methods.probability_weighted import probability_weighted

        return probability_weighted(models, task, anchor=self.anchor)
