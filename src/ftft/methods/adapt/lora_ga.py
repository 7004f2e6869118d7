"""LoRA-GA: start LoRA where its first step is the best step of rank 2r that full fine-tuning could take.

    G [m, n] = the mean gradient of a weight over the calibration examples,   G = U S V^T
    A = c V[:, :r]^T [r, n],   B = c U[:, r:2r] [m, r],   frozen: W - s B A,   c = m^(1/4) / sqrt(gamma),   s = alpha / sqrt(r)

The gradients of A and B are s B^T G and s G A^T, so a first step of gradient descent changes the weight, to first order in the
rate, by -rate s^2 (G A^T A + B B^T G) = -rate s^2 c^2 G_2r, where G_2r is the best approximation of G of rank 2r. The singular
values are not used, and A and B carry the same c. That is "ArB2r"; the other ways of dealing out the 2r directions ("A2rBr";
"ArBr": every other one; "random": two random halves) keep the equation. ``scale`` "stable" is the above, "unit" c = 1,
"gd_scale" c = 1 / s, "weight_svd" c = mean over j <= r of sqrt(sigma_j(W) / s).

Wang, Yu and Li 2024, arXiv 2407.05000, section 3, and the authors' code. We follow these and not peft's own "lora_ga" (0.21),
which multiplies only B, and by diag(S) c, so that its first step is no multiple of G_2r, and which under "random" gives A and B
the same r directions. gamma 16 is the default of the authors' library; their command that reproduces the paper has 64. In two
things we differ from the authors' code: gradients are taken in evaluation mode, without the noise of dropout, and the random
numbers of the truncated decomposition come from a seed of their own. s B A, of A and B as rounded, is taken out of W in float32
or finer: in bfloat16 it would be lost. The frozen weight is no longer the pretrained one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration

SEED = 0  # of the truncated decompositions and of direction "random"


@dataclass(frozen=True)
class LoRAGA:
    """LoRA that starts along the singular directions of the weights' mean gradient."""

    needs: ClassVar[tuple[str, ...]] = ("calibration", "gradients")
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Wang, Yu and Li 2024, arXiv 2407.05000"
    library: ClassVar[str] = "peft (the LoRA layers)"

    rank: int = setting(8, "rank r of the update", origin="the authors' reproduction", ge=1)
    alpha: float = setting(16.0, "the update's scale is alpha / sqrt(r)", origin="twice the rank, as commonly used", gt=0)
    rank_stabilised: bool = setting(True, "scale by alpha / sqrt(r); alpha / r otherwise", origin="the authors' reproduction")
    direction: Literal["ArB2r", "A2rBr", "ArBr", "random"] = setting(
        "ArB2r", "which of the 2r directions A and B get", origin="Wang et al. 2024, section 3"
    )
    scale: Literal["stable", "unit", "gd_scale", "weight_svd"] = setting(
        "stable", "how long the directions are made", origin="Wang et al. 2024, section 3"
    )
    gamma: float = setting(16.0, 'divides under scale "stable": c = m^(1/4) / sqrt(gamma)', origin="the authors' library", gt=0)
    examples: int = setting(128, "calibration examples, in whole batches", origin="the authors' code: 64 batches of 2", ge=1)
    batch_size: int = setting(16, "examples of one backward pass; changes nothing but time and memory", ge=1)
    targets: list[str] | None = setting(
        None, "roles of the projections (query, key, value, output, up, gate, down); by default all"
    )

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with the low-rank layers in place, computing what it did.

        Raises UserError for a role that the model has not, a layer narrower than twice the rank, and gradients that are
        missing or not finite.
        """
        import torch

        from ftft.methods.peft_layers import ADAPTER, base_weight, configuration, projections, require_rank, start_from, wrap

        assert calibration is not None, "declared in needs"
        names = projections(model, self.targets)
        require_rank(model, names, self.rank, times=2)
        gradients = mean_gradients(model, names, calibration, -(-self.examples // self.batch_size), self.batch_size)
        order = torch.randperm(2 * self.rank, generator=torch.Generator().manual_seed(SEED))

        def initialise(layers: Mapping[str, Any]) -> None:
            for name, layer in layers.items():
                gradient = gradients.pop(name)
                gradient = gradient.T if layer.fan_in_fan_out else gradient
                down, up = directions(gradient, self.rank, self.direction, order)
                length = self._length(base_weight(layer), layer.scaling[ADAPTER])
                start_from(layer, length * down, length * up)

        options = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rank_stabilised,
            "target_modules": names,
        }
        return wrap(model, configuration("lora", options), initialise)

    def _length(self, weight: torch.Tensor, scaling: float) -> float:
        """c of the module's text, for a ``weight`` [m, n]."""
        if self.scale == "stable":
            return float(weight.shape[0] ** 0.25 / self.gamma**0.5)
        if self.scale == "weight_svd":
            _, values, _ = truncated_svd(weight.cpu(), 4 * self.rank)
            return float((values[: self.rank] / scaling).sqrt().mean())
        return 1.0 if self.scale == "unit" else 1.0 / scaling


