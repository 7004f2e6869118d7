"""Any optimizer of torch.optim: found by name, its options checked, vectors spared from decay, every state resumed exactly."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.contract import Trainables
from ftft.methods.optimize.torch_optimizer import REFUSED, TorchOptimizer
from ftft.state.tree import load_tree, save_tree

USABLE = sorted(
    name
    for name, one in vars(torch.optim).items()
    if isinstance(one, type) and issubclass(one, torch.optim.Optimizer) and name not in {"Optimizer", *REFUSED}
)


def parameters(dtype=torch.float64, vector=True):
    generator = torch.Generator().manual_seed(0)
    named = [("weight", torch.nn.Parameter(torch.randn(7, 5, generator=generator, dtype=dtype)))]
    if vector:
        named.append(("bias", torch.nn.Parameter(torch.randn(5, generator=generator, dtype=dtype))))
    return Trainables(tuple(named), torch.nn.Module())


def run(optimizer, trainables, steps):
    for step in steps:
        for _, parameter in trainables.named:
            source = torch.Generator().manual_seed(100 + step)
            parameter.grad = torch.randn(parameter.shape, generator=source, dtype=parameter.dtype)
        optimizer.step()


def test_there_are_the_known_ones():
    assert {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adafactor", "Adagrad", "RMSprop", "Rprop", "ASGD"} <= set(USABLE)


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continued_from_a_saved_state_equals_straight(name, dtype, tmp_path):
    method = TorchOptimizer(optimizer=name, learning_rate=0.01)
    straight, first = (parameters(dtype, vector=name != "Muon") for _ in range(2))
    run(method.start(straight), straight, range(8))
    optimizer = method.start(first)
    run(optimizer, first, range(3))
    save_tree(tmp_path, "optimizer", optimizer.state_dict())
    second = copy.deepcopy(first)
    resumed = method.start(second)
    resumed.load_state_dict(load_tree(tmp_path, "optimizer"))
    run(resumed, second, range(3, 8))
    for (_, one), (_, other) in zip(straight.named, second.named):
        assert torch.equal(one, other) and not torch.equal(one, dict(parameters(dtype).named)[_])


def test_settings_and_options_reach_the_class_and_only_matrices_decay():
    options = {"betas": [0.7, 0.8], "momentum_decay": 0.1, "decoupled_weight_decay": True}
    ours, theirs = parameters(), parameters()
    run(TorchOptimizer(learning_rate=0.02, weight_decay=0.3, options=options).start(ours), ours, range(4))
    (_, weight), (_, bias) = theirs.named
    groups = [{"params": [weight], "weight_decay": 0.3}, {"params": [bias]}]
    plain = torch.optim.NAdam(groups, lr=0.02, betas=(0.7, 0.8), momentum_decay=0.1, decoupled_weight_decay=True)
    run(plain, theirs, range(4))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(ours.named, theirs.named))


def test_the_name_may_be_written_in_any_case():
    assert type(TorchOptimizer(optimizer="rmsprop").start(parameters())) is torch.optim.RMSprop


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "NAdm"}, 'torch.optim has no optimizer "NAdm"; did you mean "NAdam"'),
        ({"optimizer": "Optimizer"}, "has no optimizer"),
        ({"optimizer": "lr_scheduler"}, "has no optimizer"),
        ({"optimizer": "LBFGS"}, "line search needs one loss function"),
        ({"optimizer": "SparseAdam"}, "sparse gradients only"),
        ({"options": {"momentum_decy": 0.1}}, 'no option "momentum_decy" that can be set here; did you mean "momentum_decay"'),
        ({"options": {"maximize": True}}, 'no option "maximize" that can be set here'),
        ({"options": {"lr": 1.0}}, "write optimize.learning_rate"),
        ({"options": {"weight_decay": 1.0}}, "write optimize.weight_decay"),
        ({"options": {"betas": [0.9, 1.5]}}, "NAdam refuses them: Invalid beta"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "Rprop has no weight decay"),
        ({"optimizer": "Muon"}, "Muon steps matrices only, and bias is none"),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")) as refused:
        TorchOptimizer(**settings).start(parameters())
    assert "\n" not in str(refused.value)
