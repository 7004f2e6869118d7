"""S2FT: train a few whole attention heads and MLP channels, as dense slices of the projections that read or write them.

    output, down:   y = W x + S x[i],          S [m, k], columns i of W     (what the layer reads from heads or channels)
    value, up:      y = W x,  y[i] += S x,     S [k, n], rows i of W        (what it writes to them)

with W frozen and S from 0 (``ftft.nn.slices``): dense products, and little to keep for the backward pass of output and down.
For each of the four a share of all heads or channels of the model is drawn uniformly, so that layers differ in how many they
have. Yang et al. 2024, arXiv 2412.06289; the draw and the shares are those of their code, which trains no value and up rows and
has none of the paper's other ways to choose (weights, activations, gradients). LLaMA-3's shares there are output 0, down 0.03.
A method of 2026 by the same name, with sparse spectra, is another.

Where we depart from the code:
- It permutes the projections so that what is chosen lies side by side, by an order over heads that does not fit the fewer
  key-value heads of grouped-query attention (its LLaMA-3 scripts have output 0). Here an index names the channels, nothing is
  permuted, and a key-value head is chosen with all the query heads that use it.
- Its memory-saving AdamW lets the weight decay act on the whole matrix, frozen channels included. Here only S decays, to 0, so
  that the weight is pulled to where it began.
- Its layers take inputs [batch, length, n] only and add to their output in place; these take any shape and add out of place.
- It rounds the number drawn down; here it is rounded, and at least one where the share is above 0, so that small models too
  have something to train.
- The head of the model is trained whole, or with ``train_head: false`` not at all, as there, where it is the language model's.

What was learned is LoRA of rank k at scale 1, exactly: ``ftft.nn.slices.lora_factors`` gives B = S with a selector as A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Calibration
    from ftft.modelmap import ModelMap

FUSED = {"value": "query_key_value", "up": "gate_up"}


@dataclass(frozen=True)
class S2FT:
    """Train the slices of a few whole heads and MLP channels, and the head."""

    value: float = setting(0.0, "share of the heads whose value rows are trained", origin="S2FT code", ge=0, le=1)
    output: float = setting(
        0.052, "share of the heads whose output columns are trained", origin="S2FT code, LLaMA-2", ge=0, le=1
    )
    up: float = setting(0.0, "share of the MLP channels whose up rows are trained", origin="S2FT code", ge=0, le=1)
    down: float = setting(
        0.02, "share of the MLP channels whose down columns are trained", origin="S2FT code, LLaMA-2", ge=0, le=1
    )
    seed: int = setting(0, "seed of the choice", ge=0)
    train_head: bool = setting(True, "train the parameters outside the pretrained part")

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ("merge",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Yang et al. 2024, arXiv 2412.06289"

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` itself with sliced layers in place. UserError, and nothing changed, where all shares are 0, a projection
        is fused with others or no ``Linear``, or the heads cannot be told from the model's config."""
        from ftft.methods.contract import Adapted
        from ftft.modelmap import ModelMap
        from ftft.nn.slices import InputSlices, OutputSlices, plain_state, put_in_place

        where = ModelMap.of(model)
        kinds = {"value": OutputSlices, "output": InputSlices, "up": OutputSlices, "down": InputSlices}
        chosen = {role: self._choose(model, where, role, index) for index, role in enumerate(kinds)}
        if not any(chosen.values()):
            raise UserError("adapt: s2ft has nothing to train: value, output, up and down are all 0; give one a share above 0")
        model.requires_grad_(False)
        named = dict(model.named_parameters())
        for name in where.head:
            named[name].requires_grad_(self.train_head)
        for role, layers in chosen.items():
            for name, layer, channels in layers:
                put_in_place(model, name, kinds[role](layer, channels))
        return Adapted(model, lambda: plain_state(model))

    def _choose(
        self, model: torch.nn.Module, where: ModelMap, role: str, index: int
    ) -> list[tuple[str, torch.nn.Linear, torch.Tensor]]:
        """The layers with this role that have channels to train: module name, layer, channels (int64, ascending)."""
        import torch

        share = getattr(self, role)
        if not share:
            return []
        layers = _projections(model, where, role)
        channels = [layer.in_features if role in ("output", "down") else layer.out_features for layer in layers.values()]
        widths = [
            _head_width(model, name, count) if role in ("value", "output") else 1 for name, count in zip(layers, channels)
        ]
        # A generator of its own, so that one share does not change what another draws.
        generator = torch.Generator().manual_seed(4 * self.seed + index)
        units = draw([count // width for count, width in zip(channels, widths)], share, generator)
        return [
            (name, layer, (drawn[:, None] * width + torch.arange(width)).flatten())
            for (name, layer), drawn, width in zip(layers.items(), units, widths)
            if len(drawn)
        ]


def _projections(model: torch.nn.Module, where: ModelMap, role: str) -> dict[str, torch.nn.Linear]:
    """The layers of this role by module name, block by block; UserError where one is fused or no ``Linear``."""
    from torch import nn

    found = {}
    for block in where.attention if role in ("value", "output") else where.mlp:
        if role not in block:
            raise UserError(
                f"adapt: s2ft cannot train `{role}` of {type(model).__name__}, whose layer {block[FUSED[role]]} holds it "
                f"together with other projections; set {role}: 0"
            )
        layer = model.get_submodule(block[role])
        if not isinstance(layer, nn.Linear):
            raise UserError(
                f"adapt: s2ft needs Linear layers, and {block[role]} of {type(model).__name__} is a {type(layer).__name__}; "
                "use lift or full"
            )
        found[block[role]] = layer
    return found


def _head_width(model: torch.nn.Module, name: str, channels: int) -> int:
    """How many ``channels`` of the projection called ``name`` belong to one key-value head and, where they are more, its query
    heads. The config of the nearest module around it says so: each of two towers has its own."""
    heads, config = None, None
    while heads is None and name:
        name = name.rpartition(".")[0]
        config = getattr(model.get_submodule(name), "config", None)
        heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None) or heads
    if not isinstance(groups, int) or channels % groups:
        raise UserError(
            f"adapt: s2ft cannot tell the heads of {type(model).__name__}, whose config has num_attention_heads {heads} and "
            f"whose projections have {channels} channels; set value: 0 and output: 0 to train MLP channels only"
        )
    return channels // groups


def draw(sizes: Sequence[int], share: float, generator: torch.Generator) -> list[torch.Tensor]:
    """Uniformly, without repeats, ``share`` of all units of layers of these ``sizes``: those of each layer, ascending.

    The number is rounded, and at least one where ``share`` is above 0.
    """
    import torch

    total = sum(sizes)
    chosen = torch.randperm(total, generator=generator)[: max(1, round(share * total)) if share else 0].sort().values
    parts, start = [], 0
    for size in sizes:
        parts.append(chosen[(chosen >= start) & (chosen < start + size)] - start)
        start += size
    return parts
