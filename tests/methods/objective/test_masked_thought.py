"""Masked thought: what it may touch, how often, from when on, and that the noise is the example's own."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaForCausalLM

from ftft.engine.batches import BatchSchedule
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.settings import TrainSettings
from ftft.errors import UserError
from ftft.methods.contract import Models
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.objective.masked_thought import MaskedThought
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.sequences import IGNORED

N, WORDS = 24, ["good", "bad", "film", "movie", "dog", "cat", "people", "place", "the", "is"]
TASK = CausalLanguageModelling(max_length=128)


@pytest.fixture(scope="module")
def data(tokenizer, answered):
    source = np.random.default_rng(4)
    texts = {
        name: [" ".join(source.choice(WORDS, size=source.integers(*sizes))) for _ in range(N)]
        for name, sizes in (("prompts", (2, 9)), ("completions", (20, 60)))
    }
    return TASK.prepare(answered(**texts), tokenizer)


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_model("llama").config).double()


def started(model, step=1, steps=1, **settings):
    torch.manual_seed(6)
    function = MaskedThought(**settings).start(Models(model), TASK)
    function.before_step(step, steps, None)
    return function


def told(batch):
    """The input tokens that are to be told, bool like the inputs, and the last of every told part."""
    found = torch.zeros_like(batch.inputs["input_ids"], dtype=torch.bool)
    found[:, 1:] = batch.extra["targets"] != IGNORED
    after = torch.cat([found[:, 1:], torch.zeros_like(found[:, :1])], dim=1)
    return found, found & ~after


def test_the_share_rises_evenly_to_its_highest_and_stays_there():
    method = MaskedThought(rate=0.4, ramp=0.5)
    assert [method.probability(step, 8) for step in range(9)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])
    assert MaskedThought().probability(0, 100) == 0 and MaskedThought().probability(100, 100) == 0.4
    assert MaskedThought().probability(33, 100) == pytest.approx(0.2)
    assert MaskedThought(ramp=0.0).probability(0, 100) == 0.4


@pytest.mark.parametrize("lay_out", [TASK.collate, TASK.pack])
def test_targets_prompts_padding_and_ends_stay_and_the_rest_is_replaced_as_often_as_asked(model, data, lay_out):
    batch = lay_out(data, np.arange(N))
    targets, inputs = batch.extra["targets"].clone(), batch.inputs["input_ids"].clone()
    where, last = told(batch)
    may = where & ~last
    changed = torch.zeros_like(inputs)
    draws = 40
    for step in range(1, draws + 1):
        noised, share = started(model, step=step, steps=1, rate=0.3).noised(batch)
        differs = noised.inputs["input_ids"] != inputs
        assert not differs[~may].any() and torch.equal(noised.extra["targets"], targets)
        assert {name: value for name, value in noised.inputs.items() if name != "input_ids"}.keys() == batch.inputs.keys() - {
            "input_ids"
        }
        changed += differs
        vocabulary = model.config.vocab_size
        # One in `vocabulary` of the drawn tokens is the one that stood there.
        assert share * int(where.sum()) >= int(differs.sum())
    tries, p = draws * int(may.sum()), 0.3 * (1 - 1 / vocabulary)
    assert abs(int(changed.sum()) - tries * p) < 3 * np.sqrt(tries * p * (1 - p))
    assert torch.equal(batch.inputs["input_ids"], inputs), "the batch itself stays as it was"
    assert bool((changed[may] < draws).all()) and bool((changed[may] > 0).all()), "every token is drawn by itself"


def test_how_many_are_replaced_is_binomial(model):
    """Mean n p and variance n p (1 - p), not a fixed number: each within 4 standard errors of 3000 draws."""
    n, p, draws = 40, 0.3, 3000
    function = started(model, rate=p)
    counts = []
    for step in range(draws):
        function.before_step(step + 1, 1, None)
        chosen, _ = function._draw(3, n)
        counts.append(int(chosen.sum()))
    variance = n * p * (1 - p)
    assert abs(np.mean(counts) - n * p) < 4 * np.sqrt(variance / draws)
    assert abs(np.var(counts) - variance) < 4 * variance * np.sqrt(2 / draws)


def test_before_the_ramp_it_is_cross_entropy_on_the_same_batch(model, data):
    batch = TASK.collate(data, np.arange(6))
    mine = started(model, step=0, steps=10)(batch)
    plain = CrossEntropy().start(Models(model), TASK)(batch)
    assert float(mine.total.detach()) == float(plain.total.detach()) and torch.equal(mine.per_example, plain.per_example)
    assert mine.parts["replaced"] == 0.0


def test_its_loss_is_that_of_the_right_tokens_after_the_replaced_ones(model, data):
    batch = TASK.collate(data, np.array([3]))
    batch.weights[:] = 2.0
    function = started(model, rate=0.5)
    noised, share = function.noised(batch)
    logits = model(**noised.inputs).logits[0, :-1]
    targets = batch.extra["targets"][0]
    expected = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)
    found = function(batch)
    count = int((targets != IGNORED).sum())
    torch.testing.assert_close(found.per_example[0].double(), expected.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.total / (2.0 * count), expected, rtol=0, atol=1e-12)
    assert found.parts["replaced"] == share and 0.3 < share < 0.7


def test_with_certainty_and_a_fixed_token_every_token_but_the_last_is_that_token(model, data):
    batch = TASK.collate(data, np.arange(5))
    where, last = told(batch)
    model.generation_config.eos_token_id = None  # the last stays because it is the last
    for settings, token in (({}, model.config.pad_token_id), ({"mask_token": 7}, 7)):
        noised, _ = started(model, rate=1.0, random_share=0.0, **settings).noised(batch)
        tokens = noised.inputs["input_ids"]
        assert (tokens[where & ~last] == token).all() and torch.equal(tokens[last], batch.inputs["input_ids"][last])
    half, _ = started(model, rate=1.0, random_share=0.5, mask_token=7).noised(batch)
    assert 0.4 < float((half.inputs["input_ids"][where & ~last] == 7).double().mean()) < 0.65


def test_the_ends_of_turns_inside_an_answer_stay(model, data):
    batch = TASK.collate(data, np.arange(5))
    where, last = told(batch)
    some = (where & ~last).nonzero()[::3]
    batch.inputs["input_ids"][some[:, 0], some[:, 1]] = 9
    model.generation_config.eos_token_id = [3, 9]
    noised, _ = started(model, rate=1.0, random_share=0.0).noised(batch)
    assert (noised.inputs["input_ids"][some[:, 0], some[:, 1]] == 9).all()


def test_the_noise_is_the_examples_own_in_any_batch_and_another_at_every_step(model, data):
    function = started(model, rate=0.5)

    def noise(batch, row):
        noised, _ = function.noised(batch)
        place = batch.rows.tolist().index(row)
        return noised.inputs["input_ids"][place][: int(data.lengths[row])].tolist()

    first = noise(TASK.collate(data, np.arange(8)), 5)
    assert first == noise(TASK.collate(data, np.array([20, 5])), 5) == noise(TASK.collate(data, np.array([5])), 5)
    function.before_step(2, 2, None)
    assert noise(TASK.collate(data, np.array([5])), 5) != first
    other = MaskedThought(rate=0.5).start(Models(model), TASK)  # draws another seed
    other.before_step(1, 1, None)
    kept = other.noised(TASK.collate(data, np.array([5])))[0].inputs["input_ids"]
    assert kept[0][: int(data.lengths[5])].tolist() != first
    other.load_state(started(model).state())
    again = other.noised(TASK.collate(data, np.array([5])))[0].inputs["input_ids"]
    assert again[0][: int(data.lengths[5])].tolist() == first


def test_a_model_without_a_token_to_put_is_refused(model):
    model.config.pad_token_id = None
    MaskedThought().start(Models(model), TASK)
    with pytest.raises(UserError, match="the model has no padding token; set mask_token to the id of one it has"):
        MaskedThought(random_share=0.5).start(Models(model), TASK)
    with pytest.raises(UserError, match="tokens, not 1000000"):
        MaskedThought(random_share=0.5, mask_token=1_000_000).start(Models(model), TASK)


def trained(model, data, objective, **settings):
    training = Training(
        models=Models(model),
        task=TASK,
        data=data,
        schedule=BatchSchedule(np.arange(N), data.lengths, 8, 6, 0),
        objective=objective,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        settings=TrainSettings(batch_size=8, clip=None, **settings),
        precision="fp64",
        accelerator=Accelerator(cpu=True),
    )
    torch.manual_seed(1)
    return TrainingLoop(training).run().losses


def test_the_loop_tells_it_the_steps(model, data):
    """The first step is plain; the same noise packed, padded and in micro-batches; later ones are noised."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for objective, settings in (
        (MaskedThought(), {}),
        (MaskedThought(), {"pack": True}),
        (MaskedThought(), {"micro_batch_size": 2}),
        (CrossEntropy(), {}),
    ):
        model.load_state_dict(start)
        results.append(trained(model, data, objective, **settings))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-11)
    assert results[0][0] == results[3][0] and all(one != other for one, other in zip(results[0][2:], results[3][2:]))


def test_its_outputs_are_not_recorded_and_tell_a_sampler_nothing(tmp_path):
    from ftft.run.combinations import _check_needs
    from ftft.run.recipe import Stage

    stage = SimpleNamespace(**{field.name: None for field in dataclasses.fields(Stage)})
    stage.adapt, stage.optimize, stage.select = {"name": "full"}, {"name": "adamw"}, {"name": "infobatch"}
    stage.objective = {"name": "masked_thought"}
    with pytest.raises(UserError, match="infobatch goes by each example's loss, and masked_thought gives the training forward"):
        _check_needs(stage, "stages.main")
    stage.select, stage.dynamics = {"name": "all"}, SimpleNamespace(mode="online")
    with pytest.raises(UserError, match="record with stages.main.dynamics: {mode: epoch_end}"):
        _check_needs(stage, "stages.main")
