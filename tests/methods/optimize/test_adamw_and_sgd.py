"""AdamW and SGD step by their formulas, spare biases and norms from decay, and continue exactly from a saved state."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.contract import OptimizerMethod, Trainables
from ftft.methods.optimize.adamw import AdamW
from ftft.methods.optimize.sgd import SGD


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(37, 29, generator=generator, dtype=dtype))
    bias = torch.nn.Parameter(torch.randn(29, generator=generator, dtype=dtype))
    return [("layer.weight", weight), ("layer.bias", bias)]


def over(named):
    return Trainables(tuple(named), torch.nn.Module())


def gradient(step, like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(100 + step), dtype=like.dtype)


def run(optimizer, named, steps):
    for step in steps:
        for _, parameter in named:
            parameter.grad = gradient(step, parameter)
        optimizer.step()


def test_adamw_follows_the_formula():
    method = AdamW(learning_rate=0.01, betas=(0.8, 0.95), epsilon=1e-6, weight_decay=0.1)
    named = parameters()
    expected = {name: parameter.detach().clone() for name, parameter in named}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    run(method.start(over(named)), named, range(4))
    for t in range(1, 5):
        for name, value in expected.items():
            g = gradient(t - 1, value)
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.95 * second[name] + 0.05 * g * g
            decay = 0.1 if name == "layer.weight" else 0.0
            step = (first[name] / (1 - 0.8**t)) / ((second[name] / (1 - 0.95**t)).sqrt() + 1e-6)
            expected[name] = value - 0.01 * decay * value - 0.01 * step
    for name, parameter in named:
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-12)


def test_sgd_follows_the_formula():
    named = parameters()
    expected = {name: parameter.detach().clone() for name, parameter in named}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    run(SGD(learning_rate=0.05, momentum=0.7, weight_decay=0.1).start(over(named)), named, range(4))
    for step in range(4):
        for name, value in expected.items():
            decay = 0.1 if name == "layer.weight" else 0.0
            velocity[name] = 0.7 * velocity[name] + gradient(step, value) + decay * value
            expected[name] = value - 0.05 * velocity[name]
    for name, parameter in named:
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [AdamW(learning_rate=0.01, weight_decay=0.1), SGD(weight_decay=0.1)])
def test_continued_from_a_saved_state_equals_straight(method):
    straight, first = parameters(torch.float32), parameters(torch.float32)
    run(method.start(over(straight)), straight, range(6))
    optimizer = method.start(over(first))
    run(optimizer, first, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    second = [(name, torch.nn.Parameter(parameter.detach().clone())) for name, parameter in first]
    resumed = method.start(over(second))
    resumed.load_state_dict(saved)
    run(resumed, second, range(3, 6))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(straight, second))


@pytest.mark.parametrize("method", [AdamW(weight_decay=0.1), SGD(weight_decay=0.1)])
def test_only_trainable_parameters_and_no_decay_of_biases_and_norms(tiny_model, method):
    model = tiny_model("bert")
    model.bert.embeddings.requires_grad_(False)
    groups = method.start(Trainables.of(model)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    others = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert decaying | others == {name for name, _ in model.named_parameters() if "embeddings" not in name}
    assert others == {n for n in decaying | others if n.endswith("bias") or "LayerNorm" in n} and not decaying & others
    assert all(group["lr"] == method.learning_rate for group in groups)


def test_nothing_to_train_is_refused(tiny_model):
    with pytest.raises(UserError, match="nothing to train"):
        Trainables.of(tiny_model("bert").requires_grad_(False))


def test_defaults_are_those_of_the_ftft_code():
    assert AdamW() == AdamW(learning_rate=2e-5, betas=(0.9, 0.999), epsilon=1e-6, weight_decay=0.0)


@pytest.mark.parametrize("method", [AdamW(), SGD()])
def test_they_are_optimizers(method):
    assert isinstance(method, OptimizerMethod)
