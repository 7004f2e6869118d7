"""Linear probing: the pretrained part stays as it is, only the head on top of it learns.

The head is every parameter outside the backbone (Alain and Bengio 2016, arXiv 1610.01644, with one linear layer). Where
an architecture's head is more than one layer (ELECTRA, RoBERTa, DeBERTa's pooler) all of it learns; BERT's pooler belongs
to its backbone and does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class LinearProbe:
    """Train the head only, on frozen features."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    # All that have a head: two towers are pretrained parts alone.
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling", "image_classification")
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Alain and Bengio 2016, arXiv 1610.01644"

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself with only the parameters outside its backbone trainable; UserError if there are none."""
        from ftft.methods.contract import Adapted
        from ftft.modelmap import head_parameters

        head = [parameter for _, parameter in head_parameters(model)]
        if not head:
            raise UserError(
                f"adapt: linear_probe needs a head, and {type(model).__name__} has no parameters outside its pretrained part"
            )
        model.requires_grad_(False)
        for parameter in head:
            parameter.requires_grad_(True)
        return Adapted(model)
