"""Weights are averaged tensor by tensor; greedy never ends below its best member; a line of weights goes through both ends."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.combine.greedy_soup import GreedySoup
from ftft.methods.combine.learned_soup import LearnedSoup
from ftft.methods.combine.uniform_soup import UniformSoup
from ftft.methods.combine.wise_ft import WiseFT
from ftft.methods.contract import Checkpoint, Combiner
from ftft.state.algebra import weighted_mean


def state(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype),
        "bias": torch.randn(4, generator=generator, dtype=torch.float64).to(dtype),
        "counter": torch.tensor(seed),
        "mask": torch.tensor([seed % 2 == 0]),
    }


def checkpoints(*states):
    """The first is the stage's own, after 10 steps; the others are models of stages a, b, ..."""
    own = [Checkpoint(10, None, lambda: dict(states[0]))]
    return own + [Checkpoint(5, None, lambda one=one: dict(one), stage="abc"[k]) for k, one in enumerate(states[1:])]


class Validation:
    """Scores by distance to a target weight; a linear classifier for what is learned by gradient."""

    def __init__(self, target=None, data=None):
        self.target, self.data, self.scored = target, data, []

    def score(self, given):
        value = -float((given["weight"] - self.target).norm())
        self.scored.append(value)
        return value

    def batches(self, size, *, seed):
        inputs, labels = self.data
        yield from zip(inputs.split(size), labels.split(size))

    def outputs(self, given, batch):
        return batch[0] @ given["weight"].T + given["bias"]

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch[1])


def base():
    return state(9)


def refuse():
    raise AssertionError("the pretrained weights are not needed")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft_is_the_line_and_its_ends_are_the_models_bit_by_bit(alpha):
    tuned = state(1)
    found = WiseFT(alpha).combine(base, checkpoints(tuned), None)
    assert found.step == 10 and found.kind == "weights"
    for name in ("weight", "bias"):
        expected = (1 - alpha) * base()[name] + alpha * tuned[name]
        torch.testing.assert_close(found.state[name], expected, rtol=0, atol=1e-15)
        if alpha in (0.0, 1.0):
            assert torch.equal(found.state[name], (tuned if alpha else base())[name])
    kept = tuned if alpha else base()  # whole numbers and truth values are copied: of the tuned model, unless it has no share
    assert found.state["counter"].dtype == torch.int64 and torch.equal(found.state["counter"], kept["counter"])
    assert found.state["mask"].dtype == torch.bool and torch.equal(found.state["mask"], kept["mask"])


def test_the_logits_of_a_linear_model_are_the_ensembles():
    tuned, inputs = state(1), torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = WiseFT(0.4).combine(base, checkpoints(tuned), None).state
    logits = [inputs @ one["weight"].T + one["bias"] for one in (base(), tuned, mixed)]
    torch.testing.assert_close(logits[2], 0.6 * logits[0] + 0.4 * logits[1], rtol=0, atol=1e-12)


def test_uniform_soup_is_the_mean_in_any_order_and_of_copies_the_copy():
    states = [state(1), state(2), state(3)]
    soup = UniformSoup().combine(refuse, checkpoints(*states), None).state
    for name in ("weight", "bias"):
        expected = torch.stack([one[name] for one in states]).mean(0)
        torch.testing.assert_close(soup[name], expected, rtol=0, atol=1e-12)
    assert int(soup["counter"]) == 1, "whole numbers are the first model's"
    other = UniformSoup().combine(refuse, checkpoints(states[0], states[2], states[1]), None).state
    torch.testing.assert_close(soup["weight"], other["weight"], rtol=0, atol=1e-12)
    copies = UniformSoup().combine(refuse, checkpoints(*[state(1)] * 4), None).state
    torch.testing.assert_close(copies["weight"], state(1)["weight"], rtol=0, atol=1e-15)


def test_half_precision_is_averaged_in_float32_and_cast_once():
    states = [{"weight": torch.full((1,), value, dtype=torch.bfloat16)} for value in (256.0, 1.0, 1.0, 1.0)]
    soup = weighted_mean(states, [1.0] * 4)["weight"]
    assert soup.dtype == torch.bfloat16 and float(soup) == float(torch.tensor(259.0).bfloat16()) != 256.0


@pytest.mark.parametrize("seed", range(5))
def test_greedy_soup_never_scores_below_its_best_member(seed):
    members = [state(10 * seed + k) for k in range(3)]
    validation = Validation(state(99)["weight"])
    soup = GreedySoup().combine(refuse, checkpoints(*members), validation).state
    single = [-float((one["weight"] - validation.target).norm()) for one in members]
    assert validation.scored[:3] == single, "each member is evaluated once"
    assert len(validation.scored) == 5, "and each candidate once"
    assert -float((soup["weight"] - validation.target).norm()) >= max(single)


def test_greedy_soup_takes_helpers_and_leaves_out_a_corrupted_member():
    target = torch.zeros(4, 3, dtype=torch.float64)
    near, opposite, corrupted = (
        {**state(0), "weight": torch.full((4, 3), value, dtype=torch.float64)} for value in (1.0, -2.0, 50.0)
    )
    soup = GreedySoup().combine(refuse, checkpoints(corrupted, opposite, near), Validation(target)).state
    torch.testing.assert_close(soup["weight"], torch.full((4, 3), -0.5, dtype=torch.float64))


