"""DR-Tune's loss against its formula in float64: what it weighs, where its gradient goes, what it keeps."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ftft.errors import UserError
from ftft.methods.contract import Models, Objective
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.objective.dr_tune import DRTune
from ftft.nn.feature_queue import calibrated
from ftft.tasks.contract import Batch
from ftft.tasks.text_classification import TextClassification

TASK = TextClassification()


class Classifier(torch.nn.Module):
    """As transformers build them: an encoder under ``base_model_prefix``, and a head."""

    base_model_prefix = "encoder"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_labels=3)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh())
        self.classifier = torch.nn.Linear(6, 3)
        self.double()

    def forward(self, features):
        return SimpleNamespace(logits=self.classifier(self.encoder(features)))


def drifted():
    """A model in training and what it was before."""
    model = Classifier()
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.3 * torch.randn(
                parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number)
            )
    return Models(model, {"frozen": frozen})


def batch(first, count=4, weights=None):
    rows = torch.arange(first, first + count)
    generator = torch.Generator().manual_seed(9)
    features, labels = torch.randn(64, 5, dtype=torch.float64, generator=generator), torch.arange(64) % 3
    weights = torch.ones(count) if weights is None else torch.tensor(weights)
    return Batch([str(int(row)) for row in rows], rows, labels[rows], weights, {"features": features[rows]})


def losses_of(logits, labels):
    return -logits.log_softmax(dim=1)[torch.arange(len(labels)), labels]


@pytest.mark.parametrize("rotate_every", [1, 2, 100])
def test_the_loss_is_one_mean_over_batch_and_calibrated_queue(rotate_every):
    models = drifted()
    loss_of = DRTune(queue_size=6, rotate_every=rotate_every).start(models, TASK)
    model, frozen = models.main, models.others["frozen"]
    for step in range(5):
        new, loss = batch(4 * step), loss_of(batch(4 * step))
        features = model.encoder(new.inputs["features"])
        expected = losses_of(model.classifier(features), new.labels)
        np.testing.assert_allclose(loss.per_example.numpy(), expected.detach().numpy(), rtol=1e-6)
        queued = list(range(max(0, 4 * step - 6), 4 * step))
        if queued:
            old = batch(queued[0], len(queued))
            moved = calibrated(
                frozen.encoder(old.inputs["features"]),
                model.encoder(old.inputs["features"]).detach(),
                old.labels,
                model.classifier.weight,
                length=features.detach().norm(dim=1).mean(),
                rotate=step % rotate_every == 0,
            )
            expected = torch.cat([expected, losses_of(model.classifier(moved), old.labels)])
            assert loss.parts["queue"] == pytest.approx(float(expected[4:].detach().mean()))
        assert loss.parts["queue_length"] == len(queued)
        torch.testing.assert_close(loss.total / 4, expected.mean(), rtol=0, atol=1e-12)


def test_the_queue_teaches_the_head_and_not_the_encoder():
    """The total less what the batch's own losses are in it."""
    models = drifted()
    loss_of = DRTune(queue_size=8).start(models, TASK)
    loss_of(batch(0))
    plain = losses_of(models.main(**batch(4).inputs).logits, batch(4).labels).sum()
    queue_part = loss_of(batch(4)).total - plain * 4 / 8
    queue_part.backward()
    for parameter in models.main.encoder.parameters():
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=1e-14)
    assert float(models.main.classifier.weight.grad.abs().max()) > 1e-3
    # Exactly: no path leads from the queue's part to the encoder.
    of_queue, _ = loss_of._on_queue(batch(8), models.main.encoder(batch(8).inputs["features"]))
    encoder = list(models.main.encoder.parameters())
    assert torch.autograd.grad(of_queue, encoder, allow_unused=True) == (None,) * len(encoder)
    assert all(parameter.grad is None for parameter in models.others["frozen"].parameters())


def test_without_a_queue_it_is_ordinary_fine_tuning():
    models = drifted()
    models.others["frozen"].forward = None  # and costs no more: nothing asks the frozen model
    ours, plain = DRTune(queue_size=0).start(models, TASK), CrossEntropy().start(models, TASK)
    for first in (0, 4, 8):
        new = batch(first, weights=[1.0, 0.0, 2.0, 0.5])
        one, other = ours(new), plain(new)
        assert torch.equal(one.total, other.total)
        assert torch.equal(one.outputs, other.outputs) and torch.equal(one.per_example, other.per_example)


