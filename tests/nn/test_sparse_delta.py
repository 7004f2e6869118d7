"""A sparse difference trains the entries it names and no others, moves without changing the weight, and merges back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ftft.nn.sparse_delta import DeltaTensor, SparseDelta, low_rank_approximation, plain_state, top_entries


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    """An embedding, a linear layer and a norm, so that tensors of every kind are there."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3), nn.LayerNorm(3)).double()


IDS = torch.tensor([[1, 4, 4], [0, 6, 2]])


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "1.bias", "2.weight"])
def test_any_tensor_gets_exactly_the_gradient_of_its_named_entries(name):
    plain, model = network(), network()
    size = plain.get_parameter(name).numel()
    chosen = torch.tensor([size - 1, 0])  # in any order
    tensor = DeltaTensor.attach(model, name, chosen)
    assert torch.equal(model(IDS), plain(IDS))
    (plain(IDS) ** 3).sum().backward()
    (model(IDS) ** 3).sum().backward()
    expected = plain.get_parameter(name).grad.reshape(-1)[[0, size - 1]]
    torch.testing.assert_close(tensor.delta.values.grad, expected, rtol=0, atol=1e-12)
    assert tensor.original.grad is None and not tensor.original.requires_grad
    with torch.no_grad():
        tensor.delta.values += torch.tensor([1.0, 2.0], dtype=torch.float64)
        plain.get_parameter(name).reshape(-1)[[0, size - 1]] += torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=0, atol=1e-12)
    merged = plain_state(model, [tensor])
    assert set(merged) == set(plain.state_dict())
    plain.load_state_dict(merged)
    assert torch.equal(model(IDS), plain(IDS))


def test_its_state_goes_on_in_another_model():
    one, other = network(), network()
    first = DeltaTensor.attach(one, "1.weight", torch.tensor([2, 5, 9]))
    second = DeltaTensor.attach(other, "1.weight", torch.tensor([0, 1, 2]))
    with torch.no_grad():
        first.delta.values.copy_(torch.tensor([0.5, -1.0, 2.0]))
    first.move(torch.tensor([1, 5, 14]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(second.weight(), first.weight()) and second.delta.indices.tolist() == [1, 5, 14]
    assert torch.equal(copy.deepcopy(one)(IDS), one(IDS))


def test_moving_carries_values_and_moments_and_leaves_the_weight_bit_for_bit():
    model = network()
    tensor = DeltaTensor.attach(model, "1.weight", torch.tensor([1, 4, 8, 14]))
    optimizer = torch.optim.AdamW([tensor.delta.values, model[1].bias], lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(IDS) ** 3).sum().backward()
        optimizer.step()
    state = optimizer.state[tensor.delta.values]
    start = network()[1].weight.detach().reshape(-1)
    values, first, second = (x.detach().clone() for x in (tensor.delta.values, state["exp_avg"], state["exp_avg_sq"]))
    bias = copy.deepcopy(optimizer.state[model[1].bias])
    weight, step = tensor.weight(), state["step"].clone()
    assert bool((values != 0).all() and (first != 0).all())

    tensor.move(torch.tensor([14, 3, 4, 2]), optimizer)

    zeros = torch.zeros(2, dtype=torch.float64)
    assert tensor.delta.indices.tolist() == [2, 3, 4, 14]
    for now, before in ((tensor.delta.values, values), (state["exp_avg"], first), (state["exp_avg_sq"], second)):
        assert torch.equal(now.detach(), torch.cat([zeros, before[1:2], before[3:4]]))
    assert torch.equal(tensor.weight(), weight) and state["step"] == step == 3 and tensor.delta.values.grad is None
    folded = tensor.original.detach().reshape(-1) - start
    assert folded.nonzero().flatten().tolist() == [1, 8]
    assert all(torch.equal(optimizer.state[model[1].bias][key], value) for key, value in bias.items())


def test_moving_to_the_same_entries_changes_nothing_and_to_another_number_is_refused():
    model = network()
    tensor = DeltaTensor.attach(model, "1.weight", torch.tensor([3, 7]))
    with torch.no_grad():
        tensor.delta.values.fill_(0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensor.move(torch.tensor([7, 3]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="1.weight has 2 trained entries and cannot move to 3"):
        tensor.move(torch.tensor([7, 3, 1]))


@pytest.mark.parametrize("indices", [[], [1, 1], [-1, 2], [2, 15]])
def test_indices_that_are_not_places_are_refused(indices):
    with pytest.raises(ValueError, match="different places in a tensor of 15 entries"):
        SparseDelta(torch.zeros(3, 5), torch.tensor(indices, dtype=torch.int64))


def test_a_weight_that_does_not_lie_in_order_is_moved_too():
    model = network()
    model[1].weight.data = random(5, 3).T  # [3, 5], columns first in memory
    tensor = DeltaTensor.attach(model, "1.weight", torch.tensor([6]))
    with torch.no_grad():
        tensor.delta.values += 1.0
    before = tensor.weight()
    assert before[1, 1] == random(5, 3).T[1, 1] + 1.0
    tensor.move(torch.tensor([0]))
    assert torch.equal(tensor.weight(), before) and torch.equal(tensor.original.detach(), before)


def test_top_entries_are_that_many_even_where_scores_are_equal():
    assert top_entries(torch.tensor([[3.0, 9.0], [7.0, 1.0]]), 2).tolist() == [1, 2]
    assert len(top_entries(torch.ones(4, 5), 7).unique()) == 7


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_the_approximation_is_the_nearest_of_its_rank(shape):
    weight = random(*shape)
    left, sizes, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    expected = sum(sizes[i] * np.outer(left[:, i], right[i]) for i in range(2))
    np.testing.assert_allclose(low_rank_approximation(weight, 2).numpy(), expected, rtol=0, atol=1e-12)
    assert torch.equal(low_rank_approximation(weight, 6), weight)
    assert low_rank_approximation(weight.bfloat16(), 2).dtype == torch.float32


def test_the_randomised_approximation_is_near_draws_nothing_and_is_always_the_same():
    sizes = 0.5 ** torch.arange(20, dtype=torch.float64)
    weight = torch.linalg.qr(random(40, 20)).Q * sizes @ torch.linalg.qr(random(30, 20, seed=1)).Q.T
    before = torch.get_rng_state()
    found = low_rank_approximation(weight, 4, randomised=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.linalg.matrix_rank(found) == 4
    torch.testing.assert_close(found, low_rank_approximation(weight, 4), rtol=0, atol=1e-5)
    assert torch.equal(found, low_rank_approximation(weight, 4, randomised=True))
    torch.testing.assert_close(
        low_rank_approximation(weight, 18, randomised=True), low_rank_approximation(weight, 18), rtol=0, atol=1e-12
    )
