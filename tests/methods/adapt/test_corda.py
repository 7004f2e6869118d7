"""CorDA takes the components of W C out of W, the largest or the smallest; C is that of the inputs each layer really gets."""

from __future__ import annotations

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt import corda
from ftft.methods.adapt.corda import CorDA, covariances, factors
from ftft.methods.peft_layers import WRAPPED, projections
from ftft.modelmap import ModelMap

INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
RANK, SCALING = 3, 0.5


def weight_and_covariance(m, n, examples=5):
    """A covariance of fewer examples than inputs, so that damping matters."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(examples, n, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, n, dtype=torch.float64)
    return torch.randn(m, n, generator=generator, dtype=torch.float64), inputs.T @ inputs


def damped(covariance):
    return covariance + 0.01 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


@pytest.mark.parametrize(("m", "n"), [(24, 16), (16, 24), (16, 16)])
def test_the_largest_components_approximate_best_on_the_inputs(m, n):
    weight, covariance = weight_and_covariance(m, n)
    values = torch.linalg.svdvals(weight @ damped(covariance))
    down, up = factors(weight, covariance, RANK, SCALING, largest=True)
    assert down.shape == (RANK, n) and up.shape == (m, RANK)
    left_over = (weight - SCALING * up @ down) @ damped(covariance)
    torch.testing.assert_close(left_over.square().sum(), values[RANK:].square().sum(), rtol=1e-10, atol=0)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    of_weight = u[:, :RANK] * s[:RANK] @ v[:RANK]
    assert left_over.norm() < 0.9 * ((weight - of_weight) @ damped(covariance)).norm()
    # B carries the square root of the values, over the scale
    torch.testing.assert_close(up.T @ up, torch.diag(values[:RANK] / SCALING), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("m", "n"), [(24, 16), (16, 24)])
def test_the_smallest_components_say_least_on_the_inputs(m, n):
    weight, covariance = weight_and_covariance(m, n)
    values = torch.linalg.svdvals(weight @ damped(covariance))
    down, up = factors(weight, covariance, RANK, SCALING, largest=False)
    said = SCALING * up @ down @ damped(covariance)
    torch.testing.assert_close(said.square().sum(), values[-RANK:].square().sum(), rtol=1e-8, atol=0)


def test_with_inputs_alike_in_all_directions_it_is_the_decomposition_of_the_weight():
    weight, _ = weight_and_covariance(24, 16)
    down, up = factors(weight, torch.eye(16, dtype=torch.float64), RANK, SCALING, largest=True)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(SCALING * up @ down, u[:, :RANK] * s[:RANK] @ v[:RANK], rtol=0, atol=1e-12)


def test_with_inputs_alike_in_all_directions_it_is_pefts_pissa():
    """Product and frozen weight; how the product is dealt out to A and B differs by the damping, 1.01 where C is I."""
    from peft import LoraConfig, get_peft_model

    layer = torch.nn.Linear(16, 24)
    u, _, v = torch.linalg.svd(weight_and_covariance(24, 16)[0], full_matrices=False)
    layer.weight.data = (u * 0.8 ** torch.arange(16) @ v).float()  # values far apart, so that float32 tells them
    weight = layer.weight.detach().double().clone()
    config = LoraConfig(r=RANK, lora_alpha=SCALING * RANK, target_modules=["0"], init_lora_weights="pissa")
    theirs = get_peft_model(torch.nn.Sequential(layer), config).base_model.model[0]
    their_down, their_up = (factor["default"].weight.detach().double() for factor in (theirs.lora_A, theirs.lora_B))
    down, up = factors(weight, torch.eye(16, dtype=torch.float64), RANK, SCALING, largest=True)
    torch.testing.assert_close(SCALING * up @ down, SCALING * their_up @ their_down, rtol=0, atol=1e-5)
    torch.testing.assert_close(weight - SCALING * up @ down, theirs.base_layer.weight.detach().double(), rtol=0, atol=1e-5)
    signs = (up * their_up).sum(0).sign()
    torch.testing.assert_close(up * signs / 1.01**0.5, their_up, rtol=0, atol=1e-5)
    torch.testing.assert_close(down * signs[:, None] * 1.01**0.5, their_down, rtol=0, atol=1e-5)


def test_what_is_added_to_the_covariance_is_doubled_until_it_can_be_inverted(monkeypatch):
    _, covariance = weight_and_covariance(24, 16)
    mean, exact, asked = covariance.diagonal().mean(), torch.linalg.inv, []

    def bad_twice(matrix):
        asked.append(((matrix - covariance).diagonal().mean() / mean).item())
        return exact(matrix) * (1.02 if len(asked) < 3 else 1.01)  # 16 times 0.02 and 0.01 off on the diagonal: 0.08 and 0.04

    monkeypatch.setattr(torch.linalg, "inv", bad_twice)
    found, inverse = corda._damped(covariance)
    assert asked == pytest.approx([0.01, 0.02, 0.04])
    torch.testing.assert_close(found, covariance + 0.04 * mean * torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(inverse, exact(found) * 1.01)


def test_peft_finds_the_same_components_where_its_divisor_is_the_largest_magnitude():
    from peft import LoraConfig
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    torch.manual_seed(3)
    layer = torch.nn.Sequential(torch.nn.Linear(12, 20))
    texts = [torch.rand(1, 9, 12) for _ in range(6)]
    config = LoraConfig(r=RANK, target_modules=["0"], init_lora_weights="corda", corda_config=CordaConfig(corda_method="ipm"))
    preprocess_corda(layer, config, run_model=lambda: [layer(text) for text in texts])
    rows = [text[0].double() / text.max().double() for text in texts]
    covariance = sum(row.T @ row for row in rows) / len(rows)
    down, up = factors(layer[0].weight.detach().double(), covariance, RANK, 1.0, largest=True)
    theirs = layer[0].eigens
    product = (theirs.U_WC * theirs.S_WC) @ theirs.V_WC.T
    torch.testing.assert_close(up @ down, product.double(), rtol=0, atol=1e-4)


def by_hand(model, calibration, name, examples):
    """One example at a time, cut to its tokens."""
    total, seen = 0, []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    for batch in calibration.batches(examples, 1):
        length = int(batch.inputs["attention_mask"].sum())
        with torch.no_grad():
            model(**{key: value[:, :length] for key, value in batch.inputs.items()})
        rows = seen.pop()
        total = total + (rows / rows.abs().max()).T @ (rows / rows.abs().max())
    handle.remove()
    return total / examples


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("size", [1, 8])
def test_the_covariance_is_that_of_the_tokens_of_each_example(tiny_model, calibration, size, positive):
    model = tiny_model("bert").double()
    names = [ModelMap.of(model).attention[1]["query"], ModelMap.of(model).mlp[2]["down"]]
    if not positive:  # the largest of these inputs is 0, by which peft would divide
        for name in names:
            model.get_submodule(name).register_forward_pre_hook(lambda _, given: (-given[0].relu(),))
    model.train()
    seen = covariances(model, names, calibration(), 16, size)
    assert model.training and sum(len(module._forward_pre_hooks) for module in model.modules()) == (0 if positive else 2)
    model.eval()
    for name in names:
        torch.testing.assert_close(seen[name], by_hand(model, calibration(), name, 16), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gpt2"])
def test_the_frozen_weight_and_the_product_make_the_weight(tiny_model, calibration, architecture, mode):
    model = tiny_model(architecture).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said, names = model(**INPUTS).logits, projections(model)
    adapted = CorDA(mode=mode, rank=RANK, alpha=SCALING * RANK, examples=20).adapt(model, calibration())
    torch.testing.assert_close(adapted.model.eval()(**INPUTS).logits, said, rtol=0, atol=1e-10)
    assert len(adapted.pairs) == len(names)
    state = adapted.model.state_dict()
    for pair in adapted.pairs:
        name = pair.weight.removeprefix(WRAPPED).replace(".base_layer", "")
        product = pair.scaling * (pair.up @ pair.down).detach()
        product = product.T if architecture == "gpt2" else product
        torch.testing.assert_close(state[pair.weight] + product, before[name], rtol=0, atol=1e-12)
        assert pair.scaling == SCALING and not torch.allclose(state[pair.weight], before[name], rtol=0, atol=1e-6)
    merged = adapted.merged()
    assert merged.keys() == before.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision_the_covariance_is_in_float32_and_the_weight_stays_to_its_rounding(tiny_model, calibration, dtype):
    model = tiny_model("bert").to(dtype)
    names = projections(model)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    assert all(one.dtype == torch.float32 for one in covariances(model, names, calibration(), 16, 8).values())
    said = model(**INPUTS).logits
    adapted = CorDA(rank=RANK, examples=16).adapt(model, calibration())
    for pair in adapted.pairs:
        frozen, name = adapted.model.get_parameter(pair.weight), pair.weight.removeprefix(WRAPPED)
        assert pair.down.dtype == frozen.dtype == dtype
        product = pair.scaling * (pair.up.detach().float() @ pair.down.detach().float())
        # what is taken out is the product of the factors as they are rounded, and rounded once
        assert torch.equal(frozen, (before[name.removesuffix(".base_layer.weight")].float() - product).to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(adapted.model.eval()(**INPUTS).logits, said, rtol=0, atol=tolerance)


def test_every_layer_gets_the_factors_of_its_own_inputs(tiny_model, calibration):
    model = tiny_model("bert").double()
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in projections(model, ["down", "key"])}
    seen = covariances(model, list(weights), calibration(), 24, 8)
    for mode in ("ipm", "kpm"):
        method = CorDA(mode=mode, rank=RANK, examples=24, batch_size=8, targets=["down", "key"])
        pairs = method.adapt(tiny_model("bert").double(), calibration()).pairs
        assert len(pairs) == 6
        for pair in pairs:
            name = pair.weight.removeprefix(WRAPPED).removesuffix(".base_layer.weight")
            down, up = factors(weights[name], seen[name], RANK, pair.scaling, largest=mode == "ipm")
            torch.testing.assert_close(pair.up @ pair.down, up @ down, rtol=0, atol=1e-9)


def test_what_cannot_be_is_refused_in_one_sentence(tiny_model, calibration):
    with pytest.raises(UserError, match=r"adapt.rank is 17, but the narrower side of .*query is 16 wide; give at most 16"):
        CorDA(rank=17).adapt(tiny_model("bert"), calibration())
    dead = tiny_model("bert")
    torch.nn.init.zeros_(dead.bert.embeddings.LayerNorm.weight)
    with pytest.raises(UserError, match=r"CorDA cannot use .*layer.0.*query, whose inputs .* are missing, all zero"):
        CorDA().adapt(dead, calibration())
    broken = tiny_model("bert")
    torch.nn.init.constant_(broken.bert.embeddings.LayerNorm.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        CorDA().adapt(broken, calibration())
