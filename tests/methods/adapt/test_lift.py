"""LIFT trains the largest entries of each matrix's low-rank approximation, step by step as the released algorithm does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract_trial import Stopped, Trial
from torch import nn

from ftft.errors import UserError
from ftft.methods.adapt.lift import LIFT
from ftft.methods.contract import Trainables
from ftft.methods.optimize.adamw import AdamW
from ftft.nn.sparse_delta import low_rank_approximation, top_entries

BETAS = (0.9, 0.95)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(model, step):
    """Another small batch every step."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(5, 40, (6, 7), generator=generator)
    return nn.functional.cross_entropy(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, ids[:, 0] % 2)


def matrices(model):
    """The linear layers that LIFT means, found in another way: by name, in a BERT."""
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if name.startswith("bert.") and ("dense" in name or name.split(".")[-1] in ("query", "key", "value"))
        if isinstance(module, nn.Linear)
    }


def largest(weight, count, rank):
    """A boolean mask of the ``count`` largest of the approximation, by numpy."""
    left, sizes, right = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    flat = np.abs((left[:, :rank] * sizes[:rank]) @ right[:rank]).reshape(-1)
    mask = np.zeros(flat.size, dtype=bool)
    mask[np.argsort(-flat)[:count]] = True
    return torch.from_numpy(mask).view(weight.shape)


def train(model, method, steps, *, released_epsilon=False, weight_decay=0.0):
    """With our AdamW. ``released_epsilon``: as it would be, were epsilon added to the root of the uncorrected second moment."""
    adapted = method.adapt(model, None)
    settings = {"learning_rate": 0.02, "betas": BETAS, "epsilon": 1e-6, "weight_decay": weight_decay}
    optimizer = AdamW(**settings).start(Trainables.of(adapted.model))
    for step in range(steps):
        for group in optimizer.param_groups if released_epsilon else ():
            group["eps"] = 1e-6 / math.sqrt(1 - BETAS[1] ** (step + 1))
        adapted.before_step(step, steps, optimizer)
        optimizer.zero_grad()
        loss_of(adapted.model, step).backward()
        optimizer.step()
    return adapted, optimizer


# -- which entries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 5), ({"density": 0.31}, 32), ({"density": 1.0}, 104), ({"lora_rank": 2}, 42), ({"lora_rank": 128}, 104)],
)
def test_it_chooses_as_many_as_are_asked_for(settings, count):
    assert len(LIFT(**settings).choose(random(13, 8)).unique()) == count
    assert len(LIFT(density=1e-9).choose(random(13, 8))) == 1


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_it_chooses_the_largest_of_the_approximation(rank):
    weight = random(13, 8)
    found = LIFT(density=0.2, filter_rank=rank).choose(weight)
    assert torch.equal(found, largest(weight, 21, rank).reshape(-1).nonzero().flatten())


def test_randomised_it_chooses_from_the_randomised_approximation():
    weight = random(60, 50)
    found = LIFT(filter_rank=3, randomised=True).choose(weight)
    expected = top_entries(low_rank_approximation(weight, 3, randomised=True).abs(), 150)
    assert torch.equal(found, expected) and not torch.equal(found, LIFT(filter_rank=3).choose(weight))


def test_of_full_rank_it_chooses_by_magnitude():
    weight = random(13, 8)
    found = LIFT(density=0.2, filter_rank=8).choose(weight)
    assert torch.equal(found, weight.abs().reshape(-1).topk(21).indices.sort().values)
    assert not torch.equal(found, LIFT(density=0.2, filter_rank=1).choose(weight))


def test_matrices_of_the_pretrained_part_get_a_difference_and_the_head_learns_whole(tiny_model):
    model = tiny_model("bert")
    expected = matrices(model)
    assert len(expected) == 3 * 6 + 1  # the pooler
    LIFT().adapt(model, None)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    values = {f"{name.removesuffix('weight')}parametrizations.weight.0.values" for name in expected}
    assert trainable == values | {"classifier.weight", "classifier.bias"}
    for name, module in matrices(model).items():
        assert module.parametrizations.weight[0].values.shape == (round(0.05 * module.weight.numel()),), name


