"""Intruder dimensions: singular vectors high in the spectrum of a tuned weight that the pretrained weight does not have.

For a linear layer with the pretrained weight W0 = U0 S0 V0^T [m, n] and the tuned one W1 = U1 S1 V1^T, for j = 1..k:

    c_j = max_i |<u1_j, u0_i>|           an intruder where c_j < epsilon

counted over all linear layers of the transformer's blocks. Tuning with low rank tends to bring them, full fine-tuning does
not, and models that have them forget more (Shuttleworth et al. 2024, arXiv 2410.21228; k and epsilon are those
of the released code, which compares left singular vectors only and counts as here).

In small matrices no direction is far from all u0_i, so ``random`` says how many of as many random directions (k in every
layer, uniform on the sphere) would have counted. Layers that training left as they were have none and are not decomposed.
The cosines are computed in the weights' own precision, in float32 at least: the released loader rounds the base to half
precision, which moves them. Compare runs of equal accuracy, or the count is one of learning rates.

The paper's mitigation, W1 + (share - 1) sum_j s1_j u1_j v1_j^T over the intruders j, is for LoRA in peft:
``peft.tuners.lora.intruders.reduce_intruder_dimension``, which finds the intruders that are counted here. Its docstring has
``mitigation_lambda`` the wrong way round: it is the share that is kept (1: all, 0.75, its default, takes a quarter away), as in
the paper. What remains has a rank above r, and is cut to r.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Measured


@dataclass(frozen=True)
class IntruderDimensions:
    """High singular vectors of the tuned weights that are far from all of the pretrained ones."""

    needs: ClassVar[tuple[str, ...]] = ("weights", "base_weights")
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Shuttleworth et al. 2024, arXiv 2410.21228"

    top_k: int = setting(10, "highest singular vectors of a weight that are looked at", origin="released code", ge=1)
    epsilon: float = setting(0.5, "cosine below which a singular vector is an intruder", origin="released code", gt=0, le=1)

    def evaluate(self, measured: Measured, *, seed: int) -> Mapping[str, Any]:
        """``count``, ``looked_at`` (vectors in all), ``random``, ``changed`` and ``layers`` (numbers of linear layers),
        ``by_layer`` {name: {"count", "lowest_cosine"}} of the changed ones, ``sentence``."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        base, tuned = dict(linear_weights(measured.base())), dict(linear_weights(measured.model()))
        by_layer: dict[str, dict[str, float]] = {}
        looked_at = at_random = 0
        for name, weight in tuned.items():
            if name not in base or base[name].shape != weight.shape:
                continue
            dtype = torch.promote_types(torch.promote_types(weight.dtype, base[name].dtype), torch.float32)
            weight, before = weight.to(dtype), base[name].to(dtype)
            if torch.equal(weight, before):
                continue
            directions = torch.linalg.svd(before, full_matrices=False).U
            cosines = largest_cosines(weight, directions, self.top_k)
            drawn = torch.randn(len(weight), len(cosines), generator=generator, dtype=torch.float64).to(weight.dtype)
            chance = (directions.T @ (drawn / drawn.norm(dim=0))).abs().amax(dim=0)
            looked_at += len(cosines)
            at_random += int((chance < self.epsilon).sum())
            by_layer[name] = {"count": int((cosines < self.epsilon).sum()), "lowest_cosine": float(cosines.min())}
        count = sum(int(one["count"]) for one in by_layer.values())
        return {
            "count": count,
            "looked_at": looked_at,
            "random": at_random,
            "changed": len(by_layer),
            "layers": len(tuned),
            "by_layer": by_layer,
            "sentence": self._sentence(count, looked_at, at_random, len(by_layer), len(tuned)),
        }

    def _sentence(self, count: int, looked_at: int, at_random: int, changed: int, layers: int) -> str:
        if not changed:
            return f"no intruder dimensions: training changed none of {layers} linear layers"
        return (
            f"{count} intruder dimension{'s' * (count != 1)} among {looked_at} high singular vectors of {changed} of {layers} "
            f"linear layers (cosine below {self.epsilon:g}; of random directions {at_random})"
        )


def linear_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights [out, in] of the linear layers in the transformer's blocks, by their names in the model; of both towers where
    it has two."""
    import torch

    from ftft.modelmap import towers_of

    for blocks_name, blocks in towers_of(model):
        for name, module in blocks.named_modules(prefix=blocks_name):
            if isinstance(module, torch.nn.Linear):
                yield f"{name}.weight", module.weight.detach()
            elif type(module).__name__ == "Conv1D":  # GPT-2's linear layer, stored [in, out]
                yield f"{name}.weight", module.weight.detach().T


def largest_cosines(weight: torch.Tensor, directions: torch.Tensor, top_k: int) -> torch.Tensor:
    """c_j of the ``top_k`` highest left singular vectors (fewer where there are not so many) of ``weight`` [m, n] against the
    columns of ``directions`` [m, r]."""
    import torch

    highest = torch.linalg.svd(weight, full_matrices=False).U[:, :top_k]
    return (directions.T @ highest).abs().amax(dim=0)
