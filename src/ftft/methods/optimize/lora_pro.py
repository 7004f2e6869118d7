"""LoRA-Pro: step the two factors of LoRA so that the full weight moves as full fine-tuning would move it, as near as they can.

W = W0 + s B A, A [r, n], B [m, r]. Of all steps (a, b) of the factors, those in :mod:`ftft.nn.low_rank_gradients` bring
W's move s (B a + b A) nearest to the full gradient G, of which only g_A = s B^T G and g_B = s G A^T are known:

    M = G - (I - P_B) G (I - P_A)

``mode: full``: Adam's moments are those of M [m, n]; their quotient D takes G's place (g_A = s B^T D, g_B = s D A^T), is
solved for (a, b) with the X that keeps them nearest to those gradients, and A <- A - lr a, B <- B - lr b. The moments take
the memory of full fine-tuning. ``mode: efficient``: (a, b) from the gradients themselves, then Adam on a and on b, in LoRA's.

Wang et al. 2024, arXiv 2407.18242, and the AdamW forms of the authors' code. Where we leave the code: each layer's own s
(theirs is 16 / 8 throughout); moments in the factors' type (theirs in bfloat16); the Sylvester equation by the eigenvectors
of its two symmetric matrices (theirs a general solver, which may give complex numbers); no special first step: while B is 0
the formulas give a = 0, b = g_B (A A^T)^-1 / s^2, which is theirs.

Parameters in no pair, such as the head, take plain AdamW. Clipping all gradients by one norm, as the engine does, leaves the
algebra true, because G is multiplied by the same factor; but the norm compared is that of g_A and g_B, not that of M, so
``clip: null`` is nearer to the paper. While B is small, A moves far at high learning rates: a grows as 1 / |B|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class LoRAPro:
    """AdamW on what the low-rank pairs do to the full weight."""

    learning_rate: float = setting(2e-5, "peak learning rate", origin="Wang et al. 2024", gt=0)
    mode: Literal["full", "efficient"] = setting("full", "moments of the full weight's move, or of the two factors' steps")
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "decay of the first and second moments", origin="Wang et al. 2024, code", ge=0, lt=1
    )
    epsilon: float = setting(1e-8, "added to the root of the second moment", origin="Wang et al. 2024, code", gt=0)
    weight_decay: float = setting(0.0, "decay per step and unit of learning rate", origin="Wang et al. 2024", ge=0)
    damping: float = setting(
        1e-8, "added to the diagonals of B^T B and A A^T before they are inverted", origin="Wang et al. 2024, code", ge=0
    )

    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = False
    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2407.18242"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """The optimizer over pairs and other parameters; UserError where there are no pairs, or where one factor is frozen."""
        from ftft.methods.contract import Trainables
        from ftft.nn.low_rank_gradients import LoRAProAdamW

        if not trainables.pairs:
            raise UserError("optimize: lora_pro steps low-rank pairs, and `adapt` left none; use adapt: lora")
        for pair in trainables.pairs:
            if not (pair.down.requires_grad and pair.up.requires_grad):
                raise UserError(
                    f"optimize: lora_pro steps both factors of a pair, and `adapt` froze one of {pair.weight}; use adapt: lora"
                )
        factors = {id(factor) for pair in trainables.pairs for factor in (pair.down, pair.up)}
        others = tuple((name, parameter) for name, parameter in trainables.named if id(parameter) not in factors)
        return LoRAProAdamW(
            [(pair.down, pair.up, pair.scaling) for pair in trainables.pairs],
            Trainables(others, trainables.model).decay_groups(self.weight_decay),
            lr=self.learning_rate,
            betas=self.betas,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            damping=self.damping,
            full=self.mode == "full",
        )
