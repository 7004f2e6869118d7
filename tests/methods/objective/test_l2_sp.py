"""L2-SP against its formula in float64: what is pulled where, and how often the penalty counts."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.contract import Models, Objective
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.objective.l2_sp import L2SP
from ftft.tasks.contract import Batch
from ftft.tasks.text_classification import TextClassification

TASK = TextClassification()


class Classifier(torch.nn.Module):
    base_model_prefix = "encoder"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.LayerNorm(6), torch.nn.Tanh())
        self.classifier = torch.nn.Linear(6, 3)
        self.double()

    def forward(self, features):
        return SimpleNamespace(logits=self.classifier(self.encoder(features)))


def drifted():
    model = Classifier()
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.3 * torch.randn(
                parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number)
            )
    return Models(model, {"frozen": frozen})


def batch(rows, weights=(0.1, 0.0, 2.3, 0.7, 1.1, 3.3)):
    features = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    rows = torch.tensor(list(rows))
    weights = torch.tensor(weights)[rows]
    return Batch([str(int(row)) for row in rows], rows, rows % 3, weights, {"features": features[rows]})


def gradients(objective, models, parts):
    """Of one step, as the engine takes it; also the step's loss."""
    loss_of = objective.start(models, TASK)
    for parameter in models.main.parameters():
        parameter.grad = None
    units = sum(float(part.weights.double().sum()) for part in parts)
    losses = [loss_of(part).total / units for part in parts]
    sum(losses).backward()
    return float(sum(losses).detach()), {name: parameter.grad for name, parameter in models.main.named_parameters()}


@pytest.mark.parametrize("vectors", [True, False])
def test_loss_and_gradient_are_those_of_the_formula(vectors):
    models, whole = drifted(), [batch(range(6))]
    plain, plain_gradients = gradients(CrossEntropy(), models, whole)
    loss, found = gradients(L2SP(alpha=0.7, beta=0.3, vectors=vectors), models, whole)
    starts, penalty = dict(models.others["frozen"].named_parameters()), 0.0
    for name, parameter in models.main.named_parameters():
        now, expected = parameter.detach(), plain_gradients[name]
        if vectors or name in ("encoder.0.weight", "classifier.weight"):
            rate, start = (0.3, torch.zeros_like(now)) if name.startswith("classifier") else (0.7, starts[name])
            penalty += rate / 2 * float((now - start).pow(2).sum())
            expected = expected + rate * (now - start)
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)
    assert loss == pytest.approx(plain + penalty, abs=1e-12)


def test_the_penalty_counts_once_whatever_the_micro_batches():
    models = drifted()
    whole, expected = gradients(L2SP(), models, [batch(range(6))])
    for parts in ([[0], [1], [2], [3], [4], [5]], [[0, 1, 2, 3], [4, 5]]):
        loss, found = gradients(L2SP(), models, [batch(rows) for rows in parts])
        assert loss == pytest.approx(whole, abs=1e-12)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)


def test_parts_and_examples_losses():
    models, whole = drifted(), batch(range(6))
    ours, plain = L2SP().start(models, TASK)(whole), CrossEntropy().start(models, TASK)(whole)
    assert torch.equal(ours.per_example, plain.per_example) and torch.equal(ours.outputs, plain.outputs)
    penalty = (float(ours.total.detach()) - float(plain.total.detach())) / float(whole.weights.sum())
    assert sum(ours.parts.values()) == pytest.approx(penalty) and penalty > 0 and min(ours.parts.values()) > 0


def test_at_the_start_only_the_head_is_penalised():
    model = Classifier()
    loss = L2SP(alpha=5.0, beta=2.0).start(Models(model, {"frozen": copy.deepcopy(model)}), TASK)(batch(range(6)))
    head = sum(float(parameter.detach().pow(2).sum()) for parameter in model.classifier.parameters())
    assert loss.parts == {"penalty_backbone": 0.0, "penalty_head": pytest.approx(head)}


def test_without_weights_it_is_cross_entropy():
    models, whole = drifted(), [batch(range(6))]
    plain, expected = gradients(CrossEntropy(), models, whole)
    loss, found = gradients(L2SP(alpha=0.0, beta=0.0), models, whole)
    assert loss == plain and all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_wrapper_for_several_processes_changes_nothing():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    models = drifted()
    expected = L2SP().start(models, TASK)(batch(range(6)))
    found = L2SP().start(Models(Wrapper(models.main), models.others), TASK)(batch(range(6)))
    assert torch.equal(found.total, expected.total) and found.parts == expected.parts


def test_only_what_has_a_counterpart_and_may_change_is_penalised():
    models = drifted()
    models.main.encoder[0].lora = torch.nn.Linear(5, 2, bias=False).double()  # no counterpart
    models.main.classifier.bias.requires_grad_(False)
    models.main.encoder[1].weight = torch.nn.Parameter(torch.ones(7, dtype=torch.float64))  # of another shape
    pulled, head = L2SP()._penalised(models)
    encoder = models.main.encoder
    assert [id(now) for now, _ in pulled] == [id(encoder[0].weight), id(encoder[0].bias), id(encoder[1].bias)]
    assert len(head) == 1 and head[0] is models.main.classifier.weight


def test_an_adapter_that_leaves_nothing_to_pull_is_refused(tiny_model):
    from ftft.methods.adapt.linear_probe import LinearProbe
    from ftft.methods.adapt.lora import LoRA

    for adapter in (LoRA(), LinearProbe()):
        model = tiny_model("bert")
        frozen = copy.deepcopy(model)
        adapted = adapter.adapt(model, None).model
        with pytest.raises(UserError, match="l2_sp has nothing to pull to its start.*use adapt: full"):
            L2SP().start(Models(adapted, {"frozen": frozen}), TASK)


def test_the_stronger_the_pull_the_nearer_the_weights_stay():
    distances = []
    for alpha in (0.0, 1.0, 10.0):
        model = Classifier()
        models = Models(model, {"frozen": copy.deepcopy(model)})
        loss_of = L2SP(alpha=alpha).start(models, TASK)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            whole = batch(range(6))
            (loss_of(whole).total / whole.weights.sum()).backward()
            optimizer.step()
        starts = models.others["frozen"].encoder.parameters()
        distances.append(
            sum(float((now - start).detach().pow(2).sum()) for now, start in zip(model.encoder.parameters(), starts))
        )
    assert distances[0] > distances[1] > distances[2] > 0


def test_it_is_an_objective():
    assert isinstance(L2SP(), Objective)
