"""A model that no process holds whole: FSDP2, torch's ``fully_shard``.

Every parameter is cut along its first dimension into as many shards as there are processes; its gradient and the optimizer's
state are cut like it. A block's weights are put together before it computes and let go again afterwards, forward and backward.
Zhao et al. 2023, arXiv 2304.11277 (FSDP); the second version is torch's own.

accelerate is not asked: on CPUs it trains whole copies (DDP) where FSDP was ordered, and says nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ftft.engine.processes import Processes
from ftft.errors import UserError
from ftft.modelmap import towers_of
from ftft.state.shards import in_shards, whole

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")  # attributes by which other libraries know a sharded module


class Shards:
    """``model`` in shards over ``processes``, in place: its parameters are others from now on. It begins as the first process
    has it, as a copy in each process would. Raises UserError for a model that cannot be cut."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        _require_dimensions(model)
        self.model, self.processes = model, processes
        self._before = [(module, type(module), _hooks(module)) for module in model.modules()]
        _begin_alike(model, processes)
        mesh = init_device_mesh(torch.device(processes.device).type, (processes.count,))
        # Blocks first: what is left belongs to the whole. All are let go after the forward pass, the whole's own weights too:
        # between two steps nothing but shards is registered.
        for part in [*_blocks(model), model]:
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        for module in model.modules():
            if isinstance(module, FSDPModule) and mesh.device_type == "cpu":
                module.set_force_sum_reduction_for_comms(True)  # gloo has no mean

    def leave(self) -> None:
        """The model as it was before, with the weights it has now: whole and on the CPU in the first process, in which alone it
        can still be used. All processes must call it.

        torch has no way back: what ``fully_shard`` hung on the modules (classes, hooks) is taken off again.
        """
        found: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # with the old one, whose id must stay its own
        for module in self.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if id(parameter) not in found:
                    full = whole(parameter.detach())
                    kept = full.cpu() if self.processes.is_first else torch.empty(0)
                    found[id(parameter)] = parameter, nn.Parameter(kept, parameter.requires_grad)
                module.register_parameter(name, found[id(parameter)][1])
        for module, kind, hooks in self._before:
            module.__class__ = kind
            for name, before in hooks.items():
                getattr(module, name).clear()
                getattr(module, name).update(before)
            for mark in _MARKS:
                vars(module).pop(mark, None)
        self.model.to("cpu")
        assert not in_shards(self.model)


def _hooks(module: nn.Module) -> dict[str, dict[Any, Any]]:
    return {name: dict(value) for name, value in vars(module).items() if "_hooks" in name and isinstance(value, dict)}


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer layers; none where the structure is not known, and the model is then put together as one."""
    try:
        return [block for _, blocks in towers_of(model) for block in blocks]
    except UserError:
        return []


def _require_dimensions(model: nn.Module) -> None:
    scalar = next((name for name, parameter in model.named_parameters() if parameter.ndim == 0), None)
    if scalar is not None:
        raise UserError(
            f"train.sharding: fsdp2 cuts parameters along their first dimension, and {scalar} of {type(model).__name__} is a "
            "single number; train with sharding: none"
        )


def _begin_alike(model: nn.Module, processes: Processes) -> None:
    """Every process' weights become the first one's, and lie row by row: an adapter draws its own in each, and may leave a
    factor turned on its side."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    for tensor in [*model.parameters(), *buffers]:
        sent = tensor.detach().to(processes.device, copy=True).contiguous()
        torch.distributed.broadcast(sent, src=0)
        tensor.data = sent.to(tensor.device)
