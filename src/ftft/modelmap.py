"""Names for the parts of a transformer: embeddings, blocks, attention and MLP projections, head.

Works on the module tree alone, so that it serves any model built in the usual way: a backbone (the attribute that
``base_model_prefix`` names) holding one long ``ModuleList`` of like blocks, and a head outside the backbone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ftft.errors import UserError

# The last part of a projection's module name -> its role, as BERT, DeBERTa, DistilBERT, ModernBERT, Llama, GPT-2 and
# their relatives spell it. A fused projection has a role of its own.
ATTENTION_ROLES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "query_proj", "q_lin", "q_proj", "q"),
    "key": ("key", "key_proj", "k_lin", "k_proj", "k"),
    "value": ("value", "value_proj", "v_lin", "v_proj", "v"),
    "query_key_value": ("Wqkv", "c_attn", "qkv_proj", "query_key_value", "qkv"),
    "output": ("dense", "out_lin", "o_proj", "out_proj", "Wo", "c_proj", "o"),
}
MLP_ROLES: Mapping[str, tuple[str, ...]] = {
    "gate": ("gate_proj",),
    "up": ("intermediate.dense", "lin1", "up_proj", "c_fc", "fc1", "dense_h_to_4h", "fc_in"),
    "gate_up": ("Wi", "gate_up_proj"),
    "down": ("output.dense", "lin2", "down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "Wo"),
}
TOWERS = ("text_model", "vision_model")  # as CLIP and its relatives spell them
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class ModelMap:
    """Where the parts of a model are; all names are those of ``named_modules`` and ``named_parameters``.

    ``backbone``: the backbone's module name. ``embeddings``: module names of the embedding tables outside the blocks.
    ``blocks_name`` and ``blocks``: the ModuleList of transformer layers, in order; of a model of two towers the layers of one
    after those of the other, with the first one's name. ``names``: the module names of the blocks. ``attention`` and
    ``mlp``: for each block role -> module name (``query``, ``key``, ``value`` or the fused ``query_key_value``, and
    ``output``; ``up`` and ``down``, with ``gate`` or the fused ``gate_up`` where the model is gated). ``head``: names of
    the parameters outside the backbone.
    """

    backbone: str
    embeddings: tuple[str, ...]
    blocks_name: str
    blocks: nn.ModuleList
    attention: tuple[Mapping[str, str], ...]
    mlp: tuple[Mapping[str, str], ...]
    head: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module) -> ModelMap:
        """The map of ``model``; UserError where its structure is not one we know."""
        prefix, backbone = backbone_of(model)
        towers = towers_of(model)
        named = {f"{name}.{index}": block for name, blocks in towers for index, block in enumerate(blocks)}
        attention, mlp = [], []
        for name, block in named.items():
            projections = _projections(block, name)
            attention.append(projections[0])
            mlp.append(projections[1])
        embeddings = tuple(
            _join(prefix, name)
            for name, module in backbone.named_modules()
            if isinstance(module, nn.Embedding) and not _join(prefix, name).startswith(tuple(f"{one}." for one, _ in towers))
        )
        return cls(
            backbone=prefix,
            embeddings=embeddings,
            blocks_name=towers[0][0],
            blocks=towers[0][1] if len(towers) == 1 else nn.ModuleList(named.values()),
            attention=tuple(attention),
            mlp=tuple(mlp),
            head=tuple(name for name, _ in head_parameters(model)),
            names=tuple(named),
        )

    def block_of(self, parameter: str) -> int | None:
        """The index of the block that holds the parameter of this name, or None outside the blocks."""
        return next((index for index, name in enumerate(self.names) if parameter.startswith(f"{name}.")), None)


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The name and module of the pretrained part, ("", model) where the model is nothing else; UserError if unknown."""
    prefix = getattr(model, "base_model_prefix", None)
    if not isinstance(prefix, str):
        raise UserError(
            f"the structure of {type(model).__name__} is unknown: it has no base_model_prefix, which names the pretrained part "
            "in every model of transformers"
        )
    backbone = getattr(model, prefix, None) if prefix else None
    return (prefix, backbone) if isinstance(backbone, nn.Module) else ("", model)


def head_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The named parameters outside the backbone, in the model's order; UserError for a model of unknown structure."""
    _, backbone = backbone_of(model)
    inside = {id(parameter) for parameter in backbone.parameters()}
    return ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in inside)


