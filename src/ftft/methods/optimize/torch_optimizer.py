"""Any optimizer of torch.optim, by the name of its class.

    optimize: {name: torch_optimizer, optimizer: NAdam, learning_rate: 2.0e-5, options: {momentum_decay: 0.004}}

``options`` are those of the class's own constructor. The formulas are torch's, and so is what weight decay means: decoupled in
AdamW, Muon and Adafactor, and in Adam, NAdam and RAdam with ``decoupled_weight_decay: true``; else L2 added to the gradient.
Biases, norms and other parameters of fewer than two dimensions do not decay. Muon is for matrices alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError, did_you_mean
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables

REFUSED = {
    "LBFGS": "its line search needs one loss function, and every step here has another batch",
    "SparseAdam": "it takes sparse gradients only, and those of a fine-tuned model are dense",
}
ELSEWHERE = {"lr": "learning_rate", "weight_decay": "weight_decay"}  # options that are settings of their own
UNFIT = ("self", "params", "maximize", "capturable", "differentiable")  # what a stage that descends has no use for


@dataclass(frozen=True)
class TorchOptimizer:
    """An optimizer of torch.optim, named by its class."""

    optimizer: str = setting("NAdam", "the class in torch.optim", origin="ours: Adam with Nesterov momentum, adamw beside it")
    learning_rate: float = setting(2e-5, "peak learning rate", origin="as adamw; not every optimizer's scale", gt=0)
    weight_decay: float = setting(0.0, "the optimizer's own weight decay, of matrices", origin="as adamw", ge=0)
    options: dict[str, Any] = setting((), "options of the optimizer's constructor", factory=dict)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    library: ClassVar[str] = "torch"

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """The optimizer over the trainable parameters.

        Raises UserError for a class or an option that torch has not, or that is of no use here, and for a value that torch
        refuses.
        """
        made = self._class()
        self._check(made)
        if made.__name__ == "Muon":
            self._require_matrices(trainables)
        try:
            optimizer = made(trainables.decay_groups(self.weight_decay), lr=self.learning_rate, **self.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"optimize.options: {made.__name__} refuses them: {error}") from None
        optimizer.register_load_state_dict_post_hook(_keep_scalars)
        return optimizer

    def _class(self) -> Any:
        import torch

        found = {name: one for name, one in vars(torch.optim).items() if isinstance(one, type)}
        there = {name: one for name, one in found.items() if issubclass(one, torch.optim.Optimizer) and name != "Optimizer"}
        name = {one.lower(): one for one in there}.get(self.optimizer.lower())
        usable = sorted(set(there) - set(REFUSED))
        if name is None:
            raise UserError(f'optimize: torch.optim has no optimizer "{self.optimizer}"{did_you_mean(self.optimizer, usable)}')
        if name in REFUSED:
            raise UserError(f"optimize: {name} cannot be used, because {REFUSED[name]}; use one of {', '.join(usable)}")
        return there[name]

    def _check(self, made: Any) -> None:
        import inspect

        parameters: Mapping[str, Any] = inspect.signature(made.__init__).parameters
        known = [name for name in parameters if name not in UNFIT and name not in ELSEWHERE]
        for name in self.options:
            if name in ELSEWHERE:
                raise UserError(f"optimize.options: {name} has a setting of its own; write optimize.{ELSEWHERE[name]}")
            if name not in known:
                near = did_you_mean(name, known)
                raise UserError(f'optimize.options: {made.__name__} has no option "{name}" that can be set here{near}')
        if self.weight_decay and "weight_decay" not in parameters:
            raise UserError(f"optimize.weight_decay: {made.__name__} has no weight decay; leave it at 0")

    def _require_matrices(self, trainables: Trainables) -> None:
        other = next((name for name, parameter in trainables.named if parameter.ndim != 2), None)
        if other is not None:
            raise UserError(
                f"optimize: Muon steps matrices only, and {other} is none; use another optimizer, or an adapter that trains "
                "matrices alone"
            )


def _keep_scalars(optimizer: torch.optim.Optimizer) -> None:
    """Loading a state, torch gives its scalars (NAdam's ``mu_product``, ASGD's ``eta``) the type of their parameter; of a
    float64 parameter they are in float32, and a resumed run would leave the straight one's path in the last digits."""
    import torch

    kept = torch.get_default_dtype()
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim == 0 < parameter.ndim and value.dtype == parameter.dtype:
                state[name] = value.to(kept)
