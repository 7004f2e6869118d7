"""LoRA-GA begins where the first step of its factors is the best step of rank 2r that the mean gradient allows."""

from __future__ import annotations

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.lora_ga import LoRAGA, directions, mean_gradients, truncated_svd
from ftft.methods.peft_layers import WRAPPED, projections

INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
RANK, COUNT, SIZE = 4, 3, 8  # 4 r is the width of the tiny models: the truncated decomposition is exact
BRIEF = {"rank": RANK, "examples": COUNT * SIZE, "batch_size": SIZE}


def plain_name(pair):
    return pair.weight.removeprefix(WRAPPED).removesuffix(".base_layer.weight")


def by_hand(model, calibration, names):
    """The mean gradient in evaluation mode, with nothing of the method's own."""
    model.eval()
    weights = [model.get_submodule(name).weight for name in names]
    total = [torch.zeros_like(weight) for weight in weights]
    for batch in calibration.batches(COUNT, SIZE):
        for one, gradient in zip(total, torch.autograd.grad(calibration.loss(model, batch), weights), strict=True):
            one += gradient / COUNT
    return dict(zip(names, total, strict=True))


def best(gradient, rank):
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def first_step(gradient, down, up):
    """What a first step makes of the weight, over -rate s^2."""
    return gradient @ down.T @ down + up @ up.T @ gradient


@pytest.mark.parametrize("direction", ["ArB2r", "A2rBr", "ArBr", "random"])
def test_the_first_step_is_the_best_of_its_rank(tiny_model, calibration, direction):
    model = tiny_model("bert").double()
    gradients = by_hand(model, calibration(), projections(model))
    adapted = LoRAGA(**BRIEF, direction=direction, gamma=9.0).adapt(tiny_model("bert").double(), calibration())
    assert len(adapted.pairs) == len(gradients) == 18
    for pair in adapted.pairs:
        gradient = gradients[plain_name(pair)]
        expected = len(gradient) ** 0.5 / 9.0 * best(gradient, 2 * RANK)
        error = (first_step(gradient, pair.down, pair.up) - expected).norm() / expected.norm()
        assert error < 1e-8, (pair.weight, error)


def test_a_and_b_get_the_directions_they_are_named_for():
    gradient = torch.diag(torch.arange(16.0, 0.0, -1.0, dtype=torch.float64))
    leads = {"ArB2r": ([0, 1], [2, 3]), "A2rBr": ([2, 3], [0, 1]), "ArBr": ([1, 3], [0, 2]), "random": ([3, 0], [2, 1])}
    for direction, (for_down, for_up) in leads.items():
        down, up = directions(gradient, 2, direction, torch.tensor([3, 0, 2, 1]))
        assert down.abs().argmax(1).tolist() == for_down and up.abs().argmax(0).tolist() == for_up


def test_pefts_own_is_no_multiple_of_the_best_step(tiny_model, calibration):
    from peft import LoraConfig, LoraGAConfig, get_peft_model
    from peft.tuners.lora.loraga import preprocess_loraga

    model, given = tiny_model("bert").double(), calibration()
    names = projections(model)
    gradients = by_hand(model, given, names)
    config = LoraConfig(r=RANK, target_modules=names, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())
    preprocess_loraga(model, config, lambda: [given.loss(model, batch).backward() for batch in given.batches(COUNT, SIZE)])
    layers = get_peft_model(model, config).base_model.model
    for name, gradient in gradients.items():
        layer = layers.get_submodule(name)
        down, up = (factor["default"].weight.detach().double() for factor in (layer.lora_A, layer.lora_B))
        step, wanted = first_step(gradient, down, up), best(gradient, 2 * RANK)
        nearest = (step * wanted).sum() / wanted.square().sum() * wanted
        assert (step - nearest).norm() > 0.1 * step.norm(), name


def test_a_real_first_step_of_gradient_descent_goes_there(tiny_model, calibration):
    model = tiny_model("bert").double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = by_hand(model, calibration(), projections(model))
    given = calibration()
    adapted = LoRAGA(**BRIEF).adapt(tiny_model("bert").double(), given)
    for batch in given.batches(COUNT, SIZE):
        (given.loss(adapted.model.eval(), batch) / COUNT).backward()
    rate = 1e-6
    with torch.no_grad():
        for pair in adapted.pairs:
            pair.down.sub_(rate * pair.down.grad)
            pair.up.sub_(rate * pair.up.grad)
    merged = adapted.merged()
    for pair in adapted.pairs:
        name = plain_name(pair)
        assert pair.scaling == 16.0 / RANK**0.5
        moved = (merged[f"{name}.weight"] - before[f"{name}.weight"]) / (-rate * pair.scaling**2)
        expected = len(moved) ** 0.5 / 16.0 * best(gradients[name], 2 * RANK)
        assert (moved - expected).norm() < 1e-3 * expected.norm(), name


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gpt2"])
def test_it_begins_as_the_model_was_and_merges_into_its_architecture(tiny_model, calibration, architecture):
    model = tiny_model(architecture).double()
    model.config.pad_token_id = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = model(**INPUTS).logits
    adapted = LoRAGA(**BRIEF).adapt(model, calibration())
    torch.testing.assert_close(adapted.model.eval()(**INPUTS).logits, said, rtol=0, atol=1e-10)
    begun = [(pair.up.detach().clone(), pair.down.detach().clone()) for pair in adapted.pairs]
    with torch.no_grad():
        for pair in adapted.pairs:
            pair.up.mul_(1.1)
            pair.down.add_(0.01)
    said = adapted.model(**INPUTS).logits
    merged = adapted.merged()
    for pair, (up, down) in zip(adapted.pairs, begun, strict=True):
        # the whole change as one adapter of rank 2r on the weights as they were
        wide, tall = torch.cat([pair.up, -up], dim=1), torch.cat([pair.down, down])
        change = pair.scaling * (wide @ tall).detach()
        name = f"{plain_name(pair)}.weight"
        torch.testing.assert_close(
            merged[name], before[name] + (change.T if architecture == "gpt2" else change), rtol=0, atol=1e-11
        )
    plain = tiny_model(architecture).double()
    plain.config.pad_token_id = 0
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(**INPUTS).logits, said, rtol=0, atol=1e-10)