def label_layer(model: nn.Module, labels: int) -> tuple[str, nn.Linear]:
    """The linear layer that gives the logits: the last one outside the backbone with ``labels`` outputs."""
    prefix, _ = backbone_of(model)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and not (prefix and name.startswith(prefix + "."))
    ]
    if not found or not prefix:
        raise UserError(f"{type(model).__name__} has no linear layer with {labels} outputs outside its pretrained part")
    return found[-1]


def blocks_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest outermost ModuleList of modules of one class under the backbone, with its name; UserError if none, and for a
    model of two towers, which has two."""
    towers = towers_of(model)
    if len(towers) > 1:
        raise UserError(
            f"{type(model).__name__} has two towers ({' and '.join(name for name, _ in towers)}), not one list of layers"
        )
    return towers[0]


def towers_of(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of transformer layers with their names: one, or of a model of texts and images the texts' and the images'."""
    towers = [getattr(model, name, None) for name in TOWERS]
    if all(isinstance(tower, nn.Module) for tower in towers):
        return [(f"{name}.{inner}", blocks) for name in TOWERS for inner, blocks in [_only_blocks(getattr(model, name))]]
    return [_only_blocks(model)]


def _only_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    prefix, backbone = backbone_of(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UserError(
            f"the structure of {type(model).__name__} is unknown: it has an encoder and a decoder, not one list of layers"
        )
    lists = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = {
        name: module
        for name, module in lists.items()
        if len({type(block) for block in module}) == 1
        and not any(name.startswith(other + ".") for other in lists if other != name)
    }
    if not outermost:
        raise UserError(f"the structure of {type(model).__name__} is unknown: it has no list of transformer layers")
    name = max(outermost, key=lambda key: len(outermost[key]))
    return _join(prefix, name), outermost[name]


def keep_first_layers(model: nn.Module, k: int) -> None:
    """Cut the model (both towers where it has two) in place to its first ``k`` transformer layers and make its config say so.

    Everything outside the layers stays (DeBERTa's relative position embeddings and convolution, final norms, poolers,
    heads). Raises UserError when the model has fewer layers, or when its config does not count its layers, so that
    the cut model could not be loaded again.
    """
    towers = [blocks for _, blocks in towers_of(model)]
    count = min(map(len, towers))
    if not 1 <= k <= count:
        raise UserError(f"keep_layers is {k}, but {type(model).__name__} has {count} layers; give a number from 1 to {count}")
    configs = list({id(config): config for module in model.modules() if (config := getattr(module, "config", None))}.values())
    for count in sorted({len(blocks) for blocks in towers}):
        if not any(getattr(config, key, None) == count for config in configs for key in LAYER_COUNTS):
            raise UserError(
                f"keep_layers does not know how to cut {type(model).__name__}: its config does not say it has {count} layers"
            )
    for config in configs:
        for count in sorted({len(blocks) for blocks in towers}):
            _cut_config(config, count, k)
    for blocks in towers:
        del blocks[k:]


def _cut_config(config: Any, count: int, k: int) -> None:
    for key in LAYER_COUNTS:
        if getattr(config, key, None) == count:
            setattr(config, key, k)
    for key, value in list(vars(config).items()):
        # Per-layer lists: layer_types, mlp_layer_types, no_rope_layers and the like.
        if isinstance(value, (list, tuple)) and "layer" in key and len(value) == count:
            setattr(config, key, value[:k])


def _projections(block: nn.Module, block_name: str) -> tuple[dict[str, str], dict[str, str]]:
    attention: dict[str, str] = {}
    mlp: dict[str, str] = {}
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if getattr(weight, "ndim", None) != 2 or isinstance(module, nn.Embedding) or "cross" in name:
            continue
        roles, found = (ATTENTION_ROLES, attention) if "att" in name.split(".")[0] else (MLP_ROLES, mlp)
        for role, spellings in roles.items():
            if any(name == spelling or name.endswith("." + spelling) for spelling in spellings):
                found.setdefault(role, f"{block_name}.{name}")
    complete = "output" in attention and ("query_key_value" in attention or {"query", "key", "value"} <= set(attention))
    if not complete or "down" not in mlp or not {"up", "gate_up"} & set(mlp):
        linear = [name for name, module in block.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
        raise UserError(
            f"the structure of {type(block).__name__} ({block_name}) is unknown: its attention and MLP projections cannot be "
            f"told from the names {', '.join(linear) or 'of its modules'}"
        )
    return attention, mlp


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
