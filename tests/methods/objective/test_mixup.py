"""Mixup against blends made one by one, without padding: what the model sees, what it is taught, what it draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.contract import Models, Objective
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.objective.mixup import Mixup
from ftft.tasks.contract import Batch
from ftft.tasks.text_classification import TextClassification

TASK, LENGTHS = TextClassification(), (3, 7, 5, 2, 6)
WEIGHTS = (1.0, 0.0, 2.0, 0.5, 3.0)


def batch(model, *, lengths=LENGTHS, weights=WEIGHTS, segments=False):
    size = len(lengths)
    ids = torch.randint(5, 60, (size, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    inputs = {"input_ids": torch.where(mask, ids, model.config.pad_token_id), "attention_mask": mask.long()}
    if segments:
        inputs["token_type_ids"] = (mask & (torch.arange(8) >= torch.tensor(lengths)[:, None] // 2)).long()
    labels, weights = torch.arange(size) % 3, torch.tensor(weights[:size])
    return Batch([str(row) for row in range(size)], torch.arange(size), labels, weights, inputs)


def model_of(tiny_model, architecture):
    return tiny_model(architecture, 3).double()


def drawn(objective, size, seed=4):
    torch.manual_seed(seed)
    mu, partner = objective._draw(size)
    torch.manual_seed(seed)
    return mu, partner


def cross_entropy(logits, label, smoothing=0.0):
    log_p = logits.log_softmax(dim=-1)
    return -(1 - smoothing) * log_p[label] - smoothing * log_p.mean()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta_v2", "modernbert", "llama", "qwen3", "gpt2"])
def test_the_model_sees_the_blend_of_the_pair(architecture, tiny_model):
    """Each blend by itself, cut to the longer of its two texts: no padding that a decoder could take for a token."""
    model, objective = model_of(tiny_model, architecture), Mixup(alpha=1.0)
    given = batch(model, segments=architecture == "bert")
    mu, partner = drawn(objective, 5)
    assert 0.05 < mu < 0.95 and not torch.equal(partner, torch.arange(5))
    loss = objective.start(Models(model), TASK)(given)
    table = model.get_input_embeddings()
    for one in range(5):
        other = int(partner[one])
        length = max(LENGTHS[one], LENGTHS[other])
        ids = given.inputs["input_ids"][[one, other], :length]
        kept = {}
        if "token_type_ids" in given.inputs:
            types = given.inputs["token_type_ids"][[one, other], :length]
            kept["token_type_ids"] = torch.where(torch.arange(length) < LENGTHS[one], types[0], types[1])[None]
        blend = (mu * table(ids[0]) + (1 - mu) * table(ids[1]))[None]
        logits = model(inputs_embeds=blend, attention_mask=torch.ones(1, length, dtype=torch.int64), **kept).logits[0]
        torch.testing.assert_close(loss.outputs[one], logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_blend_of_both_labels_losses(smoothing, tiny_model):
    model, objective = model_of(tiny_model, "bert"), Mixup(alpha=1.0, label_smoothing=smoothing)
    given = dataclasses.replace(batch(model), weights=torch.ones(5))
    mu, partner = drawn(objective, 5)
    loss = objective.start(Models(model), TASK)(given)
    expected = sum(
        mu * cross_entropy(loss.outputs[one], given.labels[one], smoothing)
        + (1 - mu) * cross_entropy(loss.outputs[one], given.labels[partner[one]], smoothing)
        for one in range(5)
    )
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-12)
    assert loss.parts == {"mu": mu} and loss.per_example.dtype == torch.float32


def test_a_weight_goes_with_its_examples_label(tiny_model):
    model, objective = model_of(tiny_model, "bert"), Mixup(alpha=1.0)
    given = batch(model)
    mu, partner = drawn(objective, 5)
    loss = objective.start(Models(model), TASK)(given)
    expected = torch.zeros(5, dtype=torch.float64)
    for one in range(5):
        other = int(partner[one])
        expected[one] += mu * cross_entropy(loss.outputs[one], given.labels[one]).detach()
        expected[other] += (1 - mu) * cross_entropy(loss.outputs[one], given.labels[other]).detach()
    torch.testing.assert_close(loss.per_example.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(loss.total.detach(), (given.weights * expected).sum(), rtol=0, atol=1e-12)
    labels = given.labels.clone()
    labels[1] = 2 - labels[1]  # of weight 0
    torch.manual_seed(4)
    again = objective.start(Models(model), TASK)(dataclasses.replace(given, labels=labels))
    assert torch.equal(again.total, loss.total)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alpha, rows", [(0.0, 5), (1.0, 1)])
def test_without_mixing_it_is_cross_entropy(alpha, rows, smoothing, tiny_model):
    """No mixing by the setting, or because the text is alone in its micro-batch."""
    model = model_of(tiny_model, "bert")
    given, gradients, losses = batch(model, lengths=LENGTHS[:rows]), [], []
    for objective in (CrossEntropy(label_smoothing=smoothing), Mixup(alpha=alpha, label_smoothing=smoothing)):
        model.zero_grad()
        losses.append(objective.start(Models(model), TASK)(given))
        losses[-1].total.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(losses[1].total, losses[0].total, rtol=0, atol=1e-12)
    torch.testing.assert_close(losses[1].outputs, losses[0].outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_as_alpha_vanishes_it_becomes_cross_entropy(tiny_model):
    """Of texts of one length, for a blend is as long as the longer of its two. Every blend is then one text or the other."""
    model = model_of(tiny_model, "bert")
    given = batch(model, lengths=(6,) * 5)
    plain = CrossEntropy().start(Models(model), TASK)(given)
    drawn_ends = set()
    for seed in range(12):
        torch.manual_seed(seed)
        loss = Mixup(alpha=1e-6).start(Models(model), TASK)(given)
        drawn_ends.add(round(loss.parts["mu"], 9))
        torch.testing.assert_close(loss.total, plain.total, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.per_example, plain.per_example, rtol=0, atol=1e-6)
    assert drawn_ends == {0.0, 1.0}


def test_both_texts_embeddings_learn(tiny_model):
    model = model_of(tiny_model, "bert")
    given = batch(model, lengths=(8, 8), weights=(1.0, 0.0))
    loss_of = Mixup(alpha=1.0).start(Models(model), TASK)
    for seed in range(20):
        if drawn(Mixup(alpha=1.0), 2, seed)[1].tolist() == [1, 0]:
            break
    loss_of(given).total.backward()
    gradient = model.get_input_embeddings().weight.grad.abs().sum(dim=1)
    assert (gradient[given.inputs["input_ids"].flatten()] > 0).all()


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 1.0, 8.0])
def test_mu_has_the_beta_distributions_mean_and_variance(alpha):
    torch.manual_seed(0)
    draws = torch.tensor([Mixup(alpha=alpha)._draw(1)[0] for _ in range(4000)], dtype=torch.float64)
    assert ((draws >= 0) & (draws <= 1)).all()
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_every_text_is_somebodys_partner_and_every_order_comes():
    torch.manual_seed(0)
    orders = [tuple(Mixup()._draw(3)[1].tolist()) for _ in range(200)]
    assert all(sorted(order) == [0, 1, 2] for order in orders) and len(set(orders)) == 6


def test_the_same_seed_draws_the_same(tiny_model):
    model = model_of(tiny_model, "bert")
    loss_of, totals = Mixup(alpha=1.0).start(Models(model), TASK), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        totals.append(float(loss_of(batch(model)).total.detach()))
    assert totals[0] == totals[1] != totals[2]


def test_afterwards_the_model_says_what_it_said(tiny_model):
    model = model_of(tiny_model, "bert")
    given = batch(model)
    before = TASK.forward(model, given)
    loss_of = Mixup(alpha=1.0).start(Models(model), TASK)
    loss_of(given)
    assert torch.equal(TASK.forward(model, given), before)
    broken = dataclasses.replace(given, inputs={**given.inputs, "token_type_ids": given.inputs["input_ids"]})
    with pytest.raises(IndexError):
        loss_of(broken)
    assert torch.equal(TASK.forward(model, given), before)


def test_it_works_behind_a_wrapper_and_an_adapter(tiny_model):
    from ftft.methods.adapt.lora import LoRA

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    model = model_of(tiny_model, "bert")
    given, outputs = batch(model), []
    for wrap in (lambda one: one, Wrapper, lambda one: LoRA().adapt(one, None).model.eval()):
        loss_of = Mixup(alpha=1.0).start(Models(wrap(model)), TASK)
        torch.manual_seed(4)
        outputs.append(loss_of(given).outputs)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=0, atol=1e-12)


def test_a_model_without_word_embeddings_is_refused(tiny_model):
    with pytest.raises(UserError, match="mixup mixes word embeddings, and Linear has no table of them"):
        Mixup().start(Models(torch.nn.Linear(2, 2)), TASK)


def test_a_model_that_does_not_look_them_up_is_refused(tiny_model):
    model = model_of(tiny_model, "bert")
    given, elsewhere = batch(model), torch.nn.Embedding(200, 16).double()
    model.get_input_embeddings = lambda: elsewhere
    with pytest.raises(UserError, match="this model does not look them up once a forward pass"):
        Mixup().start(Models(model), TASK)(given)


def test_it_is_an_objective():
    assert isinstance(Mixup(), Objective)
