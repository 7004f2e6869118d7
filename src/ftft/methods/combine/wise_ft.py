"""WiSE-FT: the straight line between the weights before and after fine-tuning, stopped at a share of the way.

    theta = (1 - alpha) theta_0 + alpha theta_1          for every floating-point tensor

theta_0 are the weights that training began with, a newly drawn head included: the line is then theta_0 + alpha (theta_1 -
theta_0), so that a new head learns as usual and only answers with less confidence. Wortsman et al. 2022, arXiv 2109.01903,
section 3; alpha 0.5 is recommended where no validation set out of distribution is at hand. Paper and code agree: the head is on
the line too. Whole numbers (counters, position ids), which the code interpolates like all else, are the fine-tuned model's.

With a head drawn anew the line begins at a model that cannot do the task, and there is little to win: begin from a head that
fits (another stage's model, as of ``linear_probe``). BANG (Lin et al. 2023, arXiv 2309.17230) is this after fine-tuning with
``objective: mixup`` and its label smoothing; how strong both are in the recipe is ours, for the paper could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class WiseFT:
    """Interpolate between the pretrained and the fine-tuned weights."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = False
    paper: ClassVar[str] = "Wortsman et al. 2022, arXiv 2109.01903"

    alpha: float = setting(0.5, "share of the way to the fine-tuned weights", origin="Wortsman et al. 2022", ge=0, le=1)

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The interpolated weights of the stage's last step."""
        from ftft.methods.contract import Artefact
        from ftft.state.algebra import interpolate

        last = max((one for one in checkpoints if one.stage is None), key=lambda checkpoint: checkpoint.step)
        return Artefact("weights", interpolate(base(), last.load(), self.alpha), last.step)
