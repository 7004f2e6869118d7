"""full, linear_probe and bias_only leave exactly the declared parameters trainable, and training changes only those."""

from __future__ import annotations

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.bias_only import BiasOnly
from ftft.methods.adapt.full import Full
from ftft.methods.adapt.linear_probe import LinearProbe
from ftft.methods.contract import Adapter

HEADS = {
    "bert": {"classifier.weight", "classifier.bias"},
    "electra": {"classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight", "classifier.out_proj.bias"},
    "deberta_v2": {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"},
    "qwen3": {"score.weight"},
}


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def changed_by_a_step(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    inputs = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([1])).backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_full_trains_everything_even_what_was_frozen(tiny_model):
    model = tiny_model("bert").requires_grad_(False)
    adapted = Full().adapt(model, None)
    assert adapted.model is model and trainable(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("architecture", sorted(HEADS))
def test_linear_probe_trains_the_head_alone(tiny_model, architecture):
    model = LinearProbe().adapt(tiny_model(architecture), None).model
    assert trainable(model) == HEADS[architecture]
    assert changed_by_a_step(model) <= HEADS[architecture] and "backbone" not in trainable(model)


@pytest.mark.parametrize("architecture", ["bert", "electra", "deberta_v2", "gpt2"])
def test_bias_only_trains_biases_and_head(tiny_model, architecture):
    model = BiasOnly().adapt(tiny_model(architecture), None).model
    head = HEADS.get(architecture, {"score.weight"})
    assert trainable(model) - head == {n for n, _ in model.named_parameters() if n.endswith(".bias") and n not in head}
    assert all(parameter.ndim == 1 for name, parameter in model.named_parameters() if name in trainable(model) - head)
    changed = changed_by_a_step(model)
    assert changed <= trainable(model) and any(name not in head for name in changed)


def test_bias_only_of_a_model_without_biases_is_refused_and_changes_nothing(tiny_model):
    model = tiny_model("qwen3")
    before = trainable(model)
    with pytest.raises(UserError, match="bias_only needs bias terms, and the pretrained part of Qwen3"):
        BiasOnly().adapt(model, None)
    assert trainable(model) == before


def test_linear_probe_without_a_head_is_refused(tiny_model):
    with pytest.raises(UserError, match="linear_probe needs a head, and BertModel"):
        LinearProbe().adapt(tiny_model("bert").base_model, None)


@pytest.mark.parametrize("method", [Full(), LinearProbe(), BiasOnly()])
def test_they_are_adapters(method):
    assert isinstance(method, Adapter)