def directions(gradient: torch.Tensor, rank: int, direction: str, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal rows [r, n] for A and columns [m, r] for B: of the 2r leading singular directions of ``gradient`` [m, n]
    each gets r, no one both. ``order``: the permutation of 0..2r-1 that "random" deals by."""
    import torch

    left, _, right = truncated_svd(gradient, 4 * rank)
    if direction == "ArBr":
        order = torch.arange(2 * rank).view(rank, 2).flip(1).T.flatten()
    elif direction != "random":
        order = torch.arange(2 * rank)
    first, second = order[:rank], order[rank:]
    for_down, for_up = (second, first) if direction == "A2rBr" else (first, second)
    return right[:, for_down].T, left[:, for_up]


def truncated_svd(matrix: torch.Tensor, components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U [m, q], S [q], V [n, q] of a ``matrix`` [m, n] in the CPU's memory, q at most ``components``, as the authors' code has
    them: by a random projection and four iterations. The global random numbers stay as they are."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # the CPU's alone; torch.manual_seed would reach every device
        return torch.svd_lowrank(matrix, q=min(components, *matrix.shape), niter=4)


def mean_gradients(
    model: torch.nn.Module, names: list[str], calibration: Calibration, count: int, size: int
) -> dict[str, torch.Tensor]:
    """The gradient of the weight of each module named, averaged over ``count`` batches, in the CPU's memory and in float32 or
    finer. On the model's device one layer's gradient exists at a time: it leaves as soon as the backward pass has made it."""
    import torch

    sums: dict[str, torch.Tensor] = {}

    def take(name: str) -> Any:
        def hook(weight: torch.Tensor) -> None:
            assert weight.grad is not None
            gradient, weight.grad = weight.grad, None
            gradient = gradient.to("cpu", torch.promote_types(gradient.dtype, torch.float32))
            sums[name] = sums[name].add_(gradient) if name in sums else gradient

        return hook

    weights = {name: model.get_parameter(f"{name}.weight") for name in names}
    trained, training = {id(one) for one in model.parameters() if one.requires_grad}, model.training
    model.eval().requires_grad_(False)
    handles = []
    for name, weight in weights.items():
        weight.grad = None
        handles.append(weight.requires_grad_(True).register_post_accumulate_grad_hook(take(name)))
    try:
        for batch in calibration.batches(count, size):
            calibration.loss(model, batch).backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        model.train(training)
    for name in names:
        if name not in sums or not torch.isfinite(sums[name]).all():
            raise UserError(
                f"adapt: LoRA-GA cannot use {name}, whose gradient on the calibration examples is missing or not finite"
            )
    return {name: total.div_(count) for name, total in sums.items()}
