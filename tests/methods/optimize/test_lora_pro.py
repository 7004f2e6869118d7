"""LoRA-Pro: the pair of steps whose move of the full weight is nearest to the full gradient, and AdamW around it."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.lora import LoRA
from ftft.methods.contract import LowRankPair, Trainables
from ftft.methods.optimize.lora_pro import LoRAPro
from ftft.nn.low_rank_gradients import PairGeometry
from ftft.state.tree import load_tree, save_tree

M, N, R, S = 7, 9, 3, 1.7
EXACT = {"rtol": 0, "atol": 1e-12}


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(m=M, n=N, r=R):
    """A, B, the full gradient G and what LoRA sees of it."""
    a, b, full = random(r, n, seed=1), random(m, r, seed=2), random(m, n, seed=3)
    return a, b, full, S * b.T @ full, S * full @ a.T


def projection(columns):
    """On the span of the columns, by another way than ours."""
    q, _ = torch.linalg.qr(columns)
    return q @ q.T


def moved(a, b, steps):
    return S * (b @ steps[0] + steps[1] @ a)


@pytest.mark.parametrize("balance", [True, False])
def test_the_move_is_the_gradient_less_what_two_factors_cannot_reach(balance):
    a, b, full, g_a, g_b = problem()
    geometry = PairGeometry(a, b, S)
    steps = geometry.solve(g_a, g_b, balance=balance)
    eye = torch.eye
    expected = full - (eye(M) - projection(b)) @ full @ (eye(N) - projection(a.T))
    torch.testing.assert_close(moved(a, b, steps), expected, **EXACT)
    torch.testing.assert_close(geometry.moves(*steps, torch.float64), expected, **EXACT)


def test_it_does_not_depend_on_x_and_ours_keeps_the_steps_nearest_to_the_gradients():
    a, b, _, g_a, g_b = problem()
    geometry = PairGeometry(a, b, S)
    best = geometry.solve(g_a, g_b)
    plain = geometry.solve(g_a, g_b, balance=False)
    assert not torch.allclose(best[0], plain[0], atol=1e-3)

    def distance(steps):
        return float((steps[0] - g_a).square().sum() + (steps[1] - g_b).square().sum())

    for seed in range(20):
        for size in (1e-3, 0.1, 3.0):
            x = size * random(R, R, seed=100 + seed)
            other = best[0] + x @ a, best[1] - b @ x
            torch.testing.assert_close(moved(a, b, other), moved(a, b, best), **EXACT)
            assert distance(other) > distance(best)
    # The derivative by X, which is 0 at the least distance.
    torch.testing.assert_close((best[0] - g_a) @ a.T, b.T @ (best[1] - g_b), rtol=0, atol=1e-11)


def test_the_move_descends_and_no_multiple_of_loras_is_nearer_to_the_gradient():
    a, b, full, g_a, g_b = problem()
    move = moved(a, b, PairGeometry(a, b, S).solve(g_a, g_b))
    torch.testing.assert_close((full * move).sum(), move.square().sum(), rtol=1e-12, atol=0)
    lora = moved(a, b, (g_a, g_b))
    best = float((lora * full).sum() / lora.square().sum())
    for factor in [best, *torch.linspace(-1, 1, 41).tolist()]:
        assert (move - full).norm() < (factor * lora - full).norm()


@pytest.mark.parametrize(("m", "n"), [(4, 9), (9, 4), (4, 4)])
def test_at_full_rank_it_is_full_fine_tuning_to_first_order(m, n):
    a, b, full, g_a, g_b = problem(m, n, 4)
    steps = PairGeometry(a, b, S).solve(g_a, g_b)
    torch.testing.assert_close(moved(a, b, steps), full, rtol=0, atol=1e-10)
    remains = []
    for rate in (1e-3, 1e-4):
        after = S * (b - rate * steps[1]) @ (a - rate * steps[0])
        remains.append(float((after - (S * b @ a - rate * full)).norm()))
    assert remains[1] == pytest.approx(remains[0] / 100, rel=1e-3), "what remains is of second order"


@pytest.mark.parametrize("damping", [0.0, 1e-8])
def test_while_b_is_0_only_b_steps_and_the_move_is_the_gradient_on_as_rows(damping):
    a, _, full, _, g_b = problem()
    b = torch.zeros(M, R, dtype=torch.float64)
    geometry = PairGeometry(a, b, S, damping)
    steps = geometry.solve(torch.zeros(R, N, dtype=torch.float64), g_b)
    assert torch.equal(steps[0], torch.zeros_like(a))
    torch.testing.assert_close(steps[1], g_b @ torch.linalg.inv(a @ a.T) / S**2, rtol=0, atol=1e-7 if damping else 1e-12)
    torch.testing.assert_close(moved(a, b, steps), full @ projection(a.T), rtol=0, atol=1e-6 if damping else 1e-12)


@pytest.mark.parametrize("factor", [-2.0, -1.0, 0.3, 0.7, 1.1, 5.0])  # rounding leaves eigenvalues on either side of 0
def test_directions_that_b_lacks_are_left_out(factor):
    a, b, full, *_ = problem()
    b[:, 2] = b[:, 0] + factor * b[:, 1]
    steps = PairGeometry(a, b, S).solve(S * b.T @ full, S * full @ a.T)
    expected = full - (torch.eye(M) - projection(b[:, :2])) @ full @ (torch.eye(N) - projection(a.T))
    torch.testing.assert_close(moved(a, b, steps), expected, rtol=0, atol=1e-9)


def test_a_gradient_clipped_by_a_factor_is_adjusted_to_the_clipped_move():
    a, b, full, g_a, g_b = problem()
    geometry = PairGeometry(a, b, S)
    whole, clipped = geometry.solve(g_a, g_b), geometry.solve(0.01 * g_a, 0.01 * g_b)
    torch.testing.assert_close(moved(a, b, clipped), 0.01 * moved(a, b, whole), **EXACT)


# -- the optimizer ---------------------------------------------------------------------------------------------------

SIZES = {"one": (6, 5, 2, 2.0), "two": (4, 8, 3, 0.5)}  # m, n, r, s


def pairs(dtype=torch.float64):
    """Two pairs of different scale, B zero as in LoRA, and a head."""
    named, found = [], []
    for number, (name, (m, n, r, s)) in enumerate(SIZES.items()):
        down = torch.nn.Parameter(random(r, n, seed=10 + number).to(dtype))
        up = torch.nn.Parameter(torch.zeros(m, r, dtype=dtype))
        named += [(f"{name}.A", down), (f"{name}.B", up)]
        found.append(LowRankPair(f"{name}.weight", down, up, s))
    named += [("head.weight", torch.nn.Parameter(random(2, 4, seed=20).to(dtype)))]
    named += [("head.bias", torch.nn.Parameter(random(2, seed=21).to(dtype)))]
    return Trainables(tuple(named), torch.nn.Module(), tuple(found))


def give_gradients(trainables, step):
    for number, pair in enumerate(trainables.pairs):
        full = random(len(pair.up), pair.down.shape[1], seed=1000 + 10 * step + number).to(pair.up.dtype)
        pair.down.grad = (pair.scaling * pair.up.detach().T @ full).clone()
        pair.up.grad = (pair.scaling * full @ pair.down.detach().T).clone()
    for name, parameter in trainables.named:
        if name.startswith("head"):
            parameter.grad = random(*parameter.shape, seed=2000 + step + parameter.ndim).to(parameter.dtype)


class Reference:
    """One pair by the formulas of the authors' code, dense and with other solvers: pinv, and the Sylvester equation as one
    linear system."""

    def __init__(self, pair, rate, decay, mode):
        self.a, self.b, self.s = pair.down.detach().clone(), pair.up.detach().clone(), pair.scaling
        self.rate, self.decay, self.mode, self.step_number, self.moments = rate, decay, mode, 0, {}

    def adam(self, key, gradient):
        first, second = self.moments.get(key, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        self.moments[key] = first, second
        t = self.step_number
        return (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-8)

    def adjusted(self, g_a, g_b, sylvester):
        a, b, s, eye = self.a, self.b, self.s, torch.eye(len(self.a), dtype=torch.float64)
        down = torch.linalg.pinv(a @ a.T + 1e-8 * eye)
        if not b.any():
            return g_a, g_b @ down / s**2
        up = torch.linalg.pinv(b.T @ b + 1e-8 * eye)
        new_a = up @ g_a / s**2
        new_b = (torch.eye(len(b)) - b @ up @ b.T) @ g_b @ down / s**2
        if sylvester:
            right = -up @ g_a @ a.T / s**2
            system = torch.kron(b.T @ b, eye) + torch.kron(eye, a @ a.T)  # of X read row by row
            x = torch.linalg.solve(system, right.flatten()).view_as(right)
            new_a, new_b = new_a + x @ a, new_b - b @ x
        return new_a, new_b

    def step(self, full):
        self.step_number += 1
        g_a, g_b = self.s * self.b.T @ full, self.s * full @ self.a.T
        if self.mode == "efficient":
            step_a, step_b = (self.adam(key, g) for key, g in zip("ab", self.adjusted(g_a, g_b, True)))
        else:
            new_a, new_b = self.adjusted(g_a, g_b, False)
            direction = self.adam("w", self.s * (self.b @ new_a + new_b @ self.a))
            step_a, step_b = self.adjusted(self.s * self.b.T @ direction, self.s * direction @ self.a.T, True)
        self.a = self.a * (1 - self.rate * self.decay) - self.rate * step_a
        self.b = self.b * (1 - self.rate * self.decay) - self.rate * step_b


@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_the_steps_are_those_of_the_authors_code_with_each_pairs_own_scale(mode):
    trainables = pairs()
    references = [Reference(pair, 0.02, 0.1, mode) for pair in trainables.pairs]
    optimizer = LoRAPro(learning_rate=0.02, betas=(0.9, 0.99), weight_decay=0.1, mode=mode).start(trainables)
    for step in range(4):
        give_gradients(trainables, step)
        optimizer.step()
        for number, (pair, reference) in enumerate(zip(trainables.pairs, references)):
            m, n = len(pair.up), pair.down.shape[1]
            reference.step(random(m, n, seed=1000 + 10 * step + number))
            torch.testing.assert_close(pair.down.detach(), reference.a, rtol=0, atol=1e-7)
            torch.testing.assert_close(pair.up.detach(), reference.b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_what_is_in_no_pair_takes_plain_adamw(mode):
    trainables = pairs()
    head = [copy.deepcopy(parameter) for name, parameter in trainables.named if name.startswith("head")]
    groups = [{"params": head[:1], "weight_decay": 0.1}, {"params": head[1:], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), eps=1e-5)
    settings = {"betas": (0.8, 0.95), "epsilon": 1e-5, "weight_decay": 0.1, "mode": mode}
    optimizer = LoRAPro(learning_rate=0.02, **settings).start(trainables)
    own = [parameter for name, parameter in trainables.named if name.startswith("head")]
    for step in range(4):
        give_gradients(trainables, step)
        for one, other in zip(own, head):
            other.grad = one.grad.clone()
        optimizer.step()
        plain.step()
    for one, other in zip(own, head):
        torch.testing.assert_close(one.detach(), other.detach(), **EXACT)


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_model_with_lora_moves_as_its_full_gradient_says(stabilised, tiny_model):
    """Through peft's layers at their own scale, which the authors' code takes for 16 / 8 always: at full rank the first step
    moves every weight as AdamW on that weight does, and below it as the projected gradient says."""
    rate = 1e-8
    for rank in (16, 3):
        model = tiny_model("bert").double()
        targets = ["query", "output"]
        adapted = LoRA(rank=rank, alpha=5.0, targets=targets, rank_stabilised=stabilised).adapt(model, None)
        assert {pair.scaling for pair in adapted.pairs} == {5.0 / rank**0.5 if stabilised else 5.0 / rank}
        with torch.no_grad():
            for number, pair in enumerate(adapted.pairs):
                pair.up.copy_(random(*pair.up.shape, seed=number))
        inputs = {"input_ids": torch.tensor([[2, 9, 11, 14, 3], [2, 8, 7, 10, 3]]), "labels": torch.tensor([0, 1])}
        before = adapted.merged()
        plain = tiny_model("bert").double()
        plain.load_state_dict(before)
        plain(**inputs).loss.backward()
        gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
        optimizer = LoRAPro(learning_rate=rate, damping=0.0).start(Trainables.of(adapted.model, adapted.pairs))
        adapted.model(**inputs).loss.backward()
        factors = [(pair.up.detach().clone(), pair.down.detach().clone()) for pair in adapted.pairs]
        optimizer.step()
        after = adapted.merged()
        for pair, (up, down) in zip(adapted.pairs, factors):
            name = pair.weight.removeprefix("base_model.model.").replace(".base_layer", "")
            full, keep_b, keep_a = gradients[name], projection(up), projection(down.T)
            eye = torch.eye(16, dtype=torch.float64)
            move = full - (eye - keep_b) @ full @ (eye - keep_a)
            direction = move / (move.abs() + 1e-8)
            direction = direction - (eye - keep_b) @ direction @ (eye - keep_a)
            found = (before[name] - after[name]) / rate
            torch.testing.assert_close(found, direction, rtol=0, atol=1e-5)
            if rank == 16:
                torch.testing.assert_close(found, full / (full.abs() + 1e-8), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("mode", "shapes"), [("full", {(6, 5), (4, 8)}), ("efficient", {(2, 5), (6, 2), (3, 8), (4, 3)})])
def test_the_moments_are_of_the_weight_or_of_the_factors(mode, shapes):
    trainables = pairs(torch.float32)
    optimizer = LoRAPro(mode=mode).start(trainables)
    give_gradients(trainables, 0)
    optimizer.step()
    head = {id(parameter) for name, parameter in trainables.named if name.startswith("head")}
    found = [s["exp_avg"] for parameter, s in optimizer.state.items() if id(parameter) not in head]
    assert {tuple(value.shape) for value in found} == shapes and {value.dtype for value in found} == {torch.float32}


@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_continued_from_a_saved_state_equals_straight(mode, tmp_path):
    straight, first = pairs(torch.float32), pairs(torch.float32)
    method = LoRAPro(learning_rate=0.01, mode=mode)
    optimizers = [method.start(one) for one in (straight, first)]
    for trainables, optimizer, steps in zip((straight, first), optimizers, (6, 3)):
        for step in range(steps):
            give_gradients(trainables, step)
            optimizer.step()
    save_tree(tmp_path, "optimizer", optimizers[1].state_dict())
    second = copy.deepcopy(first)
    resumed = method.start(second)
    resumed.load_state_dict(load_tree(tmp_path, "optimizer"))
    for step in range(3, 6):
        give_gradients(second, step)
        resumed.step()
    for (name, one), (_, other) in zip(straight.named, second.named):
        assert torch.equal(one, other), name


def test_a_pair_without_gradients_stays_and_a_closure_is_called():
    trainables = pairs()
    optimizer = LoRAPro(learning_rate=0.1, weight_decay=0.1).start(trainables)
    give_gradients(trainables, 0)
    trainables.pairs[0].down.grad = None
    before = [trainables.pairs[0].down.detach().clone(), trainables.pairs[1].up.detach().clone()]
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(trainables.pairs[0].down, before[0]) and not torch.equal(trainables.pairs[1].up, before[1])
    assert not trainables.pairs[0].up.any()


def test_every_factor_and_the_head_belong_to_it_once(tiny_model):
    adapted = LoRA(rank=2).adapt(tiny_model("bert"), None)
    optimizer = LoRAPro(weight_decay=0.1).start(Trainables.of(adapted.model, adapted.pairs))
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in adapted.model.parameters() if parameter.requires_grad}
    assert len(held) == len(set(held)) and set(held) == trainable
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]


def test_what_it_cannot_step_is_refused(tiny_model):
    with pytest.raises(UserError, match="`adapt` left none; use adapt: lora"):
        LoRAPro().start(Trainables.of(tiny_model("bert")))
    trainables = pairs()
    trainables.pairs[1].down.requires_grad_(False)
    with pytest.raises(UserError, match=r"froze one of two\.weight"):
        LoRAPro().start(trainables)
