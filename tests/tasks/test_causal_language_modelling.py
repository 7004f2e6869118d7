"""Losses of completions are transformers' own, whatever the batch; nothing of a prompt counts; sequences are recorded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.settings import TrainSettings
from ftft.errors import UserError
from ftft.methods.contract import Models
from ftft.methods.objective.asft import ASFT
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.contract import Task
from ftft.tasks.sequences import IGNORED, STATISTICS

PROMPTS = ["the film was", "a", "the dog runs outside and the cat", "", "people sit"]
COMPLETIONS = ["good", "very funny film", "sleeps", "nobody is happy", "inside a place"]
TASK = CausalLanguageModelling(max_length=32)


def examples(prompts=PROMPTS, completions=COMPLETIONS):
    inputs = {"completion": pa.array(completions)} | ({"prompt": pa.array(prompts)} if prompts else {})
    if not prompts:
        inputs = {"text": inputs["completion"]}
    n = len(completions)
    return Examples(pa.array([f"r{i}" for i in range(n)]), inputs, np.zeros(n, dtype=np.int64), ("text",), "f")


def decoder(tiny_model, architecture="llama"):
    torch.manual_seed(0)
    kind = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel}[architecture]
    return kind(tiny_model(architecture).config).double().eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("prompted", [True, False])
def test_the_loss_of_a_row_is_transformers_own_whatever_its_batch(tiny_model, tokenizer, architecture, prompted):
    model, data = decoder(tiny_model, architecture), TASK.prepare(examples(PROMPTS if prompted else None), tokenizer)
    batch = TASK.collate(data, np.arange(5))
    losses = TASK.per_example_loss(TASK.forward(model, batch), batch)
    for row in range(5):
        prompt = tokenizer(PROMPTS[row], add_special_tokens=False)["input_ids"] if prompted else []
        answer = [*tokenizer(COMPLETIONS[row], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[IGNORED] * len(prompt) + answer])
        said = model(input_ids=ids, labels=labels)  # whose loss is computed in float32
        assert float(losses[row].detach()) == pytest.approx(float(said.loss.detach()), abs=1e-5)
        exact = torch.nn.functional.cross_entropy(said.logits[0, :-1], labels[0, 1:], ignore_index=IGNORED)
        torch.testing.assert_close(losses[row].detach(), exact.detach(), rtol=0, atol=1e-10)
        targets = len(answer) - (not prompt)  # the first token of all is told from nothing
        assert float(TASK.units(batch)[row]) == targets


def test_nothing_of_a_prompt_is_a_target_and_padding_is_not(tokenizer):
    data = TASK.prepare(examples(), tokenizer)
    batch = TASK.collate(data, np.array([2, 0]))
    tokens, targets = batch.inputs["input_ids"], batch.extra["targets"]
    for row, index in enumerate((2, 0)):
        prompt = len(tokenizer(PROMPTS[index], add_special_tokens=False)["input_ids"])
        told = (targets[row] != IGNORED).nonzero()[:, 0]
        assert told[0] == prompt - 1 and torch.equal(targets[row][told], tokens[row][told + 1])
        assert int(tokens[row][told[-1] + 1]) == tokenizer.eos_token_id
        assert int(batch.inputs["attention_mask"][row].sum()) == int(told[-1]) + 2
    assert tokens.shape[1] % 8 == 0


def test_too_long_a_row_loses_the_beginning_of_its_prompt_then_the_end_of_its_completion(tokenizer):
    def rows(length, **changes):
        data = CausalLanguageModelling(max_length=length, **changes).prepare(examples(["a b c d"], ["e f g"]), tokenizer)
        return tokenizer.convert_ids_to_tokens(data.storage["input_ids"]), int(data.storage["told"].argmax())

    assert rows(9) == (["a", "b", "c", "d", "e", "f", "g", "[SEP]"], 4)
    assert rows(6) == (["c", "d", "e", "f", "g", "[SEP]"], 2)
    assert rows(3) == (["d", "e", "f"], 1)
    assert rows(9, add_end=False) == (["a", "b", "c", "d", "e", "f", "g"], 4)


def test_rows_without_a_target_and_tokenizers_without_an_end_are_refused(tokenizer):
    with pytest.raises(UserError, match="example r1 has no token to predict"):
        CausalLanguageModelling(add_end=False).prepare(examples(["a", "b"], ["c", ""]), tokenizer)
    tokenizer.eos_token = None
    try:
        with pytest.raises(UserError, match="no end-of-text token; set add_end to false"):
            TASK.prepare(examples(), tokenizer)
    finally:
        tokenizer.eos_token = "[SEP]"


def test_units_and_records_are_those_of_the_losses(tiny_model, tokenizer):
    model, data = decoder(tiny_model), TASK.prepare(examples(), tokenizer)
    batch = TASK.collate(data, np.array([3, 1, 0]))
    outputs = TASK.forward(model, batch)
    units = TASK.unit_logits(outputs, batch)
    log_p = units.logits.log_softmax(-1).gather(1, units.targets[:, None])[:, 0]
    losses = TASK.per_example_loss(outputs, batch)
    for row in range(3):
        torch.testing.assert_close(losses[row], -log_p[units.example == row].mean(), rtol=0, atol=1e-12)
    recorded = TASK.record(outputs, batch)
    assert tuple(recorded) == STATISTICS
    torch.testing.assert_close(recorded["mean_log_probability"], -losses.detach().float(), rtol=0, atol=1e-5)
    right = (units.logits.argmax(-1) == units.targets).double()
    for row in range(3):
        assert float(recorded["token_accuracy"][row]) == pytest.approx(float(right[units.example == row].mean()))


@pytest.mark.parametrize("objective", [CrossEntropy(), CrossEntropy(label_smoothing=0.1), ASFT(anchor=0.5)])
def test_a_step_weighs_every_target_token_alike_however_rows_fall_on_micro_batches(tiny_model, tokenizer, objective):
    """Micro-batches hold other numbers of target tokens, and the step is that of the whole batch."""
    results = []
    for micro in (None, 1, 2):
        model, data = decoder(tiny_model), TASK.prepare(examples(PROMPTS[:4], COMPLETIONS[:4]), tokenizer)
        frozen = decoder(tiny_model).requires_grad_(False)
        with torch.no_grad():
            frozen.lm_head.weight.mul_(1.5)
        recorded = DynamicsBuffer(data.examples.ids, None, statistics=STATISTICS)
        training = Training(
            models=Models(model, {"frozen": frozen}),
            task=TASK,
            data=data,
            schedule=BatchSchedule(np.arange(4), data.lengths, 4, 6, 0),
            objective=objective,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            settings=TrainSettings(batch_size=4, micro_batch_size=micro, clip=None),
            precision="fp64",
            accelerator=Accelerator(cpu=True),
            dynamics=recorded,
        )
        outcome = TrainingLoop(training).run()
        results.append((outcome.losses, dict(model.state_dict()), recorded.dynamics()))
    for losses, state, dynamics in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=0, atol=1e-12)
        for name, value in state.items():
            torch.testing.assert_close(value, results[0][1][name], rtol=0, atol=1e-11)
        assert dynamics.seen.all() and dynamics.seen.shape == (6, 4)
        for name in STATISTICS:
            np.testing.assert_allclose(dynamics.statistics[name], results[0][2].statistics[name], atol=1e-6)
    assert results[0][0][-1] < results[0][0][0]


def test_it_is_a_task():
    assert isinstance(TASK, Task)


def test_a_row_begins_as_the_tokenizer_begins_a_text(tokenizer):
    from tokenizers.processors import TemplateProcessing

    plain = TASK.prepare(examples(), tokenizer)
    backend = tokenizer.backend_tokenizer
    usual = backend.post_processor
    tokenizer.bos_token = "[CLS]"
    begins = tokenizer.bos_token_id
    try:  # the tokenizer's own template begins with [CLS]
        led = TASK.prepare(examples(), tokenizer)
        np.testing.assert_array_equal(led.lengths, plain.lengths + 1)
        np.testing.assert_array_equal(led.storage["input_ids"][led.storage["offsets"][:-1]], [begins] * 5)
        assert (TASK.units(TASK.collate(led, np.arange(5)))[3] - TASK.units(TASK.collate(plain, np.arange(5)))[3]) == 1
        cut = CausalLanguageModelling(max_length=4).prepare(examples(), tokenizer)
        assert cut.lengths.max() == 4 and set(cut.storage["input_ids"][cut.storage["offsets"][:-1]]) == {begins}
        backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        bare = TASK.prepare(examples(), tokenizer)
        np.testing.assert_array_equal(bare.storage["input_ids"], plain.storage["input_ids"])
    finally:
        backend.post_processor, tokenizer.bos_token = usual, None


def test_a_text_of_one_token_has_nothing_to_predict(tokenizer):
    with pytest.raises(UserError, match="example r1 has no token to predict"):
        CausalLanguageModelling(add_end=False).prepare(examples(None, ["good film", "good"]), tokenizer)
