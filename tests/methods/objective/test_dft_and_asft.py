"""DFT's gradient is that of the mean probability; ASFT adds the forward divergence from the model before fine-tuning."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import datasets
import pytest
import torch
import trl
from contract_trial import Trial

from ftft.methods.contract import Models, Objective
from ftft.methods.objective.asft import ASFT
from ftft.methods.objective.dft import DFT
from ftft.tasks.contract import UnitLogits
from ftft.tasks.text_classification import TextClassification

CLASSIFICATION = TextClassification(max_length=16)


class Tokens:
    """Two sequences of three and one target tokens over five words; the model is a table of logits."""

    targets = torch.tensor([0, 3, 1, 4])
    example = torch.tensor([0, 0, 0, 1])

    def forward(self, model, batch):
        return model()

    def units(self, batch):
        return torch.tensor([3.0, 1.0])

    def unit_logits(self, outputs, batch):
        return UnitLogits(outputs, self.targets, self.example)


class Table(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        values = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.logits = torch.nn.Parameter(values)

    def forward(self):
        return self.logits


class Batch(SimpleNamespace):
    def __len__(self):
        return len(self.weights)


def sequences(*weights):
    return Batch(weights=torch.tensor(weights or (1.0, 1.0), dtype=torch.float64))


class OfCounts(Tokens):
    """As many target tokens in each sequence as ``counts`` says, of rows of the table from ``first`` on."""

    def __init__(self, *counts, first=0):
        total = sum(counts)
        self.counts, self.rows = torch.tensor(counts), slice(first, first + total)
        self.targets, self.example = Tokens.targets[self.rows], torch.arange(len(counts)).repeat_interleave(self.counts)

    def units(self, batch):
        return self.counts.double()

    def unit_logits(self, outputs, batch):
        return UnitLogits(outputs[self.rows], self.targets, self.example)


def gradient(loss, model, units=1):
    found = torch.autograd.grad(loss.total / units, list(model.parameters()))
    return torch.cat([value.flatten() for value in found])


def classifier(tiny_model):
    model = tiny_model("bert").double()
    tokens = torch.tensor([[2, 9, 11, 14, 3], [2, 7, 8, 9, 3]])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return model, Batch(labels=torch.tensor([1, 0]), weights=torch.ones(2), inputs=inputs)


@pytest.mark.parametrize("task", ["tokens", "classification"])
def test_the_gradient_is_that_of_minus_the_mean_probability(task, tiny_model):
    if task == "tokens":
        model, batch, kind = Table(0), sequences(), Tokens()
    else:
        model, batch = classifier(tiny_model)
        kind = CLASSIFICATION
    loss = DFT().start(Models(model), kind)(batch)
    units = kind.unit_logits(kind.forward(model, batch), batch)
    probability = units.logits.softmax(-1).gather(1, units.targets[:, None]).mean()
    expected = torch.autograd.grad(-probability, list(model.parameters()))
    found = gradient(loss, model, len(units.targets))
    torch.testing.assert_close(found, torch.cat([value.flatten() for value in expected]), rtol=0, atol=1e-12)


def test_the_loss_by_hand():
    model = Table(0)
    loss = DFT().start(Models(model), Tokens())(sequences(1.0, 0.5))
    p = model.logits.detach().softmax(-1)[torch.arange(4), Tokens.targets]
    per_token = -(p * p.log())
    torch.testing.assert_close(loss.total.detach(), per_token[:3].sum() + 0.5 * per_token[3], rtol=0, atol=1e-14)
    expected = torch.stack([per_token[:3].mean(), per_token[3]])
    torch.testing.assert_close(loss.per_example, expected.float())


def test_trl_has_the_same_loss(tiny_model, tiny_tokenizer, tmp_path):
    """SFTTrainer with loss_type="dft", which computes it inside its fused head, over a batch with prompts and padding."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_model("llama").config)
    args = trl.SFTConfig(
        str(tmp_path), loss_type="dft", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], eos_token="[SEP]"
    )
    rows = datasets.Dataset.from_dict({"prompt": ["the film"], "completion": ["was good"]})
    trainer = trl.SFTTrainer(model, args, train_dataset=rows, processing_class=tiny_tokenizer)
    tokens = torch.tensor([[2, 9, 11, 14, 8, 7], [2, 7, 8, 9, 0, 0]])
    labels = torch.tensor([[-100, -100, 11, 14, 8, 7], [-100, 7, 8, -100, -100, -100]])
    mask = (tokens != 0).long()
    inputs = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    theirs = float(trainer.compute_loss(trainer.model.train(), dict(inputs)).detach())
    logits = model(input_ids=tokens, attention_mask=mask).logits
    where = labels[:, 1:] != -100
    units = UnitLogits(logits[:, :-1][where], labels[:, 1:][where], where.nonzero()[:, 0])
    task = SimpleNamespace(
        forward=lambda model, batch: logits, units=lambda batch: where.sum(1).float(), unit_logits=lambda *_: units
    )
    ours = DFT().start(Models(model), task)(Batch(weights=torch.ones(2)))
    assert float(ours.total.detach()) / int(where.sum()) == pytest.approx(theirs, abs=1e-6)


