"""LISA: a few blocks at a time learn beside embeddings and head; the draw follows from the step's number; frozen blocks cost
no moments."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.lora import LoRA
from ftft.methods.contract import Trainables
from ftft.methods.optimize.adamw import AdamW
from ftft.methods.optimize.lisa import LISA
from ftft.modelmap import blocks_of, head_parameters
from ftft.nn.layer_schedule import drawn_blocks
from ftft.run.reading import recipe_from_dict
from ftft.state.tree import load_tree, save_tree

LAYERS = 4


def losses(model, step):
    generator = torch.Generator().manual_seed(50 + step)
    inputs = {"input_ids": torch.randint(5, 40, (3, 7), generator=generator), "labels": torch.tensor([0, 1, 1])}
    return model(**inputs).loss


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        if hasattr(optimizer, "before_step"):
            optimizer.before_step(step, 100, optimizer)
        optimizer.zero_grad()
        losses(model, step).backward()
        optimizer.step()


def changed_blocks(model, before):
    _, blocks = blocks_of(model)
    owners = {id(parameter): index for index, block in enumerate(blocks) for parameter in block.parameters()}
    changed = {None: set(), **{index: set() for index in range(len(blocks))}}
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, before[name]):
            changed[owners.get(id(parameter))].add(name)
    return changed


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def made(tiny_model, **settings):
    model = tiny_model("bert", num_hidden_layers=LAYERS)
    return model, LISA(learning_rate=1e-3, **settings).start(Trainables.of(model))


def test_only_the_drawn_blocks_and_what_is_outside_the_blocks_change(tiny_model):
    model, optimizer = made(tiny_model, layers=2, interval=3, weight_decay=0.1)
    drawn = set()
    for interval in range(6):
        before = snapshot(model)
        train(model, optimizer, 3, first=3 * interval)
        changed = changed_blocks(model, before)
        active = {index for index in range(LAYERS) if changed[index]}
        assert active == set(drawn_blocks(0, interval, 2, LAYERS)) and len(active) == 2
        heads = {name for name, _ in head_parameters(model)}
        assert heads < changed[None] and any("embeddings" in name for name in changed[None])
        drawn |= active
    assert drawn == set(range(LAYERS)), "blocks first drawn later learn too"


def test_the_moments_are_those_of_the_active_parameters_alone(tiny_model):
    model, optimizer = made(tiny_model, layers=1, interval=2)
    for interval in range(5):
        train(model, optimizer, 2, first=2 * interval)
        active = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert {id(p) for p in optimizer.state} == {id(p) for p in active} and len(active) < len(list(model.parameters()))
        held = sum(s[key].nbytes for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
        assert held == sum(parameter.nbytes for parameter in active) * 2
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_moments_are_fresh_where_a_block_comes_back_and_kept_where_it_stays(tiny_model):
    model, optimizer = made(tiny_model, layers=2, interval=2)
    train(model, optimizer, 10)
    _, blocks = blocks_of(model)
    active = [drawn_blocks(0, interval, 2, LAYERS) for interval in range(5)]
    for index in active[4]:
        stay = 0
        while stay < 5 and index in active[4 - stay]:
            stay += 1
        assert {int(optimizer.state[p]["step"]) for p in blocks[index].parameters()} == {2 * stay}
    assert active[3] & active[4] and active[4] - active[3], "the seed shows both"


def test_a_gradient_from_before_moves_no_frozen_block(tiny_model):
    model, optimizer = made(tiny_model, layers=1)
    losses(model, 0).backward()
    before = snapshot(model)
    optimizer.before_step(0, 100, optimizer)
    optimizer.step()
    assert len([names for index, names in changed_blocks(model, before).items() if names and index is not None]) == 1


def test_the_moments_of_frozen_blocks_can_be_kept(tiny_model):
    model, optimizer = made(tiny_model, layers=1, interval=1, keep_state=True)
    train(model, optimizer, 20)
    assert len(optimizer.state) == len(list(model.parameters()))
    _, blocks = blocks_of(model)
    times = [sum(index in drawn_blocks(0, step, 1, LAYERS) for step in range(20)) for index in range(LAYERS)]
    assert [int(optimizer.state[next(block.parameters())]["step"]) for block in blocks] == times


def test_with_all_blocks_it_is_adamw_bit_for_bit(tiny_model):
    model, optimizer = made(tiny_model, layers=LAYERS, interval=2, weight_decay=0.1, betas=(0.8, 0.9), epsilon=1e-5)
    other = tiny_model("bert", num_hidden_layers=LAYERS)
    plain = AdamW(learning_rate=1e-3, betas=(0.8, 0.9), epsilon=1e-5, weight_decay=0.1).start(Trainables.of(other))
    train(model, optimizer, 6)
    train(other, plain, 6)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_draw_is_the_same_everywhere_uniform_and_without_replacement():
    draws = [drawn_blocks(7, number, 2, 5) for number in range(2000)]
    torch.manual_seed(123)  # another process
    assert draws == [drawn_blocks(7, number, 2, 5) for number in range(2000)]
    assert draws[:20] != [drawn_blocks(8, number, 2, 5) for number in range(20)] and all(len(one) == 2 for one in draws)
    for index in range(5):
        assert 0.4 - 0.04 < sum(index in one for one in draws) / 2000 < 0.4 + 0.04
    assert len(set(draws)) == 10
    with pytest.raises(ValueError, match="6 of 5"):
        drawn_blocks(0, 0, 6, 5)


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_in_the_middle_of_an_interval_or_between_two_equals_straight(tiny_model, stop, tmp_path):
    straight, optimizer = made(tiny_model, layers=2, interval=4)
    train(straight, optimizer, 11)
    first, begun = made(tiny_model, layers=2, interval=4)
    train(first, begun, stop)
    save_tree(tmp_path, "optimizer", begun.state_dict())
    second, resumed = made(tiny_model, layers=2, interval=4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(load_tree(tmp_path, "optimizer"))
    train(second, resumed, 11 - stop, first=stop)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in straight.state_dict().items())


def test_under_lora_the_factors_of_the_drawn_blocks_learn_and_the_base_stays_frozen(tiny_model):
    model = LoRA(rank=2).adapt(tiny_model("bert", num_hidden_layers=LAYERS), None).model
    before = snapshot(model)
    optimizer = LISA(learning_rate=1e-2, layers=1).start(Trainables.of(model))
    train(model, optimizer, 3)
    changed = changed_blocks(model, before)
    (active,) = drawn_blocks(0, 0, 1, LAYERS)
    assert {index for index in range(LAYERS) if changed[index]} == {active}
    assert all("lora_" in name for name in changed[active]) and all("classifier" in name for name in changed[None])


def test_blocks_without_trainable_parameters_are_not_drawn(tiny_model):
    model = tiny_model("bert", num_hidden_layers=LAYERS)
    _, blocks = blocks_of(model)
    blocks[0].requires_grad_(False)
    before = snapshot(model)
    optimizer = LISA(learning_rate=1e-3, layers=3).start(Trainables.of(model))
    train(model, optimizer, 2)
    assert {index for index, names in changed_blocks(model, before).items() if names} == {None, 1, 2, 3}
    with pytest.raises(UserError, match="layers is 4, but 3 blocks"):
        LISA(layers=4).start(Trainables.of(model))


def test_a_model_without_known_blocks_is_refused():
    with pytest.raises(UserError, match="structure of Linear is unknown"):
        LISA().start(Trainables.of(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("task", ["text_classification", "causal_language_modelling", "image_classification"])
def test_a_model_of_two_towers_is_refused_before_anything_is_trained(task):
    stage = {"model": {"path": "models/main"}, "optimize": "lisa"}
    recipe = {"data": {"train": {"path": "train.parquet"}}, "stages": {"main": stage}}
    assert recipe_from_dict({**recipe, "task": task}).stages["main"].optimize["name"] == "lisa"
    two_towers = {"name": "image_text", "captions": {"cat": "a cat", "dog": "a dog"}}
    with pytest.raises(UserError, match="stages.main.optimize: lisa serves the tasks .* and not image_text"):
        recipe_from_dict({**recipe, "task": two_towers})
