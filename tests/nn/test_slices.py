"""Sliced layers train whole channels, keep only what that needs for the backward pass, and are LoRA with a selector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftft.nn.slices import InputSlices, OutputSlices, lora_factors, plain_state, put_in_place

CHOSEN = torch.tensor([4, 1])
KINDS = pytest.mark.parametrize("kind", [InputSlices, OutputSlices])
BIAS = pytest.mark.parametrize("bias", [True, False])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(bias=True):
    layer = nn.Linear(6, 5, bias=bias).double()
    layer.weight.data = random(5, 6)
    if bias:
        layer.bias.data = random(5, seed=1)
    return layer


def learned(kind, bias=True):
    layer = kind(linear(bias), CHOSEN)
    layer.slices.data = random(*layer.slices.shape, seed=2)
    return layer


def chosen_part(kind, matrix):
    return matrix[:, CHOSEN] if kind is InputSlices else matrix[CHOSEN]


@KINDS
@BIAS
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_it_begins_as_the_layer_and_becomes_the_layer_with_the_slices_added(kind, bias, shape):
    x, plain = random(*shape, seed=3), linear(bias)
    assert torch.equal(kind(linear(bias), CHOSEN)(x), plain(x))
    layer = learned(kind, bias)
    for place, channel in enumerate(CHOSEN.tolist()):
        if kind is InputSlices:
            plain.weight.data[:, channel] += layer.slices.data[:, place]
        else:
            plain.weight.data[channel] += layer.slices.data[place]
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-14)
    assert torch.equal(layer.merged_weight(), plain.weight.data)


@KINDS
def test_gradients_are_those_of_the_dense_layers_chosen_part(kind):
    layer, dense = learned(kind), linear()
    dense.weight.data = layer.merged_weight()
    x, same = random(2, 3, 6, seed=3).requires_grad_(), random(2, 3, 6, seed=3).requires_grad_()
    (layer(x) ** 3).sum().backward()
    (dense(same) ** 3).sum().backward()
    torch.testing.assert_close(layer.slices.grad, chosen_part(kind, dense.weight.grad), rtol=0, atol=1e-10)
    torch.testing.assert_close(x.grad, same.grad, rtol=0, atol=1e-10)
    assert layer.weight.grad is None and layer.bias.grad is None


@KINDS
def test_first_and_second_derivatives(kind):
    layer = learned(kind)
    inputs = (random(2, 6, seed=3).requires_grad_(), layer.slices.detach().clone().requires_grad_())

    def said(x, slices):
        return torch.func.functional_call(layer, {"slices": slices}, (x,)) ** 2

    assert torch.autograd.gradcheck(said, inputs) and torch.autograd.gradgradcheck(said, inputs)


def kept_for_backward(layer, x):
    """How many numbers of activations the backward pass keeps: all but the layer's own tensors (and their views)."""
    own = {value.untyped_storage().data_ptr() for value in layer.state_dict().values()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x * 1.0)  # something before the layer has parameters, as in a model
    return sum(kept.values()), out


@pytest.mark.parametrize("autocast", [False, True])
def test_of_the_activations_only_the_chosen_channels_are_kept(autocast):
    batch, length = 4, 7
    x = random(batch, length, 6, seed=3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        # Under autocast W is kept once more, in bfloat16, by every layer that is frozen.
        weight = 5 * 6 + 5 * len(CHOSEN) if autocast else 0
        kept, out = kept_for_backward(InputSlices(linear().float(), CHOSEN), x)
        assert kept == batch * length * len(CHOSEN) + weight
        out.float().sum().backward()
        assert x.grad is not None and x.grad.dtype == torch.float32
        assert kept_for_backward(OutputSlices(linear().float(), CHOSEN), x)[0] >= batch * length * 6
        assert kept_for_backward(linear().float(), x)[0] >= batch * length * 6


@KINDS
def test_the_lora_factors_are_the_update_and_one_of_them_selects(kind):
    layer = learned(kind)
    up, down = layer.lora_factors()
    assert up.shape == (5, 2) and down.shape == (2, 6)
    assert torch.equal(layer.weight.detach() + up @ down, layer.merged_weight())
    selector = down if kind is InputSlices else up.T
    assert selector.sum() == 2 and bool((selector.sum(1) == 1).all()) and selector.argmax(1).tolist() == CHOSEN.tolist()


@KINDS
@BIAS
def test_in_a_model_it_keeps_the_names_and_merges_back(kind, bias):
    def network():
        model = nn.Sequential(nn.Sequential(linear(bias)), nn.Tanh(), nn.Linear(5, 2).double())
        model[2].weight.data, model[2].bias.data = random(2, 5, seed=5), random(2, seed=6)
        return model.eval()

    model, plain, x = network(), network(), random(3, 6, seed=7)
    before = torch.get_rng_state()
    put_in_place(model, "0.0", kind(model[0][0], CHOSEN))
    assert torch.equal(torch.get_rng_state(), before) and not model[0][0].training
    assert [name for name, parameter in model[0].named_parameters() if parameter.requires_grad] == ["0.slices"]
    model[0][0].slices.data = random(*model[0][0].slices.shape, seed=2)
    factors = lora_factors(model)
    assert set(factors) == {"0.0"} and torch.equal(factors["0.0"][0], model[0][0].lora_factors()[0])
    other = network()
    put_in_place(other, "0.0", kind(other[0][0], torch.tensor([0, 2])))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x)) and other[0][0].indices.tolist() == [4, 1]
    plain.load_state_dict(plain_state(model))
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-14)


@KINDS
@pytest.mark.parametrize("indices", [[], [1, 1], [-1, 2], [2, 9]])
def test_channels_that_are_not_there_are_refused(kind, indices):
    with pytest.raises(ValueError, match="different ones of [56] channels"):
        kind(linear(), torch.tensor(indices, dtype=torch.int64))
