"""S2FT trains whole heads and channels, drawn from all layers together, and leaves the rest of every matrix as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftft.errors import UserError
from ftft.methods.adapt.s2ft import S2FT, draw
from ftft.methods.contract import Trainables
from ftft.methods.optimize.adamw import AdamW
from ftft.modelmap import ModelMap
from ftft.nn.slices import InputSlices, OutputSlices, lora_factors, sliced_layers

GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}  # two query heads to a key-value head
ALL = S2FT(value=0.5, output=0.5, up=0.2, down=0.2, seed=3)
MODELS = pytest.mark.parametrize(
    ("architecture", "config"),
    [("bert", {}), ("distilbert", {}), ("deberta_v2", {}), ("llama", {}), ("llama", GROUPED), ("qwen3", GROUPED)],
    ids=lambda value: value if isinstance(value, str) else f"kv{value.get('num_key_value_heads', '')}",
)
IDS = torch.tensor([[2, 9, 11, 14, 3], [2, 30, 12, 8, 3]])


def train(model, steps=3):
    optimizer = AdamW(learning_rate=0.05, weight_decay=0.1).start(Trainables.of(model))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(input_ids=IDS).logits, torch.tensor([0, 1])).backward()
        optimizer.step()
    return optimizer


@MODELS
def test_nothing_is_changed_until_it_trains(tiny_model, architecture, config):
    expected = tiny_model(architecture, **config).double()(input_ids=IDS).logits
    model = ALL.adapt(tiny_model(architecture, **config).double(), None).model
    where = ModelMap.of(tiny_model(architecture, **config))
    roles = {name: role for block in (*where.attention, *where.mlp) for role, name in block.items()}
    found = {roles[name]: type(layer) for name, layer in sliced_layers(model).items()}
    assert found == {"value": OutputSlices, "output": InputSlices, "up": OutputSlices, "down": InputSlices}
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0, atol=1e-12)


@MODELS
def test_after_training_only_the_chosen_rows_and_columns_differ(tiny_model, architecture, config):
    start = tiny_model(architecture, **config).double().state_dict()
    adapted = ALL.adapt(tiny_model(architecture, **config).double(), None)
    optimizer = train(adapted.model)
    merged = adapted.merged()
    assert merged.keys() == start.keys()
    layers = sliced_layers(adapted.model)
    for name, before in start.items():
        moved = merged[name] != before  # bit for bit
        layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        allowed = torch.zeros_like(moved)
        if isinstance(layer, InputSlices):
            allowed[:, layer.indices] = True
        elif isinstance(layer, OutputSlices):
            allowed[layer.indices] = True
        else:
            allowed[...] = name in dict(adapted.model.named_parameters()) and adapted.model.get_parameter(name).requires_grad
        assert not bool((moved & ~allowed).any()), name
        assert bool(moved.any()) == bool(allowed.any()), name
    kept = sum(state["exp_avg"].numel() for state in optimizer.state.values())
    assert kept == sum(p.numel() for p in adapted.model.parameters() if p.requires_grad)


@MODELS
def test_the_lora_export_and_the_merged_model_agree(tiny_model, architecture, config):
    adapted = ALL.adapt(tiny_model(architecture, **config).double(), None)
    train(adapted.model)
    plain = tiny_model(architecture, **config).double()
    plain.load_state_dict(adapted.merged())
    expected = adapted.model(input_ids=IDS).logits
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, rtol=0, atol=1e-12)
    base = tiny_model(architecture, **config).double()
    base.load_state_dict({**adapted.merged(), **{f"{n}.weight": one.weight for n, one in sliced_layers(adapted.model).items()}})
    assert not torch.allclose(base(input_ids=IDS).logits, expected, rtol=0, atol=1e-6)
    for name, (up, down) in lora_factors(adapted.model).items():  # beside the frozen layer, as a LoRA runs
        base.get_submodule(name).register_forward_hook(lambda _, x, y, a=down, b=up: y + x[0] @ a.T @ b.T)
    torch.testing.assert_close(base(input_ids=IDS).logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("architecture", "config"), [("llama", {}), ("llama", GROUPED), ("bert", {})])
def test_value_rows_and_output_columns_are_whole_groups_of_heads(tiny_model, architecture, config):
    model = tiny_model(architecture, **config)
    value, output = ("attention.self.value", "attention.output.dense") if architecture == "bert" else ("v_proj", "o_proj")
    # In the model itself: without the value rows of one key-value head the same inputs of the output projection go silent.
    seen, groups = [], []
    plain = tiny_model(architecture, **config)
    name = next(name for name, _ in plain.named_modules() if name.endswith(output))
    plain.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    layer = plain.get_submodule(name.removesuffix(output) + value)
    heads = config.get("num_key_value_heads", 1 if architecture == "llama" else 2)
    width = layer.out_features // heads
    plain(input_ids=IDS)
    for head in range(heads):
        kept = layer.weight.data.clone()
        layer.weight.data[head * width : (head + 1) * width] = 0
        plain(input_ids=IDS)
        layer.weight.data = kept
        groups.append(set((seen[-1] != seen[0]).any(0).any(0).nonzero().flatten().tolist()))
    assert sum(map(len, groups)) == 16

    S2FT(value=0.5, output=0.5, down=0.0, seed=1).adapt(model, None)
    drawn = sliced_layers(model)
    for name, one in drawn.items():
        wholes = groups if name.endswith(output) else [set(range(i * width, (i + 1) * width)) for i in range(heads)]
        chosen = set(one.indices.tolist())
        assert chosen and all(whole <= chosen or not whole & chosen for whole in wholes), name
    count = sum(len(one.indices) for name, one in drawn.items() if name.endswith(output))
    assert count == round(0.5 * 3 * heads) * 16 // heads
    assert sum(len(one.indices) for name, one in drawn.items() if name.endswith(value)) == round(0.5 * 3 * heads) * width


def test_the_defaults_train_a_head_and_some_channels_of_a_small_model_and_the_models_head(tiny_model):
    model = S2FT().adapt(tiny_model("bert"), None).model
    sizes = {name: len(one.indices) for name, one in sliced_layers(model).items()}
    outputs = [size for name, size in sizes.items() if "attention" in name]
    assert outputs == [8] and sum(sizes.values()) - 8 == 2  # one head of 6; 2 of 96 channels
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"{name}.slices" for name in sizes} | {"classifier.weight", "classifier.bias"}
    model = S2FT(train_head=False).adapt(tiny_model("bert"), None).model
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {f"{n}.slices" for n in sizes}


def test_channels_are_drawn_from_all_layers_together_without_favour():
    sizes, counts = (3, 5, 2), torch.zeros(10)
    uneven = False
    for seed in range(2000):
        parts = draw(sizes, 0.4, torch.Generator().manual_seed(seed))
        assert sum(map(len, parts)) == 4 and all(part.tolist() == sorted(set(part.tolist())) for part in parts)
        uneven |= len(parts[1]) == 4
        for start, size, part in zip((0, 3, 8), sizes, parts):
            assert bool((part < size).all())
            counts[start + part] += 1
    assert uneven and bool(((counts / 2000 - 0.4).abs() < 0.05).all())
    assert [len(part) for part in draw(sizes, 1.0, torch.Generator())] == [3, 5, 2]
    assert sum(map(len, draw(sizes, 0.0, torch.Generator()))) == 0 and sum(map(len, draw(sizes, 0.001, torch.Generator()))) == 1


def test_the_choice_hangs_on_the_seed_and_not_on_the_other_shares(tiny_model):
    def chosen(**settings):
        layers = sliced_layers(S2FT(**settings).adapt(tiny_model("bert"), None).model)
        return {name: one.indices.tolist() for name, one in layers.items()}

    down = chosen(output=0.0, down=0.3)
    both = chosen(output=0.3, up=0.3, down=0.3)
    assert down == chosen(output=0.0, down=0.3) == {name: both[name] for name in down}
    assert down != chosen(output=0.0, down=0.3, seed=1)
    alike = 0
    for seed in range(8):  # three heads of six each: the two draws are not one
        layers = chosen(value=0.5, output=0.5, down=0.0, seed=seed)
        blocks = [{name.split("layer.")[1][0]: at for name, at in layers.items() if end in name} for end in ("value", "output")]
        alike += blocks[0] == blocks[1]
    assert alike < 4


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("bert", {"output": 0.0, "down": 0.0}, "nothing to train: value, output, up and down are all 0"),
        ("modernbert", {"value": 0.1}, "cannot train `value` of ModernBert.*attn.Wqkv holds it together.*set value: 0"),
        ("modernbert", {"up": 0.1}, "cannot train `up` of ModernBert.*mlp.Wi holds it together.*set up: 0"),
        ("gpt2", {}, "needs Linear layers, and .*c_proj of GPT2.* is a Conv1D"),
    ],
)
def test_what_it_cannot_train_is_refused_and_nothing_changes(tiny_model, architecture, settings, message):
    model = tiny_model(architecture)
    with pytest.raises(UserError, match=message):
        S2FT(**settings).adapt(model, None)
    assert all(parameter.requires_grad for parameter in model.parameters()) and not sliced_layers(model)


def test_heads_that_do_not_fit_the_config_are_refused(tiny_model):
    model = tiny_model("bert")
    model.config.num_attention_heads = 3
    with pytest.raises(UserError, match="cannot tell the heads of BertFor.*num_attention_heads 3.*16 channels"):
        S2FT().adapt(model, None)
    assert sliced_layers(S2FT(output=0.0).adapt(model, None).model)


def test_each_of_two_towers_has_heads_of_its_own(tiny_config):
    from transformers import CLIPModel

    config = tiny_config("clip")
    config.text_config.num_attention_heads, config.vision_config.num_attention_heads = 8, 2  # heads of 2 and of 8 channels
    adapted = S2FT(value=0.5, output=0.5, up=0.0, down=0.0).adapt(CLIPModel(config), None)
    sizes = set()
    for name, layer in sliced_layers(adapted.model).items():
        width = 2 if name.startswith("text_model") else 8
        chosen = layer.indices.view(-1, width)
        assert torch.equal(chosen, chosen[:, :1] // width * width + torch.arange(width)), name
        sizes.add((width, len(layer.indices)))
    assert {width for width, _ in sizes} == {2, 8} and any(count % 8 for _, count in sizes)


def test_fused_projections_do_not_stand_in_the_way_of_the_others(tiny_model):
    expected = tiny_model("modernbert").double()(input_ids=IDS).logits
    model = S2FT(output=0.3).adapt(tiny_model("modernbert").double(), None).model
    assert {name.split(".")[-2] for name in sliced_layers(model)} == {"attn", "mlp"}
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0, atol=1e-12)