def test_the_head_can_stay_frozen(tiny_model):
    model = LIFT(train_head=False).adapt(tiny_model("bert"), None).model
    assert all("values" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.mark.parametrize("architecture", ["gpt2", "modernbert", "qwen3", "deberta_v2"])
def test_other_architectures_say_what_they_said_and_merge(tiny_model, architecture):
    ids = torch.tensor([[2, 9, 11, 14, 3]])
    plain = tiny_model(architecture).double()
    expected = plain(input_ids=ids).logits
    adapted = LIFT().adapt(tiny_model(architecture).double(), None)
    assert torch.equal(adapted.model(input_ids=ids).logits, expected)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    plain.load_state_dict(adapted.merged())
    said = adapted.model(input_ids=ids).logits
    torch.testing.assert_close(plain(input_ids=ids).logits, said, rtol=0, atol=1e-12)
    assert not torch.allclose(said, expected)


def test_a_model_without_matrices_is_refused_and_nothing_changes():
    class Words(nn.Module):
        base_model_prefix = "backbone"

        def __init__(self):
            super().__init__()
            self.backbone, self.classifier = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)), nn.Linear(4, 2)

    model = Words()
    with pytest.raises(UserError, match="lift found no linear layer in the pretrained part of Words"):
        LIFT().adapt(model, None)
    assert all(parameter.requires_grad for parameter in model.parameters())


# -- how they are trained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_a_refresh_only_the_chosen_entries_move_and_moments_are_compact(tiny_model, weight_decay):
    start = {name: value.clone() for name, value in tiny_model("bert").double().state_dict().items()}
    method = LIFT(density=0.2, filter_rank=4, interval=None)
    adapted, optimizer = train(tiny_model("bert").double(), method, 12, weight_decay=weight_decay)
    merged = adapted.merged()
    wide = matrices(tiny_model("bert"))
    for name, before in start.items():
        moved = merged[name] != before  # bit for bit
        if name in wide:
            assert bool(moved.any()) and torch.equal(moved, largest(before, round(0.2 * before.numel()), 4)), name
        else:
            assert bool(moved.any()) == name.startswith("classifier"), name
    chosen = sum(round(0.2 * module.weight.numel()) for module in wide.values())
    moments = sum(state["exp_avg"].numel() + state["exp_avg_sq"].numel() for state in optimizer.state.values())
    assert moments == 2 * (chosen + 2 * 16 + 2)


def test_a_step_of_compact_adamw_is_a_masked_step_of_dense_adamw(tiny_model):
    adapted, _ = train(tiny_model("bert").double(), LIFT(density=0.2, filter_rank=4), 1)
    plain = tiny_model("bert").double()
    wide = matrices(plain)
    loss_of(plain, 0).backward()
    masks = {name: largest(module.weight, round(0.2 * module.weight.numel()), 4) for name, module in wide.items()}
    trained = [plain.classifier.weight, plain.classifier.bias]
    for name, module in wide.items():
        module.weight.grad *= masks[name]
        trained.append(module.weight)
    torch.optim.AdamW(trained, lr=0.02, betas=BETAS, eps=1e-6, weight_decay=0.0).step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(adapted.merged()[name], value, rtol=0, atol=1e-14)


def test_with_every_entry_chosen_it_is_adamw(tiny_model):
    adapted, _ = train(tiny_model("bert").double(), LIFT(density=1.0, interval=5), 12)
    plain = tiny_model("bert").double()
    trained = [module.weight for module in matrices(plain).values()] + [*plain.classifier.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.02, betas=BETAS, eps=1e-6, weight_decay=0.0)
    for step in range(12):
        optimizer.zero_grad()
        loss_of(plain, step).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(adapted.merged()[name], value, rtol=0, atol=1e-10)


class Released:
    """Masked AdamW with compact moments, written down from the released optimizer; masks are chosen anew when the number of
    steps taken, plus one, is a multiple of the interval. ``released_epsilon``: epsilon is added to the root of the uncorrected
    second moment, as there, and not, as torch does, of the corrected one."""

    def __init__(self, wide, whole, *, released_epsilon, density, rank, interval):
        self.wide, self.whole, self.released_epsilon = wide, whole, released_epsilon
        self.density, self.rank, self.interval, self.taken, self.kept_and_new = density, rank, interval, 0, []
        self.masks = {name: self.choose(weight) for name, weight in wide.items()}
        self.moments = {name: [torch.zeros(int(mask.sum()), dtype=torch.float64)] * 2 for name, mask in self.masks.items()}
        self.moments |= {name: [torch.zeros_like(weight)] * 2 for name, weight in whole.items()}

    def choose(self, weight):
        return largest(weight, round(self.density * weight.numel()), self.rank)

    def update(self, name, gradient):
        first, second = self.moments[name]
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        self.moments[name] = [first, second]
        root = math.sqrt(1 - BETAS[1] ** self.taken)
        denominator = second.sqrt() + 1e-6 * (1.0 if self.released_epsilon else root)
        return 0.02 * root / (1 - BETAS[0] ** self.taken) * first / denominator

    @torch.no_grad()
    def step(self):
        self.taken += 1
        for name, weight in self.wide.items():
            weight[self.masks[name]] -= self.update(name, weight.grad[self.masks[name]])
        for name, weight in self.whole.items():
            weight -= self.update(name, weight.grad)
        if (self.taken + 1) % self.interval == 0:
            for name, weight in self.wide.items():
                old, new = self.masks[name], self.choose(weight)
                dense = [torch.zeros_like(weight) for _ in range(2)]
                for one, moment in zip(dense, self.moments[name]):
                    one[old] = moment
                self.moments[name], self.masks[name] = [one[new] for one in dense], new
                self.kept_and_new.append((int((old & new).sum()), int((new & ~old).sum())))