def test_weights_go_with_the_examples_into_the_queue():
    models, weights = drifted(), [1.0, 0.0, 2.0, 0.5]
    loss_of = DRTune(queue_size=8).start(models, TASK)
    loss_of(batch(0, weights=weights))
    queue, new = loss_of.queue, batch(4, weights=[3.0, 1.0, 1.0, 0.0])
    features = models.main.encoder(new.inputs["features"])
    length = features.norm(dim=1).mean().detach()
    head = models.main.classifier
    moved = calibrated(queue.frozen, queue.tuned, queue.labels, head.weight, length=length, rotate=False)
    of_queue = losses_of(head(moved), queue.labels) @ torch.tensor(weights, dtype=torch.float64)
    of_batch = losses_of(head(features), new.labels) @ new.weights.double()
    loss = loss_of(new)
    torch.testing.assert_close(loss.total / 5, (of_batch + of_queue) / (5 + 3.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [[0.0] * 4, [1.0] * 4])
def test_batches_without_weight_are_finite_and_teach_nothing(first):
    models = drifted()
    loss_of = DRTune().start(models, TASK)
    loss_of(batch(0, weights=first))
    loss = loss_of(batch(4, weights=[0.0] * 4))
    assert float(loss.total.detach()) == 0
    again = loss_of(batch(8))
    assert torch.isfinite(again.total)


def test_what_it_keeps_comes_back():
    models = drifted()
    straight = DRTune(queue_size=10, rotate_every=3).start(models, TASK)
    for step in range(4):
        straight(batch(4 * step))
    resumed = DRTune(queue_size=10, rotate_every=3).start(models, TASK)
    resumed.load_state(straight.state())
    for step in range(4, 9):
        assert torch.equal(resumed(batch(4 * step)).total, straight(batch(4 * step)).total)


def test_it_sees_the_features_through_an_adapter(tiny_model):
    from ftft.methods.adapt.lora import LoRA

    plain = tiny_model("bert", 3)
    frozen = copy.deepcopy(plain).eval().requires_grad_(False)
    model = LoRA().adapt(plain, None).model.eval()
    inputs = {"input_ids": torch.arange(12).reshape(3, 4) + 5, "attention_mask": torch.ones(3, 4, dtype=torch.int64)}
    new = Batch(["a", "b", "c"], torch.arange(3), torch.tensor([0, 1, 2]), torch.ones(3), inputs)
    loss_of = DRTune().start(Models(model, {"frozen": frozen}), TASK)
    loss_of(new)
    loss_of(new).total.backward()
    trainable = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and "classifier" in name]
    assert trainable and loss_of.head.weight is trainable[0] and trainable[0].grad.abs().max() > 0
    torch.testing.assert_close(loss_of.queue.tuned, loss_of.queue.frozen)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama", "gpt2"])
def test_the_features_are_what_the_label_layer_reads(architecture, tiny_model):
    """Texts of several lengths: a decoder's label layer reads every position, and one of them counts."""
    model = tiny_model(architecture, 3)
    frozen = copy.deepcopy(model).requires_grad_(False)
    lengths = torch.tensor([3, 7, 5])
    mask = torch.arange(7) < lengths[:, None]
    inputs = {"input_ids": torch.where(mask, torch.arange(21).reshape(3, 7) + 5, model.config.pad_token_id)}
    inputs["attention_mask"] = mask.long()
    new = Batch(["a", "b", "c"], torch.arange(3), torch.tensor([0, 1, 2]), torch.ones(3), inputs)
    loss_of = DRTune().start(Models(model, {"frozen": frozen}), TASK)
    loss = loss_of(new)
    torch.testing.assert_close(loss_of.head(loss_of.queue.tuned), loss.outputs)
    assert torch.equal(loss_of.queue.tuned, loss_of.queue.frozen)
    assert torch.isfinite(loss_of(new).total)


def test_it_runs_in_mixed_precision_and_behind_a_wrapper(tiny_model):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    model = tiny_model("bert", 3)
    inputs = {"input_ids": torch.arange(12).reshape(3, 4) + 5, "attention_mask": torch.ones(3, 4, dtype=torch.int64)}
    new = Batch(["a", "b", "c"], torch.arange(3), torch.tensor([0, 1, 2]), torch.ones(3), inputs)
    loss_of = DRTune(rotate_every=1).start(Models(Wrapper(model), {"frozen": copy.deepcopy(model)}), TASK)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [loss_of(new), loss_of(new)]
    losses[1].total.backward()
    assert loss_of.queue.tuned.dtype == torch.float32 and torch.isfinite(losses[1].total)
    assert torch.isfinite(model.classifier.weight.grad).all()


def test_a_model_that_changes_the_logits_afterwards_is_refused():
    class Scaled(Classifier):
        def forward(self, features):
            return SimpleNamespace(logits=5 * super().forward(features).logits)

    models = Models(Scaled(), {"frozen": Scaled()})
    with pytest.raises(UserError, match="label layer gives the logits, and Scaled computes them otherwise"):
        DRTune().start(models, TASK)(batch(0))


def test_it_is_an_objective():
    assert isinstance(DRTune(), Objective)
