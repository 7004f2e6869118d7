"""LoRA adds (alpha / r) B A to the projections it is asked for; any mergeable adapter of peft goes by its type's name."""

from __future__ import annotations

import warnings

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.lora import LoRA
from ftft.methods.adapt.peft import Peft
from ftft.methods.contract import Adapter
from ftft.modelmap import ModelMap, head_parameters

INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def randomised(adapted):
    """Trained, as far as algebra can tell."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for pair in adapted.pairs:
            pair.up.copy_(torch.randn(pair.up.shape, generator=generator, dtype=pair.up.dtype))
    return adapted


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_the_merged_weight_is_the_frozen_one_plus_the_scaled_product(tiny_model, architecture, stabilised):
    model = tiny_model(architecture).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    targets = ModelMap.of(model).attention[0]["query"].split(".")[-1]
    adapted = randomised(LoRA(rank=4, alpha=6.0, targets=["query", "down"], rank_stabilised=stabilised).adapt(model, None))
    scale = 6.0 / 2.0 if stabilised else 6.0 / 4.0
    merged = adapted.merged()
    assert len(adapted.pairs) == 6 and {pair.scaling for pair in adapted.pairs} == {scale}
    changed = set()
    for pair in adapted.pairs:
        name = pair.weight.removeprefix("base_model.model.").replace(".base_layer", "")
        changed.add(name)
        expected = before[name] + scale * (pair.up @ pair.down)
        torch.testing.assert_close(merged[name], expected.detach(), rtol=0, atol=1e-12)
    assert {name for name in before if not torch.equal(before[name], merged[name])} == changed
    assert sum(targets in name for name in changed) == 3


def test_merging_leaves_the_adapted_model_as_it_was(tiny_model):
    adapted = randomised(LoRA().adapt(tiny_model("bert"), None))
    before = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    said = adapted.model(**INPUTS).logits
    adapted.merged()
    assert all(torch.equal(value, before[name]) for name, value in adapted.model.state_dict().items())
    assert torch.equal(adapted.model(**INPUTS).logits, said)


def test_the_factors_and_the_head_are_trainable_and_nothing_else(tiny_model):
    model = tiny_model("electra")
    head = {f"base_model.model.{name}" for name, _ in head_parameters(model)}
    adapted = LoRA(rank=2).adapt(model, None)
    trainable = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    factors = {name for name, _ in adapted.model.named_parameters() if "lora_" in name}
    assert head and trainable == head | factors and len(factors) == 2 * len(adapted.pairs) == 2 * 18


@pytest.mark.parametrize("kind", ["ia3", "oft", "boft", "hra", "loha", "lokr", "LORA"])
def test_adapters_of_other_types_begin_as_the_model_was_and_merge(tiny_model, kind):
    plain = tiny_model("bert").double()
    expected = plain(**INPUTS).logits
    options = {"feedforward_modules": ["output.dense"], "target_modules": ["query", "output.dense"]} if kind == "ia3" else {}
    if kind in ("oft", "boft"):
        options = {"target_modules": ["query"], **({"oft_block_size": 4, "r": 0} if kind == "oft" else {})}
    adapted = Peft(type=kind, options=options).adapt(tiny_model("bert").double(), None)
    torch.testing.assert_close(adapted.model.eval()(**INPUTS).logits, expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)), dtype=parameter.dtype)
                parameter.add_(0.1 * noise)
    said = adapted.model(**INPUTS).logits
    plain.load_state_dict(adapted.merged())
    assert not torch.allclose(said, expected, atol=1e-4)
    torch.testing.assert_close(plain(**INPUTS).logits, said, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Peft(type="lorra"), 'peft has no adapter of the type "lorra"; did you mean "lora"?'),
        (Peft(options={"rank": 4}), 'LoraConfig has no option "rank"'),
        (Peft(options={"r": 0}), "LoraConfig|lora|LORA"),
        (
            Peft(type="prompt_tuning", options={"num_virtual_tokens": 4, "task_type": "SEQ_CLS"}),
            "cannot be merged into plain weights",
        ),
        (LoRA(targets=["gate"]), 'BertForSequenceClassification has no projection "gate"'),
    ],
    ids=["type", "option", "value", "prompts", "role"],
)
def test_what_cannot_be_is_refused_in_one_sentence(tiny_model, method, expected):
    with pytest.raises(UserError, match=expected.replace("?", r"\?")) as caught:
        method.adapt(tiny_model("bert"), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [LoRA(), Peft()])
def test_they_are_adapters(method):
    assert isinstance(method, Adapter)


def test_nothing_is_printed_about_what_peft_asks_transformers(tiny_model):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        LoRA(rank=2).adapt(tiny_model("bert"), None)
    assert [str(one.message) for one in seen if issubclass(one.category, FutureWarning)] == []
