"""MeZO: the slope along a direction made from its seed, weights put back, and a run that is its list of seeds and slopes."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch

from ftft.methods.contract import Trainables
from ftft.methods.optimize.mezo import MeZO
from ftft.nn.seeds import numbered_seed
from ftft.nn.zeroth_order import ZerothOrderSGD
from ftft.state.tree import load_tree, save_tree

SHAPES = {"layer.weight": (5, 3), "frozen": (4,), "layer.bias": (5,)}


def model(dtype=torch.float64):
    """20 trainable numbers in a matrix and a vector, and a frozen vector between them."""
    generator = torch.Generator().manual_seed(0)
    holder = torch.nn.Module()
    for name, shape in SHAPES.items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        holder.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value, requires_grad=name != "frozen"))
    return holder


def weights(holder):
    return torch.cat([holder.layer_weight.flatten(), holder.layer_bias])


def quadratic(holder, dtype=torch.float64):
    """L(w) = w H w / 2 + c w: the loss as a closure, and its gradient."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    hessian, slope = (root @ root.T / 20).to(dtype), torch.randn(20, generator=generator, dtype=torch.float64).to(dtype)

    def loss():
        w = weights(holder).detach()
        return float(w @ hessian @ w / 2 + slope @ w)

    return loss, lambda: (hessian @ weights(holder) + slope).detach()


def started(holder, **settings):
    return MeZO(**settings).start(Trainables.of(holder))


