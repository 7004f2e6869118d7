"""The optimizers of the library peft, which treat the two factors of a LoRA update differently.

    optimize: {name: peft_optimizer, optimizer: loraplus, options: {loraplus_lr_ratio: 16}}

    loraplus    AdamW with the learning rate of B (and of vectors: biases, norms) loraplus_lr_ratio times that of A
                (Hayou, Ghosh and Yu 2024, arXiv 2402.12354)
    lorafa      A [r, n] stays as it is; B [m, r] steps by Adam on g_B (A A^T)^-1 / s^2, the B that brings s B A nearest to the
                full gradient (Zhang et al. 2023, arXiv 2308.03303). peft multiplies in bfloat16 where the factors are float32,
                and decays vectors too
    riemannian  AdamW on (B^T B + reg)^-1 g_A and g_B (A A^T + reg)^-1 (Zhang and Pilanci 2024, arXiv 2402.02347)

s is each layer's own scale. Other trainable parameters, such as the head, take plain AdamW. ``options`` are those of peft's
function of that name and, but for lorafa, of ``torch.optim.AdamW``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError, did_you_mean
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables

ADAMW = ("betas", "eps", "amsgrad")
OPTIONS = {
    "loraplus": ("loraplus_lr_ratio", "loraplus_lr_embedding", *ADAMW),
    "lorafa": (),
    "riemannian": ("reg", *ADAMW),
}


@dataclass(frozen=True)
class PeftOptimizer:
    """An optimizer of peft for LoRA: LoRA+, LoRA-FA or the Riemannian preconditioner."""

    optimizer: str = setting("loraplus", "loraplus, lorafa or riemannian", origin="the one that changes AdamW least")
    learning_rate: float = setting(
        5e-5, "peak learning rate (of A with loraplus)", origin="ours: with loraplus B learns at 16 times this", gt=0
    )
    weight_decay: float = setting(0.0, "decoupled decay per step and unit of learning rate", origin="peft", ge=0)
    options: dict[str, Any] = setting((), "options of peft's function; loraplus_lr_ratio is 16 unless given", factory=dict)

    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = False
    paper: ClassVar[str] = "Hayou, Ghosh and Yu 2024, arXiv 2402.12354 (LoRA+)"
    library: ClassVar[str] = "peft"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """peft's optimizer over its model; UserError for an unknown name or option, and for a model that is not peft's LoRA."""
        from peft import PeftModel

        if self.optimizer not in OPTIONS:
            near = did_you_mean(self.optimizer, OPTIONS)
            raise UserError(f'optimize: peft has no optimizer "{self.optimizer}" that can be used here{near}')
        known = OPTIONS[self.optimizer]
        for name in self.options:
            if name not in known:
                hint = did_you_mean(name, known) if known else "; it takes none"
                raise UserError(f'optimize.options: {self.optimizer} has no option "{name}"{hint}')
        if not trainables.pairs or not isinstance(trainables.model, PeftModel):
            raise UserError("optimize: peft_optimizer steps the factors of peft's LoRA, and `adapt` left none; use adapt: lora")
        try:
            return self._make(trainables.model, dict(self.options))
        except (TypeError, ValueError) as error:
            raise UserError(f"optimize.options: peft's {self.optimizer} refuses them: {error}") from None

    def _make(self, model: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
        import torch
        from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "loraplus":
            options = {"loraplus_lr_ratio": 16.0, "loraplus_weight_decay": decay, **options}
            return create_loraplus_optimizer(model, torch.optim.AdamW, lr=rate, **options)
        if self.optimizer == "riemannian":
            return create_riemannian_optimizer(model, torch.optim.AdamW, lr=rate, weight_decay=decay, **options)
        config = model.peft_config[model.active_adapter]
        optimizer = create_lorafa_optimizer(model, r=config.r, lora_alpha=config.lora_alpha, lr=rate, weight_decay=decay)
        optimizer.register_load_state_dict_post_hook(_to_device)
        return optimizer


def _to_device(optimizer: torch.optim.Optimizer) -> None:
    """peft keeps LoRA-FA's moments by name, and torch, loading a state, moves only what is kept by parameter."""
    import torch

    places = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"]):
            places[name.partition("lora")[0] + "lora" if "lora" in name else name] = parameter.device
    for name, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                state[key] = value.to(places[name])
