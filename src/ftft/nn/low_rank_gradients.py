"""The step of a low-rank pair that moves the full weight as near to its own gradient as two factors can, and its optimizer.

W = W0 + s B A with A [r, n] (``down``), B [m, r] (``up``). Of the full gradient G [m, n] only g_A = s B^T G and g_B = s G A^T
are known. Steps a [r, n] of A and b [m, r] of B move W by s (B a + b A), to first order. All (a, b) that bring this nearest to
G in the Frobenius norm are, with any X [r, r],

    a = (B^T B)^-1 g_A / s^2 + X A,    b = (I - B (B^T B)^-1 B^T) g_B (A A^T)^-1 / s^2 - B X

and move W by G - (I - P_B) G (I - P_A), P_B and P_A being the projections on B's columns and A's rows. The X for which (a, b)
is nearest to (g_A, g_B) solves  B^T B X + X A A^T = -(B^T B)^-1 g_A A^T / s^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

Pair = tuple[torch.nn.Parameter, torch.nn.Parameter, float]  # down, up, scaling


class PairGeometry:
    """What A (``down`` [r, n]), B (``up`` [m, r]) and s determine of the solution above; ``damping`` is added to the diagonals
    of B^T B and A A^T where they are inverted. Directions that B or A does not have (all of B's at first) are left out, as the
    pseudo-inverse does. Computed in float64, where the device has it: B is close to singular early in training."""

    def __init__(self, down: torch.Tensor, up: torch.Tensor, scaling: float, damping: float = 0.0) -> None:
        self.wide = torch.float32 if down.device.type == "mps" else torch.float64
        self.down, self.up, self.scaling = down.detach().to(self.wide), up.detach().to(self.wide), scaling
        self.down_values, self.down_vectors = _eigen(self.down @ self.down.T)
        self.up_values, self.up_vectors = _eigen(self.up.T @ self.up)
        self.down_inverse = self.down_vectors * _reciprocal(self.down_values + damping) @ self.down_vectors.T
        self.up_inverse = self.up_vectors * _reciprocal(self.up_values + damping) @ self.up_vectors.T

    def solve(
        self, down_gradient: torch.Tensor, up_gradient: torch.Tensor, *, balance: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(a [r, n], b [m, r]) for g_A [r, n] and g_B [m, r]; with X = 0 unless ``balance``."""
        g_down, g_up = down_gradient.to(self.wide), up_gradient.to(self.wide)
        a = self.up_inverse @ g_down / self.scaling**2
        b = g_up @ self.down_inverse / self.scaling**2
        b = b - self.up @ (self.up_inverse @ (self.up.T @ b))
        if not balance:
            return a, b
        x = self._balancing(-a @ self.down.T)
        return a + x @ self.down, b - self.up @ x

    def moves(self, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """s (B a + b A) [m, n]: how (a, b) moves W, computed in ``dtype``."""
        return (self.up.to(dtype) @ a.to(dtype)).addmm_(b.to(dtype), self.down.to(dtype)).mul_(self.scaling)

    def gradients_of(self, full: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(g_A, g_B) that a gradient [m, n] of W gives."""
        dtype = full.dtype
        return self.scaling * (self.up.to(dtype).T @ full), self.scaling * (full @ self.down.to(dtype).T)

    def _balancing(self, right: torch.Tensor) -> torch.Tensor:
        """X of B^T B X + X A A^T = ``right``: both matrices are symmetric, so that their eigenvectors part the equation."""
        sums = self.up_values[:, None] + self.down_values[None, :]
        inner = (self.up_vectors.T @ right @ self.down_vectors) * _reciprocal(sums)
        return self.up_vectors @ inner @ self.down_vectors.T


def _eigen(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors of a small matrix, on the CPU: an accelerator takes far longer for one this small."""
    values, vectors = torch.linalg.eigh(symmetric.cpu())
    return values.to(symmetric.device), vectors.to(symmetric.device)


def _reciprocal(values: torch.Tensor) -> torch.Tensor:
    """1 / value; 0 for a value that is 0 but for rounding."""
    least = values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().max()
    there = values > least
    return torch.where(there, 1 / torch.where(there, values, torch.ones_like(values)), torch.zeros_like(values))


class LoRAProAdamW(torch.optim.Optimizer):
    """AdamW on what low-rank pairs do to the full weight; plain AdamW on parameter groups of ``others``.

    ``full``: Adam's moments are of the m n entries of the weight's move; else of the adjusted steps of the two factors, which
    takes the memory of plain AdamW. ``weight_decay`` is that of the factors, ``others`` bring their own.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        others: Sequence[dict[str, Any]] = (),
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        damping: float = 1e-8,
        full: bool = True,
    ) -> None:
        factors = [factor for down, up, _ in pairs for factor in (down, up)]
        first = {"params": factors, "scalings": [scaling for _, _, scaling in pairs], "damping": damping, "full": full}
        defaults = {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__([first, *others], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the gradients that are there; a pair without both is left as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first, *others = self.param_groups
        for down, up, scaling in self._pairs(first):
            if down.grad is not None and up.grad is not None:
                a, b = self._pair_step(first, down, up, scaling)
                _apply(down, a, first)
                _apply(up, b, first)
        for group in others:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _apply(parameter, self._adam(group, parameter, parameter.grad), group)
        return loss

    def _pair_step(
        self, group: dict[str, Any], down: torch.Tensor, up: torch.Tensor, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert down.grad is not None and up.grad is not None
        geometry = PairGeometry(down, up, scaling, group["damping"])
        if not group["full"]:
            a, b = geometry.solve(down.grad, up.grad)
            return self._adam(group, down, a.to(down.dtype)), self._adam(group, up, b.to(up.dtype))
        a, b = geometry.solve(down.grad, up.grad, balance=False)  # W's move is the same for every X
        direction = self._adam(group, up, geometry.moves(a, b, torch.promote_types(up.dtype, torch.float32)))
        return geometry.solve(*geometry.gradients_of(direction))

    def _adam(self, group: dict[str, Any], key: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The bias-corrected mean of the gradients over the root of that of their squares, both kept under ``key``."""
        state, (first, second) = self.state[key], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - second ** state["step"])).add_(group["epsilon"])
        return (state["exp_avg"] / (1 - first ** state["step"])).div_(root)

    @staticmethod
    def _pairs(group: dict[str, Any]) -> Iterator[Pair]:
        factors = group["params"]
        return zip(factors[::2], factors[1::2], group["scalings"])


def _apply(parameter: torch.Tensor, direction: torch.Tensor, group: dict[str, Any]) -> None:
    if group["weight_decay"]:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.sub_(direction.to(parameter.dtype), alpha=group["lr"])