def direction(seed, dtype=torch.float64):
    """z as the contract of the log has it: one generator, the trainable parameters in the order of the groups."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.randn(SHAPES[n], generator=generator, dtype=dtype).flatten() for n in ("layer.weight", "layer.bias")]
    )


def state(holder):
    return {name: value.clone() for name, value in holder.state_dict().items()}


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 3.0])
def test_on_a_quadratic_the_slope_is_exact_and_the_step_follows_it(epsilon):
    holder = model()
    loss, gradient = quadratic(holder)
    before, slope_at = weights(holder).detach().clone(), gradient()
    optimizer = started(holder, learning_rate=0.01, epsilon=epsilon, seed=4)
    mean = loss()
    reported = optimizer.step(loss)
    (seed, g, rate) = optimizer.log[0]
    z = direction(seed)
    assert g == pytest.approx(float(z @ slope_at), rel=1e-10) and rate == 0.01
    torch.testing.assert_close(weights(holder).detach(), before - 0.01 * g * z, rtol=0, atol=1e-12)
    if epsilon == 1e-3:
        assert reported == pytest.approx(mean, rel=1e-4)


def test_at_a_rate_of_0_the_weights_are_put_back():
    holder = model()
    before = state(holder)
    optimizer = started(holder, epsilon=1e-1)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
    seen = []
    for _ in range(20):
        optimizer.step(lambda: seen.append(weights(holder).detach().clone()) or 1.0)
    for name, value in holder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-12)
    z = direction(optimizer.log[0][0])
    origin = torch.cat([before["layer_weight"].flatten(), before["layer_bias"]])
    torch.testing.assert_close(seen[0], origin + 0.1 * z, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[1], origin - 0.1 * z, rtol=0, atol=1e-12)


def test_over_many_seeds_the_direction_is_the_gradient():
    holder = model()
    loss, gradient = quadratic(holder)
    optimizer = started(holder)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(4000):
        optimizer.step(loss)
    mean = torch.stack([g * direction(seed) for seed, g, _ in optimizer.log]).mean(0)
    assert torch.nn.functional.cosine_similarity(mean, gradient(), dim=0) > 0.99
    torch.testing.assert_close(mean.norm(), gradient().norm(), rtol=0.1, atol=0)
    assert len({seed for seed, _, _ in optimizer.log}) == 4000


def test_what_has_no_gradient_can_be_minimised():
    """The share of wrong answers of a linear classifier, whose derivative is 0 almost everywhere."""
    holder = model()
    inputs = torch.randn(200, 20, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    labels = inputs @ torch.randn(20, generator=torch.Generator().manual_seed(7), dtype=torch.float64) > 0

    def wrong():
        return float(((inputs @ weights(holder) > 0) != labels).double().mean())

    optimizer, at_first = started(holder, learning_rate=1.0, epsilon=0.5), wrong()
    for _ in range(400):
        optimizer.step(wrong)
    assert wrong() < 0.1 < 0.3 < at_first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_is_its_log(dtype):
    holder = model(dtype)
    optimizer = started(holder, learning_rate=0.003, weight_decay=0.1, epsilon=0.01)
    loss, _ = quadratic(holder, dtype)
    for step in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 0.003 * (1 - step / 60)
        optimizer.step(loss)
    again, roughly = model(dtype), model(dtype)
    started(again, weight_decay=0.1, epsilon=0.01).replay(optimizer.log)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in holder.state_dict().items())
    replayed = started(roughly, weight_decay=0.1)
    replayed.replay(optimizer.log, moves=False)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(weights(roughly), weights(holder), rtol=0, atol=tolerance)
    assert not torch.equal(weights(holder), weights(model(dtype))) and replayed.log == optimizer.log


def test_matrices_decay_and_vectors_do_not():
    holder = model()
    before = state(holder)
    started(holder, learning_rate=0.1, weight_decay=0.5).step(lambda: 1.0)
    torch.testing.assert_close(holder.layer_weight.detach(), before["layer_weight"] * 0.95, rtol=0, atol=1e-12)
    torch.testing.assert_close(holder.layer_bias.detach(), before["layer_bias"], rtol=0, atol=1e-12)


def test_it_needs_no_gradient_and_the_memory_of_the_largest_parameter(monkeypatch):
    holder = model()
    before = holder.frozen.detach().clone()
    alive, peak, original = [0], [0], torch.randn

    def counting(*arguments, **options):
        z = original(*arguments, **options)
        add(z.numel())
        weakref.finalize(z, add, -z.numel())
        return z

    def add(size):
        alive[0] += size
        peak[0] = max(peak[0], alive[0])

    monkeypatch.setattr(torch, "randn", counting)
    enabled = []
    optimizer = started(holder)
    optimizer.step(lambda: enabled.append(torch.is_grad_enabled()) or 1.0)
    assert peak[0] == 15 and alive[0] == 0
    assert enabled == [False, False] and all(parameter.grad is None for parameter in holder.parameters())
    assert not optimizer.state and torch.equal(holder.frozen, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continued_from_a_saved_state_equals_straight(dtype, tmp_path):
    straight, first = model(dtype), model(dtype)
    optimizers = [started(holder, learning_rate=0.003, seed=9) for holder in (straight, first)]
    for holder, optimizer, steps in zip((straight, first), optimizers, (7, 3)):
        loss, _ = quadratic(holder, dtype)
        for _ in range(steps):
            optimizer.step(loss)
    save_tree(tmp_path, "optimizer", optimizers[1].state_dict())
    second = copy.deepcopy(first)
    resumed = started(second, learning_rate=0.003, seed=0)  # what was saved counts
    resumed.load_state_dict(load_tree(tmp_path, "optimizer"))
    assert resumed.log == optimizers[0].log[:3]
    loss, _ = quadratic(second, dtype)
    for _ in range(4):
        resumed.step(loss)
    assert torch.equal(weights(second), weights(straight)) and resumed.log == optimizers[0].log


def test_the_seed_of_a_step_depends_on_its_number_alone():
    holder = model()
    optimizer = started(holder, seed=3)
    for _ in range(3):
        optimizer.step(lambda: 1.0)
    assert [seed for seed, _, _ in optimizer.log] == [numbered_seed(3, step) for step in range(3)]
    assert numbered_seed(3, 1) != numbered_seed(4, 1) and numbered_seed(1, 11) != numbered_seed(11, 1)
    assert numbered_seed(3, 1) == 2327908606086183467, "or no saved log could be replayed"


def test_the_global_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    started(model()).step(lambda: 1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_frozen_on_the_way_is_not_moved():
    holder = model()
    before = state(holder)
    optimizer = started(holder, learning_rate=0.1, weight_decay=0.1, epsilon=0.5)
    holder.layer_weight.requires_grad_(False)
    optimizer.step(lambda: float(holder.layer_bias.sum()))
    assert torch.equal(holder.layer_weight, before["layer_weight"])
    assert not torch.equal(holder.layer_bias, before["layer_bias"])


def test_the_loss_is_measured_without_dropout():
    holder = model().train()
    optimizer = started(holder)
    optimizer.before_step(0, 10, optimizer)
    assert not holder.training and ZerothOrderSGD.needs_closure


@pytest.mark.parametrize("fails_at", [0, 1])
def test_where_the_loss_fails_the_weights_are_put_back(fails_at):
    holder = model()
    before = state(holder)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == fails_at + 1:
            raise ArithmeticError
        return 1.0

    optimizer = started(holder, epsilon=0.5)
    with pytest.raises(ArithmeticError):
        optimizer.step(closure)
    for name, value in holder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-12)
    assert optimizer.log == []
