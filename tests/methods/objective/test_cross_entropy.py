"""The total is the weighted sum over units, so that micro-batches add up to the batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ftft.methods.contract import Models, Objective
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.tasks.contract import Batch
from ftft.tasks.text_classification import TextClassification


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(12, dtype=torch.float64).reshape(4, 3).sin())

    def forward(self, features):
        return SimpleNamespace(logits=features @ self.weight)


def batch(rows):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 4, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    weights = torch.tensor([1, 0.5, 2, 1, 0, 3, 1, 1], dtype=torch.float32)
    return Batch([str(row) for row in rows], torch.tensor(rows), labels[rows], weights[rows], {"features": features[rows]})


class InTokens(TextClassification):
    """A task whose examples average over different numbers of units."""

    def units(self, batch):
        return batch.rows.float() + 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("task", [TextClassification(), InTokens()])
def test_the_total_follows_the_formula(smoothing, task):
    model, whole = Linear(), batch(list(range(8)))
    loss = CrossEntropy(label_smoothing=smoothing).start(Models(model), task)(whole)
    losses = torch.nn.functional.cross_entropy(
        model(whole.inputs["features"]).logits, whole.labels, reduction="none", label_smoothing=smoothing
    )
    share = whole.weights.double() * task.units(whole).double()
    torch.testing.assert_close(loss.total, (share * losses).sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.per_example, losses.detach().float())
    assert not loss.per_example.requires_grad and loss.outputs.shape == (8, 3)


def test_micro_batches_add_up_to_the_batch():
    gradients = []
    for parts in ([list(range(8))], [[row] for row in range(8)], [[0, 1, 2], [3, 4, 5, 6, 7]]):
        model = Linear()
        loss_of = CrossEntropy().start(Models(model), InTokens())
        sum(loss_of(batch(rows)).total for rows in parts).backward()
        gradients.append(model.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=0, atol=1e-12)


def test_weight_zero_counts_nothing():
    model = Linear()
    loss = CrossEntropy().start(Models(model), TextClassification())(batch([4]))
    loss.total.backward()
    assert float(loss.total.detach()) == 0 and not model.weight.grad.any()


def test_it_is_an_objective():
    assert isinstance(CrossEntropy(), Objective)
