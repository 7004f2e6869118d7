"""Steps from loss values alone: the slope along one random direction, which is made anew from its seed whenever it is needed.

    z ~ N(0, I),   g = (L(w + eps z) - L(w - eps z)) / (2 eps),   w <- w - lr (g z + decay w)

Neither gradients nor z are kept: beyond the forward pass a step takes the memory of the largest parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ftft.nn.seeds import numbered_seed

Entry = Sequence[Any]  # seed, slope and learning rate of a step


class ZerothOrderSGD(torch.optim.Optimizer):
    """SGD along one random direction a step, with the slope measured by two loss values of the ``model`` in evaluation mode.

    ``epsilon``: how far the weights are moved along z. ``seed``: all directions follow from it and the number of the step.
    The first parameter group carries ``step`` and the ``log``, a list of [seed, g, learning rate], one entry a step, from
    which :meth:`replay` makes the run again; both lie in the state dict. Directions are drawn on the parameter's device, and
    are others on another type of device.

    Moving there and back rounds: in float64 by 1e-16 of a weight a step, in float32 by 1e-7; use no 16-bit weights.
    """

    needs_closure = True

    def __init__(
        self, groups: list[dict[str, Any]], model: torch.nn.Module, *, lr: float, epsilon: float = 1e-3, seed: int = 0
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.model = model
        self.param_groups[0].update(step=0, seed=seed, epsilon=epsilon, log=[])

    def before_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Both loss values must be of the same function of the weights: without dropout."""
        self.model.eval()

    @property
    def log(self) -> list[Entry]:
        """[seed, g, learning rate] of every step so far."""
        return self.param_groups[0]["log"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        """One step; gives the mean of the two losses. Where the closure fails the weights are put back first."""
        book = self.param_groups[0]
        seed = numbered_seed(book["seed"], book["step"])
        upper, lower = self._around(seed, [closure, closure])
        slope = (upper - lower) / (2 * book["epsilon"])
        self._update(seed, slope)
        book["log"].append([seed, slope, book["lr"]])
        book["step"] += 1
        return (upper + lower) / 2

    @torch.no_grad()
    def replay(self, log: Sequence[Entry], *, moves: bool = True) -> None:
        """Make the steps of a log again, from the weights that its run began with, without data.

        With ``moves`` the weights are also moved there and back, which makes them those of the run bit for bit (on the same
        type of device); without, they are equal to rounding and it takes a quarter of the time.
        """
        book = self.param_groups[0]
        for seed, slope, rate in log:
            if moves:
                self._around(seed, [lambda: 0.0, lambda: 0.0])
            for group in self.param_groups:
                group["lr"] = rate
            self._update(seed, slope)
            book["log"].append([seed, slope, rate])
            book["step"] += 1

    def _around(self, seed: int, looks: Sequence[Callable[[], float]]) -> list[float]:
        """What the two ``looks`` see at w + eps z and at w - eps z; w is put back."""
        epsilon, at, seen = self.param_groups[0]["epsilon"], 0.0, []
        try:
            for look, place in zip(looks, (epsilon, -epsilon)):
                self._move(seed, place - at)
                at = place
                seen.append(float(look()))
        finally:
            self._move(seed, -at)
        return seen

    def _move(self, seed: int, distance: float) -> None:
        for _, parameter, z in self._direction(seed):
            parameter.add_(z, alpha=distance)
            del z  # before the next one is made

    def _update(self, seed: int, slope: float) -> None:
        for group, parameter, z in self._direction(seed):
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(z, alpha=-group["lr"] * slope)
            del z

    def _direction(self, seed: int) -> Iterator[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]:
        """Every trainable parameter with its group and its part of z, made when it is asked for."""
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                device = parameter.device
                if not parameter.requires_grad:
                    continue
                if device not in generators:
                    generators[device] = torch.Generator(device).manual_seed(seed)
                shape, dtype = parameter.shape, parameter.dtype
                yield group, parameter, torch.randn(shape, generator=generators[device], device=device, dtype=dtype)
