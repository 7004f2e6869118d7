"""CorDA: start LoRA from the components of each weight that matter most, or least, on the inputs the layer really gets.

    C = mean over examples of X^T X  [n, n],  X [tokens, n] the layer's inputs in one example, divided by max |X|
    W C = U S V^T,   V' = V^T C^-1,   so that W = U S V'                                     W [m, n]
    B = U_r sqrt(S_r / s) [m, r],   A = sqrt(S_r / s) V'_r [r, n],   frozen: W - s B A,      s = alpha / r

``ipm`` (instruction-previewed) trains the r largest components: among all updates of that rank theirs is the best approximation
of W on these inputs, |(W - s B A) C|_F^2 = sum of the other S_i^2. ``kpm`` (knowledge-preserved) trains the r smallest, so that
what the layer does on these inputs stays in the frozen weight; the paper takes C from examples of the knowledge to keep. Here
both look at the rows the stage learns from, which is what ``ipm`` means; ``kpm`` then keeps what the model does on those.
Few or short examples leave C without full rank, and A and B unbalanced by what is added to it (peft issue 2317). The frozen
weight is no longer the pretrained one: without its adapter the model is another.

Yang et al. 2024, arXiv 2406.05223, section 3. Scaling and damping are those of the authors' code, in which X is divided and
0.01 mean(diag C) I added to C, doubled until C C^-1 is I to 0.05; but they, and peft, divide by |max X|, which is not the
largest magnitude and is 0 where that of the inputs is: here max |X| divides. The formula is computed here, in the model's
precision: peft's ``preprocess_corda`` computes in float32 only and refuses models in float64, counts padding among the inputs,
and takes one example at a time only.
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


@dataclass(frozen=True)
class CorDA:
    """LoRA that starts from the components of the weights that matter most, or least, on the calibration inputs."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling", "image_classification")
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Yang et al. 2024, arXiv 2406.05223"
    library: ClassVar[str] = "peft (the LoRA layers)"

    mode: Literal["ipm", "kpm"] = setting("ipm", "train the components that matter most (ipm) or least (kpm)")
    rank: int = setting(8, "rank r of the update; the paper's is 128", ge=1)
    alpha: float = setting(8.0, "the update's scale is alpha / r", origin="alpha equal to the rank", gt=0)
    examples: int = setting(256, "calibration examples, in whole batches", origin="the authors' code", ge=1)
    batch_size: int = setting(16, "examples of one forward pass; changes nothing but time and memory", ge=1)
    targets: list[str] | None = setting(
        None, "roles of the projections (query, key, value, output, up, gate, down); by default all"
    )

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with the low-rank layers in place, computing what it did.

        Raises UserError for a role that the model has not, a rank above the width of a layer, and inputs that are all zero
        or not finite.
        """
        from ftft.methods.peft_layers import ADAPTER, base_weight, configuration, projections, require_rank, start_from, wrap

        assert calibration is not None, "declared in needs"
        names = projections(model, self.targets)
        require_rank(model, names, self.rank)
        seen = covariances(model, names, calibration, self.examples, self.batch_size)

        def initialise(layers: Mapping[str, Any]) -> None:
            for name, layer in layers.items():
                scaling = layer.scaling[ADAPTER]
                down, up = factors(base_weight(layer), seen.pop(name), self.rank, scaling, largest=self.mode == "ipm")
                start_from(layer, down, up)

        options = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": names}
        return wrap(model, configuration("lora", options), initialise)


def factors(
    weight: torch.Tensor, covariance: torch.Tensor, rank: int, scaling: float, *, largest: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, n] and B [m, r] from ``weight`` [m, n] and ``covariance`` [n, n]: the ``rank`` largest or smallest components."""
    import torch

    damped, inverse = _damped(covariance.to(weight.dtype))
    left, values, right = torch.linalg.svd(weight @ damped, full_matrices=False)
    chosen = slice(None, rank) if largest else slice(len(values) - rank, None)
    root = (values[chosen] / scaling).sqrt()
    return root[:, None] * (right[chosen] @ inverse), left[:, chosen] * root


def covariances(
    model: torch.nn.Module, names: list[str], calibration: Calibration, examples: int, size: int
) -> dict[str, torch.Tensor]:
    """C [n, n] of the inputs of each module named, in float32 or finer, over at least ``examples`` examples in batches of
    ``size``; padding is no input. UserError where a layer's inputs are all zero or not finite."""
    import torch

    sums: dict[str, torch.Tensor] = {}
    mask: torch.Tensor | None = None

    def look(name: str) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            given = inputs[0].detach()
            given = given.to(torch.promote_types(given.dtype, torch.float32)).reshape(len(given), -1, given.shape[-1])
            if mask is not None:
                given = given * mask.to(given.device, given.dtype)[..., None]
            largest = given.abs().amax(dim=(1, 2), keepdim=True)
            rows = (given / torch.where(largest > 0, largest, 1.0)).flatten(0, 1)
            product = rows.T @ rows
            sums[name] = sums[name].add_(product) if name in sums else product

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    training, count = model.training, -(-examples // size)
    model.eval()
    try:
        for batch in calibration.batches(count, size):
            mask = batch.inputs.get("attention_mask")  # without one, as of images, there is no padding
            calibration.forward(model, batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    for name in names:
        trace = float(sums[name].trace()) if name in sums else 0.0
        if not 0 < trace < float("inf"):
            raise UserError(
                f"adapt: CorDA cannot use {name}, whose inputs on the calibration examples are missing, all zero or not finite"
            )
    return {name: total / (count * size) for name, total in sums.items()}


def _damped(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The covariance with just enough added to its diagonal that it can be inverted, and its inverse."""
    import torch

    unit = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    damping = 0.01
    while True:
        damped = covariance + damping * covariance.diagonal().mean() * unit
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, unit) < 0.05:
            return damped, inverse
        damping *= 2
