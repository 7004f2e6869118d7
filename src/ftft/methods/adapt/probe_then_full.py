"""Linear probing, then full fine-tuning (LP-FT): the head learns first, then everything.

For the first round(probe * S) of S planned steps only the head has gradients; from then on all parameters have. Fine-tuning
with a random head bends the pretrained features to it before it has learned anything, which costs accuracy out of distribution;
a head that fits the features first leaves them more as they were. Kumar et al. 2022, arXiv 2202.10054.

The paper trains the head to the end, then fine-tunes with a new optimizer and its own learning rate. Here both are one run: the
learning rate schedule goes on, and the optimizer keeps the head's moments (the backbone's begin when it does). Two stages
(linear_probe, then full on its model) are the paper's way where the probe wants another learning rate. The head is that of
``linear_probe``: what lies outside the backbone; dropout acts on the features as it does there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class ProbeThenFull:
    """Train the head first, then all parameters."""

    probe: float = setting(
        0.5, "share of the steps that train the head only", origin="ours: as long as what follows", gt=0, lt=1
    )

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    # All that have a head: two towers are pretrained parts alone.
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling", "image_classification")
    sharded: ClassVar[bool] = False
    trainable: ClassVar[str] = "scheduled"
    paper: ClassVar[str] = "Kumar et al. 2022, arXiv 2202.10054 (LP-FT)"

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself, every parameter trainable, with the hook that freezes the backbone at first; UserError if there
        is no head."""
        from ftft.methods.contract import Adapted
        from ftft.modelmap import head_parameters

        head = {id(parameter) for _, parameter in head_parameters(model)}
        if not head:
            raise UserError(
                f"adapt: probe_then_full needs a head, and {type(model).__name__} has no parameters outside its pretrained "
                "part; use full"
            )
        model.requires_grad_(True)
        backbone = [parameter for parameter in model.parameters() if id(parameter) not in head]

        def before_step(step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
            probing = step < round(self.probe * steps)
            for parameter in backbone:
                parameter.requires_grad_(not probing)
                if probing:
                    parameter.grad = None

        return Adapted(model, before_step=before_step)
