"""A queue of recent examples' features under two encoders, and the calibration that carries one encoder's to the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize


class FeatureQueue:
    """First in, first out: the features of at most ``size`` examples under a trained and a frozen encoder.

    ``tuned`` and ``frozen`` [K, d], ``labels`` int64 [K], ``weights`` [K]; K = ``len(queue)`` is 0 at the start.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.held["labels"]) if self.held else 0

    def __getattr__(self, name: str) -> torch.Tensor:
        held = self.__dict__.get("held", {})
        if name not in held:
            raise AttributeError(name)
        return held[name]

    def push(self, tuned: torch.Tensor, frozen: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """Take in a batch of any size, and let go of the oldest beyond ``size``."""
        new = {"tuned": tuned.detach(), "frozen": frozen.detach(), "labels": labels, "weights": weights}
        if self.held:
            new = {name: torch.cat([self.held[name], value]) for name, value in new.items()}
        extra = max(0, len(labels) + len(self) - self.size)
        self.held = {name: value[extra:].clone() for name, value in new.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        return dict(self.held)

    def load_state(self, state: dict[str, torch.Tensor], device: torch.device) -> None:
        self.held = {name: value.to(device) for name, value in state.items()}


@contextmanager
def input_of(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list of what ``layer`` is given in the forward passes inside the block, with its gradient."""
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def rotation(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The proper rotation R [d, d] (determinant 1) that minimises sum_k ||R s_k - t_k||^2 over the centred rows of ``source``
    and ``target`` [K, d]: with U S V' the singular value decomposition of sum_k s_k t_k', R = V U', its last column of V
    negated where that would be a reflection (Kabsch 1976)."""
    moments = (source - source.mean(dim=0)).T @ (target - target.mean(dim=0))
    u, _, vt = torch.linalg.svd(moments)
    sign = torch.linalg.det(vt.T @ u.T).sign()
    return torch.cat([vt[:-1], sign * vt[-1:]]).T @ u.T


def moved_to_class_centres(
    source: torch.Tensor, target: torch.Tensor, labels: torch.Tensor, directions: torch.Tensor
) -> torch.Tensor:
    """``source`` [K, d] with every class translated so that its mean is the class's centre among ``target`` [K, d].

    The centre of class c is sum_j a_j t_j over its rows, a = softmax_j <t_j, directions_c>; ``directions`` [C, d] has rows of
    length 1. A class without rows is passed over; one with a single row goes to that row's target.
    """
    moved = source.clone()
    for label in labels.unique().tolist():
        rows = labels == label
        attention = torch.softmax(target[rows] @ directions[label], dim=0)
        moved[rows] += attention @ target[rows] - source[rows].mean(dim=0)
    return moved


@torch.no_grad()
def calibrated(
    frozen: torch.Tensor, tuned: torch.Tensor, labels: torch.Tensor, head: torch.Tensor, *, length: torch.Tensor, rotate: bool
) -> torch.Tensor:
    """Features of the frozen encoder carried to where the trained encoder has its own, [K, d], without gradient.

    Rows of both [K, d] are scaled to length 1, then (``rotate``) the frozen ones are centred and turned onto the trained
    ones, then every class is translated to its centre (``head`` [C, d]: the label layer's weight), then rows are scaled to
    ``length``. Turning leaves the cloud around 0; the translation of the classes puts it back in its place.
    """
    with torch.autocast(frozen.device.type, enabled=False):  # a decomposition of bfloat16 there is none, nor would it do
        source, target = normalize(frozen, dim=1), normalize(tuned, dim=1)
        if rotate:
            source = (source - source.mean(dim=0)) @ rotation(source, target).T
        moved = moved_to_class_centres(source, target, labels, normalize(head.to(target.dtype), dim=1))
        return normalize(moved, dim=1) * length