def test_in_bfloat16_what_is_taken_out_is_the_product_of_the_rounded_factors(tiny_model, calibration):
    model = tiny_model("bert").bfloat16()
    before = {name: model.get_submodule(name).weight.detach().float() for name in projections(model)}
    adapted = LoRAGA(**BRIEF).adapt(model, calibration())
    for pair in adapted.pairs:
        frozen = adapted.model.get_parameter(pair.weight)
        assert pair.down.dtype == pair.up.dtype == frozen.dtype == torch.bfloat16
        product = pair.scaling * (pair.up.detach().float() @ pair.down.detach().float())
        assert torch.equal(frozen, (before[plain_name(pair)] - product).bfloat16())


@pytest.mark.parametrize("scale", ["unit", "gd_scale", "weight_svd"])
def test_the_other_scales(tiny_model, calibration, scale):
    model = tiny_model("bert").double()
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in projections(model)}
    adapted = LoRAGA(**BRIEF, scale=scale, rank_stabilised=False, alpha=6.0).adapt(model, calibration())
    for pair in adapted.pairs:
        values = torch.linalg.svdvals(weights[plain_name(pair)])[:RANK]
        length = {"unit": 1.0, "gd_scale": 1 / 1.5, "weight_svd": float((values / 1.5).sqrt().mean())}[scale]
        unit = length**2 * torch.eye(RANK, dtype=torch.float64)
        torch.testing.assert_close(pair.down @ pair.down.T, unit, rtol=0, atol=1e-10)
        torch.testing.assert_close(pair.up.T @ pair.up, unit, rtol=0, atol=1e-10)
        assert pair.scaling == 1.5


def test_gradients_leave_layer_by_layer_and_nothing_else_changes(tiny_model, calibration):
    model, given = tiny_model("bert", hidden_dropout_prob=0.3).double(), calibration()
    names = projections(model)
    expected = by_hand(model, calibration(), names)
    model.bert.embeddings.requires_grad_(False)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    made, original = [], given.batches

    def batches(count, size):
        for batch in original(count, size):
            made.append(sum(parameter.grad is not None for parameter in model.parameters()))
            yield batch
        made.append(sum(parameter.grad is not None for parameter in model.parameters()))

    given.batches = batches
    model.train()
    state = torch.get_rng_state()
    gradients = mean_gradients(model, names, given, COUNT, SIZE)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert made == [0] * (COUNT + 1) and [parameter.requires_grad for parameter in model.parameters()] == trained
    assert not any(weight._post_accumulate_grad_hooks for weight in model.parameters())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)


def test_the_decomposition_has_a_seed_of_its_own(tiny_model, calibration):
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = truncated_svd(matrix, 8)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(mine, other) for mine, other in zip(one, truncated_svd(matrix, 8), strict=True))
    method, factors = LoRAGA(**{**BRIEF, "rank": 2}, direction="random"), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pairs = method.adapt(tiny_model("bert"), calibration()).pairs
        factors.append([factor for pair in pairs for factor in (pair.down, pair.up)])
    assert all(torch.equal(one, other) for one, other in zip(*factors, strict=True))


def test_what_cannot_be_is_refused_in_one_sentence(tiny_model, calibration):
    with pytest.raises(UserError, match=r"adapt.rank is 9, .*query is 16 wide; give at most 1/2 of that, 8"):
        LoRAGA(rank=9).adapt(tiny_model("bert"), calibration())
    broken = tiny_model("bert")
    torch.nn.init.constant_(broken.classifier.weight, float("nan"))
    with pytest.raises(UserError, match="LoRA-GA cannot use .*, whose gradient .* is missing or not finite"):
        LoRAGA(**BRIEF).adapt(broken, calibration())
    given = calibration()
    given.loss = lambda model, batch: model.bert.encoder.layer[0].attention.self.query.weight.sum()
    with pytest.raises(UserError, match="LoRA-GA cannot use .*layer.0.*key, whose gradient"):
        LoRAGA(**BRIEF).adapt(tiny_model("bert"), given)
