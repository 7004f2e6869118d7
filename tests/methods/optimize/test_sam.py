"""SAM's step is AdamW's with the gradient of the perturbed weights; the weights come back from there bit by bit."""

from __future__ import annotations

import pytest
import torch

from ftft.methods.contract import OptimizerMethod, Trainables
from ftft.methods.optimize.adamw import AdamW
from ftft.methods.optimize.sam import SAM

MATRIX = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


def quadratic():
    """L(w, b) = w' A w / 2 + b^2 over w [2] and b [1], and its closure."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    b = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    model = torch.nn.ParameterDict({"w": w, "b": b})
    seen = []

    def closure():
        model.zero_grad()
        loss = w @ MATRIX @ w / 2 + b @ b
        loss.backward()
        seen.append((w.detach().clone(), b.detach().clone()))
        return float(loss.detach())

    return model, closure, seen


def test_the_first_step_by_hand():
    model, closure, seen = quadratic()
    start = {name: value.detach().clone() for name, value in model.items()}
    optimizer = SAM(learning_rate=0.1, rho=0.3, epsilon=1e-3).start(Trainables.of(model))
    loss = optimizer.step(closure)
    gradient = {"w": MATRIX @ start["w"], "b": 2 * start["b"]}
    norm = torch.sqrt((gradient["w"] ** 2).sum() + (gradient["b"] ** 2).sum())
    worst = {name: start[name] + 0.3 * gradient[name] / norm for name in start}
    for place, name in enumerate(("w", "b")):
        torch.testing.assert_close(seen[0][place], start[name], rtol=0, atol=0)
        torch.testing.assert_close(seen[1][place], worst[name], rtol=0, atol=1e-15)
    there = {"w": MATRIX @ worst["w"], "b": 2 * worst["b"]}
    for name, value in model.items():
        expected = start[name] - 0.1 * there[name] / (there[name].abs() + 1e-3)  # the first step of Adam
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-12)
    assert loss == pytest.approx(float(start["w"] @ MATRIX @ start["w"] / 2 + start["b"] @ start["b"])), "the loss before"
    assert len(seen) == 2


def test_with_a_vanishing_radius_it_is_adamw():
    (model, closure, _), (plain, plain_closure, _) = quadratic(), quadratic()
    ours = SAM(learning_rate=0.05, rho=1e-12, weight_decay=0.1).start(Trainables.of(model))
    theirs = AdamW(learning_rate=0.05, weight_decay=0.1).start(Trainables.of(plain))
    for _ in range(10):
        ours.step(closure)
        plain_closure()
        theirs.step()
    for name, value in model.items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-9)


def test_at_a_minimum_nothing_moves_and_nothing_is_divided_by_zero():
    model, closure, seen = quadratic()
    with torch.no_grad():
        for value in model.values():
            value.zero_()
    SAM(learning_rate=0.1).start(Trainables.of(model)).step(closure)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in model.values()) and len(seen) == 1


def test_parameters_without_a_gradient_are_left_alone():
    model, closure, _ = quadratic()
    model["unused"] = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    SAM(learning_rate=0.1).start(Trainables.of(model)).step(closure)
    assert torch.equal(model["unused"], torch.ones(3, dtype=torch.float64))


def test_it_is_an_optimizer():
    assert isinstance(SAM(), OptimizerMethod)
