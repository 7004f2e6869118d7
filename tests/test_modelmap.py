"""The model map names the parts of every usual architecture, and cutting layers leaves a model that loads again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftft.errors import UserError
from ftft.modelmap import ModelMap, head_parameters, keep_first_layers, label_layer

ARCHITECTURES = ("bert", "roberta", "electra", "deberta_v2", "distilbert", "modernbert", "llama", "qwen3", "gpt2")
FUSED = {"modernbert", "gpt2"}
GATED = {"modernbert", "llama", "qwen3"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_are_named_as_in_the_module_tree(tiny_model, architecture):
    model = tiny_model(architecture, labels=3)
    found = ModelMap.of(model)
    modules = dict(model.named_modules())
    assert len(found.blocks) == 3 and modules[found.blocks_name] is found.blocks
    for index in range(3):
        attention, mlp = found.attention[index], found.mlp[index]
        assert set(attention) == (
            {"query_key_value", "output"} if architecture in FUSED else {"query", "key", "value", "output"}
        )
        gate = {"gate_up"} if architecture == "modernbert" else {"gate", "up"} if architecture in GATED else {"up"}
        assert set(mlp) == {"down"} | gate
        names = [*attention.values(), *mlp.values()]
        assert len(set(names)) == len(names)
        assert all(modules[name].weight.ndim == 2 and name.startswith(f"{found.blocks_name}.{index}.") for name in names)
    # Every matrix of a block has been given a role: nothing was overlooked.
    matrices = {n for n, p in found.blocks[0].named_parameters() if p.ndim == 2}
    named = {*found.attention[0].values(), *found.mlp[0].values()}
    assert {f"{found.blocks_name}.0.{name}".removesuffix(".weight") for name in matrices} == named


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_is_what_the_backbone_does_not_hold(tiny_model, architecture):
    model = tiny_model(architecture, labels=3)
    backbone = {id(parameter) for parameter in model.base_model.parameters()}
    expected = [name for name, parameter in model.named_parameters() if id(parameter) not in backbone]
    assert [name for name, _ in head_parameters(model)] == expected == list(ModelMap.of(model).head)
    name, layer = label_layer(model, 3)
    assert layer.out_features == 3 and f"{name}.weight" in expected


def test_embeddings_include_word_and_position_tables(tiny_model):
    assert set(ModelMap.of(tiny_model("gpt2")).embeddings) == {"transformer.wte", "transformer.wpe"}
    assert "bert.embeddings.position_embeddings" in ModelMap.of(tiny_model("bert")).embeddings


def test_block_of_a_parameter(tiny_model):
    found = ModelMap.of(tiny_model("bert"))
    assert found.block_of("bert.encoder.layer.2.output.dense.weight") == 2
    assert found.block_of("classifier.weight") is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("keep", [1, 2])
def test_cut_model_gives_the_same_logits_after_save_and_load(tiny_model, tmp_path, architecture, keep):
    from transformers import AutoModelForSequenceClassification

    whole, model = tiny_model(architecture, labels=3), tiny_model(architecture, labels=3)
    keep_first_layers(model, keep)
    assert len(ModelMap.of(model).blocks) == keep
    inputs = {
        "input_ids": torch.tensor([[2, 9, 11, 14, 3], [2, 30, 7, 3, 4]]),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
    }
    with torch.no_grad():
        logits = model(**inputs).logits
        model.save_pretrained(tmp_path)
        loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        torch.testing.assert_close(loaded(**inputs).logits, logits, rtol=0, atol=0)
        assert not torch.equal(whole(**inputs).logits, logits)


def test_first_layers_are_the_ones_kept(tiny_model):
    whole, cut = tiny_model("bert"), tiny_model("bert")
    keep_first_layers(cut, 2)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in cut.state_dict().items())
    assert {name for name in state if name not in cut.state_dict()} == {
        n for n in state if n.startswith("bert.encoder.layer.2.")
    }


def test_layer_types_are_cut_with_the_layers(tiny_model):
    model = tiny_model("modernbert")
    types = list(model.config.layer_types)
    keep_first_layers(model, 2)
    assert model.config.layer_types == types[:2] and model.model.config.layer_types == types[:2]


def test_deberta_keeps_its_relative_embeddings_and_convolution(tiny_model):
    model = tiny_model("deberta_v2")
    keep_first_layers(model, 1)
    assert {"rel_embeddings", "conv", "LayerNorm"} <= {name for name, _ in model.deberta.encoder.named_children()}


@pytest.mark.parametrize("keep", [0, 4])
def test_more_layers_than_there_are_is_refused_with_the_count(tiny_model, keep):
    with pytest.raises(UserError, match=f"keep_layers is {keep}.* has 3 layers"):
        keep_first_layers(tiny_model("bert"), keep)


def test_unknown_structures_are_refused():
    with pytest.raises(UserError, match="structure of Sequential is unknown"):
        ModelMap.of(nn.Sequential(nn.Linear(2, 2)))

    class Odd(nn.Module):
        base_model_prefix = "body"

        def __init__(self):
            super().__init__()
            self.body = nn.Module()
            self.body.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(2)])

    with pytest.raises(UserError, match="cannot be told from the names 0"):
        ModelMap.of(Odd())
    with pytest.raises(UserError, match="config does not say"):
        keep_first_layers(Odd(), 1)


def test_encoder_decoders_are_refused():
    from transformers import BartConfig, BartForSequenceClassification

    config = BartConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
        encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=8,
    )  # fmt: skip
    with pytest.raises(UserError, match="an encoder and a decoder"):
        ModelMap.of(BartForSequenceClassification(config))
