"""Tensors of which every process holds a shard (torch's DTensor), made whole and cut again.

What is no DTensor comes back as it is, and nothing is sent; of a DTensor all processes must ask for the same, in one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def is_shard(value: Any) -> bool:
    """Whether ``value`` is a DTensor; torch's distributed tensors are not imported to find out."""
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def in_shards(model: torch.nn.Module) -> bool:
    """Whether any of the model's parameters lies in shards."""
    return any(is_shard(parameter) for parameter in model.parameters())


def whole(value: Any) -> torch.Tensor:
    """A tensor with all its shards, the same in every process."""
    return value.full_tensor() if is_shard(value) else value


def own_part(value: Any) -> torch.Tensor:
    """This process' shard of a tensor; nothing is sent."""
    return value.to_local() if is_shard(value) else value


def whole_tree(tree: Any, *, keep: bool) -> Any:
    """Dicts, lists and tuples with every tensor in them whole and, where it lay in shards, on the CPU. A process that does not
    ``keep`` it takes part and holds one whole tensor at a time: None stands in its place."""
    if is_shard(tree):
        full = whole(tree.detach())
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {name: whole_tree(value, keep=keep) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(value, keep=keep) for value in tree)
    return tree


def cut_like(value: torch.Tensor, like: Any) -> torch.Tensor:
    """The whole tensor ``value`` in shards as those of ``like``, where that lies in shards."""
    if not is_shard(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def cut_state(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A whole state dict as ``model`` loads it: cut where its own tensors are."""
    own = model.state_dict()
    return {name: cut_like(value, own.get(name)) for name, value in state.items()}


def cut_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state dict as ``optimizer`` loads it: what has a parameter's shape is cut as the parameter is."""
    parameters: Sequence[Any] = [one for group in optimizer.param_groups for one in group["params"]]
    if not any(is_shard(one) for one in parameters):
        return dict(state)

    def cut(value: Any, like: torch.Tensor) -> Any:
        return cut_like(value, like) if isinstance(value, torch.Tensor) and value.shape == like.shape else value

    kept = {
        index: {name: cut(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": kept}
