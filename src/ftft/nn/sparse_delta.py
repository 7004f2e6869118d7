"""Some entries of a frozen tensor are trained: a sparse difference, shared by methods that differ in how they choose them.

    W = W0 + scatter(values, indices),   W0 [m, n] frozen, values [k] trained from 0, indices int64 [k] into W0.flatten()

Only ``values`` is a parameter, so any optimizer's moments have k entries. The difference is a parametrization of the tensor
(``torch.nn.utils.parametrize``), so it serves every module and every tensor of it: linear layers whichever way their weight
lies, embeddings, biases. A forward pass makes the dense W, a backward pass its dense gradient, one tensor at a time; W is
kept in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize


class SparseDelta(nn.Module):
    """Adds trainable ``values`` [k], zero at first, to a tensor at the flat ``indices`` (int64 [k], ascending, all different).

    ValueError for no indices, repeated ones, or ones outside the tensor.
    """

    indices: torch.Tensor

    def __init__(self, original: torch.Tensor, indices: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(original.new_zeros(indices.numel()))
        self.register_buffer("indices", _ascending(indices, original))

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        return original.reshape(-1).index_add(0, self.indices, self.values).view(original.shape)


@dataclass(frozen=True)
class DeltaTensor:
    """The tensor ``name`` of a model, some entries of which are trained. ``module`` owns it, by the last part of the name."""

    name: str
    module: nn.Module

    @classmethod
    def attach(cls, model: nn.Module, name: str, indices: torch.Tensor) -> DeltaTensor:
        """Freeze the parameter ``name`` of ``model``, in place, and train what is added to it at ``indices``; the model says
        what it said. ValueError as for :class:`SparseDelta`."""
        owner, _, tensor = name.rpartition(".")
        module = model.get_submodule(owner)
        parameter = module.get_parameter(tensor)
        parametrize.register_parametrization(module, tensor, SparseDelta(parameter, indices))
        parameter.requires_grad_(False)
        return cls(name, module)

    @property
    def delta(self) -> SparseDelta:
        return self._parametrization[0]  # type: ignore[return-value]

    @property
    def original(self) -> torch.Tensor:
        """The frozen W0."""
        return self._parametrization.original

    @property
    def _parametrization(self) -> parametrize.ParametrizationList:
        return self.module.parametrizations[self.name.rpartition(".")[2]]  # type: ignore[index,return-value]

    def weight(self) -> torch.Tensor:
        """W as it is now, in memory of its own, without gradient."""
        with torch.no_grad():
            return self.delta(self.original)

    @torch.no_grad()
    def move(self, indices: torch.Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Train the entries ``indices`` from now on, as many as before; W stays bit for bit as it is.

        An entry that was trained already keeps its value, and its place in every tensor of the optimizer's state that has an
        entry per value (moments); a new one begins with zeros there. The value of an entry that is trained no more is added
        to W0. The optimizer's step counters go on. ValueError for another number of entries.
        """
        delta, old = self.delta, self.delta.indices
        new = _ascending(indices, self.original)
        if new.shape != old.shape:
            raise ValueError(f"{self.name} has {len(old)} trained entries and cannot move to {len(new)}")
        place = torch.searchsorted(old, new).clamp_(max=len(old) - 1)
        stays = old[place] == new

        def carried(tensor: torch.Tensor) -> torch.Tensor:
            return torch.where(stays, tensor[place], tensor.new_zeros(()))

        leaving = torch.isin(old, new, assume_unique=True, invert=True)
        folded = self.original.reshape(-1).index_add(0, old[leaving], delta.values[leaving])
        self.original.copy_(folded.view(self.original.shape))
        for kept in (delta.values, *(optimizer.state.get(delta.values, {}).values() if optimizer is not None else ())):
            if isinstance(kept, torch.Tensor) and kept.shape == old.shape:
                kept.copy_(carried(kept))
        delta.indices.copy_(new)
        delta.values.grad = None  # it is that of the old entries


def plain_state(model: nn.Module, tensors: Sequence[DeltaTensor]) -> dict[str, torch.Tensor]:
    """The state of ``model`` by the names it had before the ``tensors`` were attached, their differences merged in."""
    state = dict(model.state_dict())
    for one in tensors:
        owner, dot, tensor = one.name.rpartition(".")
        within = f"{owner}{dot}parametrizations.{tensor}."
        for name in [name for name in state if name.startswith(within)]:
            del state[name]
        state[one.name] = one.weight()
    return state


def top_entries(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The flat indices (int64 [count], ascending) of the ``count`` largest ``scores``, of any shape."""
    return torch.topk(scores.reshape(-1), count, sorted=False).indices.sort().values


def low_rank_approximation(weight: torch.Tensor, rank: int, *, randomised: bool = False) -> torch.Tensor:
    """The matrix of this ``rank`` nearest to ``weight`` [m, n]: its ``rank`` largest singular values and their vectors.

    In float32, or the weight's own precision where that is finer. ``randomised``: from the range of W times a random matrix of
    2 * rank columns after two power iterations (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1);
    the random numbers are always the same and no generator in use is touched.
    """
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if rank >= min(weight.shape):
        return weight
    if not randomised:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
        return (left[:, :rank] * sizes[:rank]) @ right[:rank]
    generator = torch.Generator(weight.device).manual_seed(0)
    columns = min(2 * rank, *weight.shape)
    start = torch.randn(weight.shape[1], columns, generator=generator, device=weight.device, dtype=weight.dtype)
    basis = torch.linalg.qr(weight @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    left, sizes, right = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return basis @ (left[:, :rank] * sizes[:rank]) @ right[:rank]


def _ascending(indices: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    indices = indices.detach().to(device=original.device, dtype=torch.int64).sort().values
    if len(indices) == 0 or indices[0] < 0 or indices[-1] >= original.numel() or bool((indices.diff() == 0).any()):
        raise ValueError(f"the indices must be different places in a tensor of {original.numel()} entries, and at least one")
    return indices