@pytest.mark.parametrize("released_epsilon", [False, True])
def test_with_adamw_it_is_the_released_algorithm_through_its_refreshes(tiny_model, released_epsilon):
    settings = {"density": 0.2, "interval": 10}
    method = LIFT(filter_rank=4, **settings)
    adapted, _ = train(tiny_model("bert").double(), method, 28, released_epsilon=released_epsilon)
    plain = tiny_model("bert").double()
    wide = {name: module.weight for name, module in matrices(plain).items()}
    whole = {name: parameter for name, parameter in plain.named_parameters() if name.startswith("classifier")}
    reference = Released(wide, whole, released_epsilon=released_epsilon, rank=4, **settings)
    for step in range(28):
        plain.zero_grad()
        loss_of(plain, step).backward()
        reference.step()
    kept, new = np.array(reference.kept_and_new).T
    assert len(kept) == 2 * len(wide) and kept.sum() > 200 and new.sum() > 200, "the refreshes must have moved something"
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(adapted.merged()[name], value, rtol=0, atol=1e-10)


def test_the_trained_entries_do_not_decay(tiny_model):
    adapted = LIFT(interval=None).adapt(tiny_model("bert").double(), None)
    layer = matrices(adapted.model)["bert.pooler.dense.weight"].parametrizations.weight
    head = adapted.model.classifier.weight
    layer[0].values.data.fill_(2.0)
    head.data.fill_(2.0)
    head.grad, layer[0].values.grad = torch.zeros_like(head), torch.zeros_like(layer[0].values)
    AdamW(learning_rate=0.1, weight_decay=0.5).start(Trainables.of(adapted.model)).step()
    assert bool((layer[0].values == 2.0).all()) and bool((head < 1.91).all())


@pytest.mark.parametrize(("interval", "due"), [(5, {4, 9}), (1, set(range(1, 12))), (None, set())])
def test_it_chooses_anew_before_the_steps_of_the_interval_and_from_the_weight_as_it_is(tiny_model, interval, due):
    adapted = LIFT(interval=interval, filter_rank=2).adapt(tiny_model("bert").double(), None)
    layer = matrices(adapted.model)["bert.pooler.dense.weight"].parametrizations.weight
    optimizer = torch.optim.SGD([layer[0].values], lr=0.1)
    moved = set()
    for step in range(12):
        before = layer[0].indices.clone()
        layer.original.data = random(16, 16, seed=step)
        adapted.before_step(step, 12, optimizer)
        if not torch.equal(before, layer[0].indices):
            moved.add(step)
            assert torch.equal(layer[0].indices, LIFT(filter_rank=2).choose(random(16, 16, seed=step)))
    assert moved == due


def test_killed_between_refreshes_it_goes_on_with_its_entries_and_moments(tiny_model, tiny_tokenizer, tmp_path):
    parts = {"adapt": {"name": "lift", "interval": 3, "filter_rank": 2, "density": 0.2}, "optimize": "adamw"}
    trial = Trial(tiny_model, tiny_tokenizer, parts, 0.02, dropout=0.1, dtype=torch.float32)
    straight = trial.train(9)
    changed = [name for name, value in straight.state.items() if not torch.equal(value, straight.at_start[name])]
    assert any(name.endswith("indices") for name in changed)
    for stop_after in (3, 6, 8):
        with pytest.raises(Stopped):
            trial.train(9, folder=tmp_path, stop_after=stop_after)
    resumed = trial.train(9, folder=tmp_path)
    assert resumed.losses == straight.losses
    assert all(torch.equal(value, straight.state[name]) for name, value in resumed.state.items())
