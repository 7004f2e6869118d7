"""peft's optimizers for LoRA, held against their formulas on a small model, and refused where they cannot work."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.lora import LoRA
from ftft.methods.contract import Trainables
from ftft.methods.optimize.peft_optimizer import OPTIONS, PeftOptimizer, _to_device
from ftft.state.tree import load_tree, save_tree

RATE = 1e-3


def adapted(tiny_model, dtype=torch.float64, **settings):
    found = LoRA(rank=4, targets=["query", "down"], **settings).adapt(tiny_model("bert").to(dtype), None)
    with torch.no_grad():
        for number, pair in enumerate(found.pairs):
            source = torch.Generator().manual_seed(number)
            for factor in (pair.up, pair.down):
                factor.copy_(torch.randn(factor.shape, generator=source, dtype=torch.float64))
    return found


def started(found, **settings):
    return PeftOptimizer(learning_rate=RATE, **settings).start(Trainables.of(found.model, found.pairs))


def train(found, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        source = torch.Generator().manual_seed(step)
        found.model(input_ids=torch.randint(5, 40, (3, 6), generator=source), labels=torch.tensor([0, 1, 1])).loss.backward()
        optimizer.step()


def first_step(found, optimizer):
    """What the pairs were and got as gradients, and how the step changed them."""
    before = [(pair.down.detach().clone(), pair.up.detach().clone()) for pair in found.pairs]
    train(found, optimizer, [0])
    for pair, (down, up) in zip(found.pairs, before):
        yield pair, down, up, pair.down.detach() - down, pair.up.detach() - up


def adam(gradient, epsilon):
    """Adam's first step."""
    return -RATE * gradient / (gradient.abs() + epsilon)


@pytest.mark.parametrize("ratio", [None, 4.0])
def test_loraplus_steps_b_and_vectors_with_a_multiple_of_the_rate(tiny_model, ratio):
    found = adapted(tiny_model)
    optimizer = started(found, options={} if ratio is None else {"loraplus_lr_ratio": ratio}, weight_decay=0.1)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    high = RATE * (ratio or 16.0)
    assert all(rates[id(pair.down)] == (RATE, 0.1) and rates[id(pair.up)] == (high, 0.1) for pair in found.pairs)
    head = dict(found.model.named_parameters())
    assert rates[id(head["base_model.model.classifier.weight"])] == (RATE, 0.1)
    assert rates[id(head["base_model.model.classifier.bias"])] == (high, 0.0)
    assert len(rates) == sum(parameter.requires_grad for parameter in found.model.parameters())


@pytest.mark.parametrize("stabilised", [False, True])
def test_lorafa_keeps_a_and_steps_b_by_the_gradient_that_is_nearest_to_the_full_one(tiny_model, stabilised):
    found = adapted(tiny_model, rank_stabilised=stabilised)
    optimizer = started(found, optimizer="lorafa")
    for pair, down, _, moved_down, moved_up in first_step(found, optimizer):
        assert not moved_down.any() and not pair.down.requires_grad
        gradient = pair.up.grad @ torch.linalg.inv(down @ down.T) / pair.scaling**2
        torch.testing.assert_close(moved_up, adam(gradient, 1e-6 / 0.001**0.5), rtol=1e-7, atol=1e-14)
        assert moved_up.abs().max() > 1e-5


def test_riemannian_steps_both_factors_by_the_metric_of_the_other(tiny_model):
    found = adapted(tiny_model)
    plain = copy.deepcopy(found.model)
    optimizer = started(found, optimizer="riemannian", options={"reg": 0.1, "eps": 1e-3})
    names = {id(parameter): name for name, parameter in found.model.named_parameters()}
    inputs = torch.randint(5, 40, (3, 6), generator=torch.Generator().manual_seed(0))
    plain(input_ids=inputs, labels=torch.tensor([0, 1, 1])).loss.backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    damped = 0.1 * torch.eye(4, dtype=torch.float64)
    for pair, down, up, moved_down, moved_up in first_step(found, optimizer):
        g_down, g_up = gradients[names[id(pair.down)]], gradients[names[id(pair.up)]]
        expected = torch.linalg.inv(up.T @ up + damped) @ g_down, g_up @ torch.linalg.inv(down @ down.T + damped)
        torch.testing.assert_close(moved_down, adam(expected[0], 1e-3), rtol=0, atol=1e-10)
        torch.testing.assert_close(moved_up, adam(expected[1], 1e-3), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", OPTIONS)
def test_continued_from_a_saved_state_equals_straight(tiny_model, name, tmp_path):
    straight, first, second = (adapted(tiny_model, torch.float32) for _ in range(3))
    train(straight, started(straight, optimizer=name), range(5))
    optimizer = started(first, optimizer=name)
    train(first, optimizer, range(2))
    save_tree(tmp_path, "optimizer", optimizer.state_dict())
    resumed = started(second, optimizer=name)
    second.model.load_state_dict(first.model.state_dict())
    resumed.load_state_dict(load_tree(tmp_path, "optimizer"))
    train(second, resumed, range(2, 5))
    after = second.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in straight.model.state_dict().items())


@pytest.mark.parametrize("name", OPTIONS)
def test_the_head_learns_and_the_base_does_not(tiny_model, name):
    found = adapted(tiny_model)
    before = {key: value.clone() for key, value in found.model.state_dict().items()}
    train(found, started(found, optimizer=name), range(3))
    changed = {key for key, value in found.model.state_dict().items() if not torch.equal(value, before[key])}
    assert all("lora_" in key or "classifier" in key for key in changed)
    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} < changed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "lora_plus"}, 'peft has no optimizer "lora_plus" that can be used here; did you mean "loraplus"'),
        ({"options": {"loraplus_ratio": 2.0}}, 'did you mean "loraplus_lr_ratio"'),
        ({"optimizer": "lorafa", "options": {"betas": [0.9, 0.99]}}, 'lorafa has no option "betas"; it takes none'),
        ({"options": {"betas": [0.9, 1.5]}}, "peft's loraplus refuses them: Invalid beta"),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence(tiny_model, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        started(adapted(tiny_model), **settings)


def test_a_model_without_pairs_is_refused(tiny_model):
    with pytest.raises(UserError, match="`adapt` left none; use adapt: lora"):
        PeftOptimizer().start(Trainables.of(tiny_model("bert")))


def test_moments_kept_by_name_follow_their_parameter_to_its_device():
    names = ["layer.lora_A.default.weight", "layer.lora_B.default.weight", "head.weight"]
    group = {"params": [torch.nn.Parameter(torch.empty(2, 2, device="meta")) for _ in names], "names": names}
    optimizer = torch.optim.SGD([group], lr=0.1)
    for name in ("layer.lora", "head.weight"):
        optimizer.state[name] = {"step": 1, "exp_avg": torch.zeros(2, 2)}
    _to_device(optimizer)
    assert {state["exp_avg"].device.type for state in optimizer.state.values()} == {"meta"}
    assert optimizer.state["layer.lora"]["step"] == 1
