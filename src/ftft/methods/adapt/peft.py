"""Any adapter of the library peft that changes layers and can be merged, by the name of its type.

    adapt: {name: peft, type: ia3}
    adapt: {name: peft, type: boft, options: {boft_block_size: 4}}

``options`` are those of peft's own configuration class of that type; where they name no ``target_modules`` the attention and
MLP projections of every layer are meant, by ia3 too, whose paper means key, value and the MLP's inner channels; ln_tuning and
trainable_tokens, which change no projections, keep peft's own choice. Which types there are depends on the installed version.

We follow peft's code, which is not always its papers'. Of peft 0.21: unilora, fourierft, c3a and vblora do not begin as the
model was. "corda", "eva" and "lora_ga" as ``init_lora_weights`` want data seen first, without which the last two begin at
random and say nothing; "lora_ga" has another scale than its paper, and "corda" takes one example at a time: the methods
``corda``, ``eva`` and ``lora_ga`` are meant for them, and these are refused here. So are adalora, and adamss with ``use_asa``,
whose ranks change only where a training calls ``update_and_allocate`` after each step, and ``layer_replication``, which peft
means to refuse to merge and does not (it looks for an adapter of that name), so that layers would be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


NO_PROJECTIONS = ("ln_tuning", "trainable_tokens")
FROM_DATA = ("corda", "eva", "lora_ga")  # what init_lora_weights may say, and the methods that do it


@dataclass(frozen=True)
class Peft:
    """Train an adapter of peft, named by its type, and the head."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    library: ClassVar[str] = "peft"

    type: str = setting("lora", "peft's name of the adapter (lora, ia3, vera, boft, hra, ...)")
    options: dict[str, Any] = setting((), "options of peft's configuration class of this type", factory=dict)

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with the adapter around it.

        Raises UserError for a type or option that peft has not, for one that would not do here what it is named for, and for
        an adapter that cannot be on this model or cannot be merged into plain weights.
        """
        from ftft.methods.peft_layers import configuration, projections, require_merge, wrap

        options, names = dict(self.options), list(model.state_dict())
        _require_fit(self.type.lower(), options)
        config = configuration(self.type, options)
        if getattr(config, "target_modules", "") is None and self.type.lower() not in NO_PROJECTIONS:
            config = configuration(self.type, {**options, "target_modules": projections(model)})
        adapted = wrap(model, config)
        require_merge(adapted.model, names)
        return adapted


def _require_fit(kind: str, options: Mapping[str, Any]) -> None:
    """UserError for what peft would put on the model without a word, and which would not be what it is named for."""
    start = str(options.get("init_lora_weights")).lower()
    for name in FROM_DATA:
        if start == name:
            raise UserError(
                f'adapt.options: init_lora_weights "{start}" begins with what data say, and peft sees none here; '
                f"use adapt: {{name: {name}}}"
            )
    if kind == "adalora" or options.get("use_asa"):
        named, instead = (
            ("", "use lora, or eva, which gives layers ranks of their own before training")
            if kind == "adalora"
            else (" with use_asa", "leave use_asa out")
        )
        raise UserError(
            f"adapt: peft's {kind}{named} changes its ranks by calls after each step that are not made here, so that they "
            f"would stay as they are; {instead}"
        )
    if options.get("layer_replication"):
        raise UserError(
            "adapt.options: layers that layer_replication repeats cannot be merged into the model's architecture; leave it out"
        )