def test_the_first_step_is_that_of_dft_and_later_ones_are_not(tiny_model):
    model, batch = classifier(tiny_model)
    models = Models(model, {"frozen": copy.deepcopy(model).requires_grad_(False)})
    plain = gradient(DFT().start(models, CLASSIFICATION)(batch), model)
    anchored = ASFT(anchor=3.0).start(models, CLASSIFICATION)(batch)
    assert anchored.parts["kl"] == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(gradient(anchored, model), plain, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.classifier.bias += torch.tensor([1.0, -1.0])
    moved = ASFT(anchor=3.0).start(models, CLASSIFICATION)(batch)
    assert moved.parts["kl"] > 0.1
    assert not torch.allclose(gradient(moved, model), gradient(DFT().start(models, CLASSIFICATION)(batch), model))


def test_the_divergence_is_from_the_frozen_to_the_trained_model():
    """By hand on two classes: KL(r || q) with r = (0.9, 0.1), q = (0.5, 0.5); the reverse would be 0.511."""
    units = lambda p: UnitLogits(torch.tensor([p], dtype=torch.float64).log(), torch.tensor([0]), torch.tensor([0]))  # noqa: E731
    said = {"main": units([0.5, 0.5]), "frozen": units([0.9, 0.1])}
    task = SimpleNamespace(
        forward=lambda model, batch: model, units=lambda batch: torch.ones(1), unit_logits=lambda outputs, batch: said[outputs]
    )
    batch = Batch(weights=torch.ones(1))
    models = Models("main", {"frozen": "frozen"})
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    found = ASFT(anchor=2.0).start(models, task)(batch)
    assert found.parts["kl"] == pytest.approx(forward, abs=1e-12)
    assert float(found.total) == pytest.approx(-0.5 * math.log(0.5) + 2.0 * forward, abs=1e-12)


@pytest.mark.parametrize("method", [DFT(), ASFT(anchor=0.5)])
@pytest.mark.parametrize("counts", [(0, 0), (0, 4), (3, 0, 1)])
def test_sequences_without_a_target_are_worth_nothing_and_finite(method, counts):
    model = Table(0)
    models, batch = Models(model, {"frozen": Table(1)}), sequences(*[1.0] * len(counts))
    loss = method.start(models, OfCounts(*counts))(batch)
    found = gradient(loss, model)
    assert torch.isfinite(found).all() and all(math.isfinite(part) for part in loss.parts.values())
    assert [bool(value) for value in loss.per_example] == [count > 0 for count in counts]
    if not sum(counts):
        assert float(loss.total.detach()) == 0 and not found.any()
    else:
        full = method.start(models, OfCounts(*[count for count in counts if count]))(sequences(*[1.0] * sum(map(bool, counts))))
        torch.testing.assert_close(loss.total, full.total, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [DFT(), ASFT(anchor=0.5)])
def test_micro_batches_of_unequal_lengths_add_up_to_the_mean_over_the_steps_tokens(method):
    """The released code takes each micro-batch's own mean."""
    model = Table(0)
    models = Models(model, {"frozen": Table(1)})
    whole = method.start(models, OfCounts(3, 1))(sequences())
    parts = [method.start(models, task)(sequences(1.0)) for task in (OfCounts(3), OfCounts(1, first=3))]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=0, atol=1e-14)
    found = sum(gradient(part, model) for part in parts)
    torch.testing.assert_close(found, gradient(whole, model), rtol=0, atol=1e-14)


def test_with_lora_the_reference_is_the_base_without_dropout(tiny_model, tiny_tokenizer):
    """In the released code it is the adapted model itself, in training mode."""
    parts = {"adapt": {"name": "lora", "dropout": 0.5}, "objective": "asft"}
    trial = Trial(tiny_model, tiny_tokenizer, parts, dropout=0.3)
    base = trial.model().eval()
    models = trial.assembled(trial.model()).models
    models.main.train()
    assert not any(module.training for module in models.others["frozen"].modules())
    batch = trial.task.collate(trial.data(), torch.arange(4).numpy())
    said = trial.task.forward(base, batch).detach()
    with torch.no_grad():
        for name, parameter in models.main.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    torch.manual_seed(0)
    loss = ASFT().start(models, trial.task)(batch)
    reference, trained = said.log_softmax(-1), loss.outputs.detach().log_softmax(-1)
    assert loss.parts["kl"] == pytest.approx(float((reference.exp() * (reference - trained)).sum(-1).mean()), abs=1e-12)


def test_without_an_anchor_nothing_is_asked_of_a_frozen_model():
    loss = ASFT(anchor=0.0).start(Models(Table(0)), Tokens())(sequences())
    plain = DFT().start(Models(Table(0)), Tokens())(sequences())
    assert torch.equal(loss.total, plain.total) and loss.parts == {}


@pytest.mark.parametrize("method", [DFT(), ASFT()])
def test_they_are_objectives(method):
    assert isinstance(method, Objective)
