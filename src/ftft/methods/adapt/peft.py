"""Any adapter of the library peft that changes layers and can be merged, by the name of its type.

    adapt: {name: peft, type: ia3}
    adapt: {name: peft, type: boft, options: {boft_block_size: 4}}

``options`` are those of peft's own configuration class of that type; where they name no ``target_modules`` the attention and
MLP projections of every layer are meant. Which types there are depends on the installed version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration


@dataclass(frozen=True)
class Peft:
    """Train an adapter of peft, named by its type, and the head."""

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    library: ClassVar[str] = "peft"

    type: str = setting("lora", "peft's name of the adapter (lora, ia3, adalora, boft, hra, ...)")
    options: dict[str, Any] = setting((), "options of peft's configuration class of this type", factory=dict)

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with the adapter around it.

        Raises UserError for a type or option that peft has not, and for an adapter that cannot be on this model or cannot be
        merged into plain weights.
        """
        from ftft.methods.peft_layers import configuration, projections, wrap

        options = dict(self.options)
        config = configuration(self.type, options)
        if hasattr(config, "target_modules") and config.target_modules is None:
            config = configuration(self.type, {**options, "target_modules": projections(model)})
        return wrap(model, config)
