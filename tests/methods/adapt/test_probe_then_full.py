"""LP-FT: the head alone learns for a share of the steps, then everything; it is the two stages in one."""

from __future__ import annotations

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.full import Full
from ftft.methods.adapt.linear_probe import LinearProbe
from ftft.methods.adapt.probe_then_full import ProbeThenFull
from ftft.methods.contract import Trainables
from ftft.modelmap import head_parameters


def train(adapted, optimizer, steps, planned=10):
    for step in steps:
        if adapted.before_step is not None:
            adapted.before_step(step, planned, optimizer)
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randint(5, 40, (3, 7), generator=generator)
        adapted.model(input_ids=inputs, labels=torch.tensor([0, 1, 1])).loss.backward()
        optimizer.step()


def optimizer_over(adapted, momentum=0.0, decay=0.1):
    parameters = [parameter for _, parameter in Trainables.of(adapted.model).named]
    return torch.optim.SGD(parameters, lr=0.05, momentum=momentum, weight_decay=decay)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("probe", "probing"), [(0.3, 3), (0.5, 5), (0.26, 3), (0.04, 0)])
def test_the_backbone_waits_for_the_share_of_the_steps(tiny_model, probe, probing):
    adapted = ProbeThenFull(probe=probe).adapt(tiny_model("electra"), None)
    model = adapted.model
    head = {name for name, _ in head_parameters(model)}
    assert all(parameter.requires_grad for parameter in model.parameters())
    optimizer = optimizer_over(adapted, momentum=0.9)
    for step in range(10):
        before = state(model)
        train(adapted, optimizer, [step])
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert head <= changed and (changed == head) == (step < probing)


def test_it_is_a_linear_probe_and_then_full_fine_tuning(tiny_model):
    adapted = ProbeThenFull(probe=0.4).adapt(tiny_model("bert"), None)
    train(adapted, optimizer_over(adapted), range(10))
    model = tiny_model("bert")
    for stage, steps in ((LinearProbe(), range(4)), (Full(), range(4, 10))):
        part = stage.adapt(model, None)
        train(part, optimizer_over(part), steps)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in adapted.model.state_dict().items())


@pytest.mark.parametrize(("step", "trainable"), [(4, False), (5, True), (9, True)])
def test_a_resumed_run_is_where_its_step_says(tiny_model, step, trainable):
    adapted = ProbeThenFull().adapt(tiny_model("bert").requires_grad_(False), None)
    adapted.before_step(step, 10, optimizer_over(adapted))
    assert {parameter.requires_grad for parameter in adapted.model.bert.parameters()} == {trainable}
    assert all(parameter.requires_grad for _, parameter in head_parameters(adapted.model))


def test_a_gradient_from_before_moves_nothing(tiny_model):
    adapted = ProbeThenFull().adapt(tiny_model("bert"), None)
    optimizer = optimizer_over(adapted)
    adapted.model(input_ids=torch.tensor([[2, 9, 3]]), labels=torch.tensor([1])).loss.backward()
    before = state(adapted.model.bert)
    adapted.before_step(0, 10, optimizer)
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in adapted.model.bert.state_dict().items())


def test_a_model_without_a_head_is_refused(tiny_model):
    with pytest.raises(UserError, match="probe_then_full needs a head, and BertModel has no parameters outside"):
        ProbeThenFull().adapt(tiny_model("bert").bert, None)
