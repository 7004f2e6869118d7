"""Linear layers of which whole input channels (columns of W) or output channels (rows) are trained, as dense slices.

    InputSlices:    y = W x + b + S x[i],        S [m, k]: what is read from the channels i
    OutputSlices:   y = W x + b,  y[i] += S x,   S [k, n]: what is written to the channels i

W [m, n] and b are frozen, S begins at 0, i (int64 [k]) names the channels; nothing is permuted. Of the activations the
backward pass of the first keeps only x[..., i], batch * length * k numbers: torch's own products keep an input only where the
other factor needs a gradient, so W x keeps W alone and S x[i] the slice. The second needs the whole x, for S.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class SlicedLinear(nn.Linear):
    """What both have in common. In the place of the layer it is made from, whose ``weight`` and ``bias`` it takes over and
    freezes, under their names; ValueError for channels that are repeated, out of range, or none."""

    indices: torch.Tensor

    def __init__(self, layer: nn.Linear, indices: torch.Tensor, channels: int, shape: tuple[int, int]) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.train(layer.training)
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        indices = indices.to(device=layer.weight.device, dtype=torch.int64)
        if not len(indices) or len(indices.unique()) < len(indices) or indices.min() < 0 or indices.max() >= channels:
            raise ValueError(f"the indices must be different ones of {channels} channels, and at least one")
        self.slices = nn.Parameter(layer.weight.new_zeros(shape))
        self.register_buffer("indices", indices)

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B [m, k] and A [k, n] with W + B A = the merged weight: what is learned as LoRA of rank k and scale 1, exactly."""
        raise NotImplementedError

    def merged_weight(self) -> torch.Tensor:
        """W [m, n] with what was learned added, in memory of its own."""
        raise NotImplementedError

    def _selector(self, channels: int) -> torch.Tensor:
        """[k, channels]: one row per chosen channel, with a 1 at its place."""
        return functional.one_hot(self.indices, channels).to(self.weight.dtype)


class InputSlices(SlicedLinear):
    """Trains what a linear layer reads from the input channels ``indices``: S [m, k], columns of W."""

    def __init__(self, layer: nn.Linear, indices: torch.Tensor) -> None:
        super().__init__(layer, indices, layer.in_features, (layer.out_features, len(indices)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = x.index_select(-1, self.indices)
        return functional.linear(x, self.weight, self.bias) + functional.linear(chosen, self.slices)

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.slices.detach().clone(), self._selector(self.in_features)

    def merged_weight(self) -> torch.Tensor:
        return self.weight.detach().index_add(1, self.indices, self.slices.detach())


class OutputSlices(SlicedLinear):
    """Trains what a linear layer writes to the output channels ``indices``: S [k, n], rows of W."""

    def __init__(self, layer: nn.Linear, indices: torch.Tensor) -> None:
        super().__init__(layer, indices, layer.out_features, (len(indices), layer.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias).index_add(-1, self.indices, functional.linear(x, self.slices))

    def lora_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._selector(self.out_features).T.contiguous(), self.slices.detach().clone()

    def merged_weight(self) -> torch.Tensor:
        return self.weight.detach().index_add(0, self.indices, self.slices.detach())


def sliced_layers(model: nn.Module) -> dict[str, SlicedLinear]:
    """The sliced layers of ``model`` by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SlicedLinear)}


def put_in_place(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the module ``name`` of ``model`` by ``layer``."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of ``model`` by the names it had before its layers were sliced, what was learned merged in."""
    state = dict(model.state_dict())
    for name, layer in sliced_layers(model).items():
        prefix = f"{name}." if name else ""
        del state[f"{prefix}slices"], state[f"{prefix}indices"]
        state[f"{prefix}weight"] = layer.merged_weight()
    return state


def lora_factors(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What the sliced layers learned as LoRA factors by module name: B [m, k] and A [k, n], scale 1 and a rank k per layer."""
    return {name: layer.lora_factors() for name, layer in sliced_layers(model).items()}
