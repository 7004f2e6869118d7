"""Arithmetic on state dicts: weighted means of models. Whole numbers and truth values (position ids, counters, masks) are no
quantities to average; they are those of the first model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch

from ftft.errors import UserError
from ftft.state.shards import whole

State = Mapping[str, torch.Tensor]


def weighted_mean(states: Iterable[State], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """sum_i w_i theta_i over every floating-point tensor, as given: the weights are not made to sum to 1.

    Sums are taken in float32 (float64 of float64 tensors) and cast once. ``states`` are taken one at a time. Tensors with a
    weight of exactly 1 among zeros come back bit by bit. Raises UserError where two models differ in names or shapes.
    """
    total: dict[str, torch.Tensor] = {}
    first: dict[str, torch.Tensor] = {}
    count = 0
    for count, (state, weight) in enumerate(zip(states, weights, strict=True), start=1):
        if count == 1:
            first = dict(state)
        require_alike(first, state)
        for name, value in state.items():
            if not value.is_floating_point() or weight == 0.0:
                continue
            wide = value.to(torch.promote_types(value.dtype, torch.float32))
            term = wide.clone() if weight == 1.0 else weight * wide
            total[name] = total[name] + term if name in total else term
    if count == 0:
        raise ValueError("there is no model to take the mean of")
    return {
        name: (total[name] if name in total else torch.zeros_like(value)).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in first.items()
    }


def interpolate(base: State, tuned: State, alpha: float) -> dict[str, torch.Tensor]:
    """(1 - alpha) base + alpha tuned; exactly the one or the other at alpha 0 and 1."""
    if alpha == 0.0:
        return {name: value.clone() for name, value in base.items()}
    mixed = weighted_mean([tuned, base], [alpha, 1.0 - alpha])
    return mixed


def weights_sha256(model: torch.nn.Module) -> str:
    """The SHA-256 of the names and bits of all parameters of ``model`` that are trainable now, in hexadecimal. Of a model in
    shards all processes must ask for it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            digest.update(whole(parameter.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_alike(one: State, other: State) -> None:
    """UserError where two states are not of one architecture."""
    if one.keys() != other.keys():
        name = min(one.keys() ^ other.keys())
        raise UserError(f"models that are combined must have the same weights, and only one of them has {name}")
    for name, value in one.items():
        if value.shape != other[name].shape:
            shapes = f"{tuple(value.shape)} and {tuple(other[name].shape)}"
            raise UserError(f"models that are combined must have the same weights, and {name} has the shapes {shapes}")