@pytest.mark.parametrize(("accept", "expected"), [(False, 1.0), (True, 0.0)])
def test_a_tie_joins_only_where_ties_are_accepted(accept, expected):
    plus, minus = ({**state(0), "weight": torch.full((4, 3), value, dtype=torch.float64)} for value in (1.0, -1.0))
    flat = Validation()
    flat.score = lambda given: 0.0
    soup = GreedySoup(accept_ties=accept).combine(refuse, checkpoints(plus, minus), flat).state
    torch.testing.assert_close(soup["weight"], torch.full((4, 3), expected, dtype=torch.float64))


def labelled():
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    return inputs, (inputs @ state(1)["weight"].T).argmax(1)


def test_learned_soup_without_a_step_is_uniform_and_with_steps_lowers_the_validation_loss():
    made, validation = checkpoints(state(1), state(2), state(3)), Validation(data=labelled())
    uniform = UniformSoup().combine(refuse, made, None).state
    untouched = LearnedSoup(epochs=0).combine(refuse, made, validation).state
    learned = LearnedSoup(epochs=20, batch_size=16).combine(refuse, made, validation).state
    losses = []
    for one in (uniform, untouched, learned):
        losses.append(float(validation.loss(validation.outputs(one, labelled()), labelled())))
    torch.testing.assert_close(untouched["weight"], uniform["weight"], rtol=0, atol=1e-12)
    assert losses[2] < 0.8 * losses[0]
    assert not learned["weight"].requires_grad and int(learned["counter"]) == 1
    mixture = torch.linalg.lstsq(
        torch.stack([state(k)["weight"].flatten() for k in (1, 2, 3)], dim=1), learned["weight"].flatten()
    ).solution
    assert float(mixture.sum()) == pytest.approx(1.0) and bool((mixture > 0).all()), "a softmax mixture of the members"


def test_learned_shares_are_those_of_the_formula_one_for_each_tensor_and_member():
    """Against AdamW by hand on softmax shares and a temperature, which multiplies the logits and is left out at the end."""
    names, states, rounds = ("weight", "bias"), [state(k) for k in (1, 2, 3)], 4
    validation = Validation(data=labelled())
    learned = LearnedSoup(epochs=rounds, batch_size=32).combine(refuse, checkpoints(*states), validation).state
    values = [torch.zeros(3, dtype=torch.float64) for _ in names] + [torch.ones((), dtype=torch.float64)]
    moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in values]

    def mixed(shares):
        return {
            name: sum(part * one[name] for part, one in zip(torch.softmax(share, 0), states))
            for name, share in zip(names, shares)
        }

    for step in range(1, 2 * rounds + 1):
        inputs, labels = (part.split(32)[(step - 1) % 2] for part in labelled())
        leaves = [one.clone().requires_grad_() for one in values]
        made = mixed(leaves[:2])
        logits = (inputs @ made["weight"].T + made["bias"]) * leaves[2]
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), leaves)
        for place, gradient in enumerate(gradients):
            first, second = moments[place]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moments[place] = first, second
            scaled = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            values[place] = values[place] - 0.05 * scaled
    expected = mixed(values[:2])
    for name in names:
        torch.testing.assert_close(learned[name], expected[name], rtol=0, atol=1e-10)
    assert abs(float(values[2]) - 1.0) > 0.05 and not torch.allclose(values[0], values[1], atol=0.05)


def test_a_soup_of_lora_models_is_the_mean_of_what_they_add_as_in_pefts_cat(tiny_model):
    """Merged models are averaged. The mean of the factors would be another model: it has products of one's A with another's B,
    which peft's "linear" has too."""
    from ftft.methods.adapt.lora import LoRA

    base = tiny_model("bert").double()
    adapted = LoRA(rank=4).adapt(tiny_model("bert").double(), None)
    model, generator = adapted.model, torch.Generator().manual_seed(0)
    model.add_adapter("other", model.peft_config["default"])
    model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for kind in ("cat", "linear"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], kind, combination_type=kind)

    def merged(name):
        alone = copy.deepcopy(model)
        alone.set_adapter(name)
        whole = alone.merge_and_unload().state_dict()
        return {key: whole[key].double() for key in base.state_dict()}

    *members, cat, linear = (merged(name) for name in ("default", "other", "cat", "linear"))
    soup = UniformSoup().combine(refuse, checkpoints(*members), None).state
    for name, start in base.state_dict().items():
        if start.is_floating_point():
            mean = sum(one[name] - start for one in members) / 2
            torch.testing.assert_close(soup[name] - start, mean, rtol=0, atol=1e-12)
            torch.testing.assert_close(soup[name], cat[name], rtol=0, atol=1e-12)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert float((soup[query] - linear[query]).abs().max()) > 0.1


@pytest.mark.parametrize("method", [UniformSoup(), GreedySoup(), LearnedSoup()])
def test_a_soup_of_one_or_of_different_models_is_refused(method):
    validation = Validation(state(0)["weight"], labelled())
    with pytest.raises(UserError, match="needs the models of other stages; name them in use_models_of"):
        method.combine(refuse, checkpoints(state(0)), validation)
    other = {**state(1), "weight": torch.zeros(4, 2, dtype=torch.float64)}
    validation.score = lambda given: 0.0
    with pytest.raises(UserError, match=r"weight has the shapes \(4, 3\) and \(4, 2\)"):
        method.combine(refuse, checkpoints(state(0), other), validation)
    with pytest.raises(UserError, match="only one of them has extra"):
        method.combine(refuse, checkpoints(state(0), {**state(1), "extra": torch.zeros(1)}), validation)


@pytest.mark.parametrize("method", [WiseFT(), UniformSoup(), GreedySoup(), LearnedSoup()])
def test_they_are_combiners(method):
    assert isinstance(method, Combiner)
