"""What a language model writes to prompts of several lengths: transformers' own greedy texts, whole or not at all."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import GenerationConfig, GPT2LMHeadModel

from ftft.data.examples import Examples
from ftft.tasks.causal_language_modelling import CausalLanguageModelling

PROMPTS = ["the film was", "a", "the dog runs outside and the cat sleeps", "", "people sit", "good bad good bad"]


@pytest.fixture(scope="module")
def model(tiny_model):
    """A GPT-2, whose positions end, with an end token that is neither rare nor everywhere."""
    torch.manual_seed(2)
    made = GPT2LMHeadModel(tiny_model("gpt2", n_positions=16).config).double().eval()
    return made


@contextmanager
def uncounted(*_):
    yield


def unkept(_, write):
    return write()


def alone(model, tokenizer, prompt, limit, ends):
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    config = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=sorted(ends), pad_token_id=0)
    said = model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist()
    return said[:-1] if said[-1] in ends else None


@pytest.mark.parametrize("most", [3, 30])
def test_a_text_that_ends_in_time_and_fits_is_the_models_own_and_any_other_is_none(model, tokenizer, answered, most):
    task = CausalLanguageModelling(max_length=16)
    tokens = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    # A token that ends some of the texts early: the third of the first one's own continuation.
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=3)
    first = model.generate(torch.tensor([tokens[0]]), generation_config=config)
    ends = {3, int(first[0, -1])}
    model.generation_config.eos_token_id = sorted(ends)
    found = task.write(model, answered(PROMPTS), tokenizer, most=most, count=uncounted, batch=unkept)
    ended = 0
    for prompt, own, one in zip(PROMPTS, tokens, found):
        if not own:
            assert (one.text, one.tokens) == (None, 0)
            continue
        said = alone(model, tokenizer, prompt, min(most + 1, 16 - len(own)), ends)
        expected = None if said is None else tokenizer.decode(said, skip_special_tokens=True)
        assert one.text == expected
        ended += expected is not None
        if said is not None:
            assert len(said) <= most and len(own) + len(said) + 1 <= 16 and one.tokens == len(own) + len(said)
    assert ended, "no text ended, and nothing was compared"


def test_a_prompt_without_room_is_not_asked(model, tokenizer, answered):
    task = CausalLanguageModelling(max_length=6)
    asked = []

    @contextmanager
    def count(kind, prompts, length):
        asked.append((kind, prompts, length))
        yield

    found = task.write(model, answered(["a b c d e f", "a b c d e f g h", "a b"]), tokenizer, most=4, count=count, batch=unkept)
    assert [one.tokens > 0 for one in found] == [False, False, True]
    assert all(size == 1 and length <= 6 for _, size, length in asked) and asked[0] == ("prefill", 1, 2)


def test_a_chat_is_asked_as_its_template_asks(tiny_model, tokenizer):
    model = GPT2LMHeadModel(tiny_model("gpt2").config).eval()
    template = ("{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}")  # fmt: skip
    task, before = CausalLanguageModelling(max_length=64), tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
        chat = json.dumps([*turns, {"role": "assistant", "content": "never seen"}])
        some = Examples(pa.array(["r"]), {"messages": pa.array([chat])}, np.zeros(1, dtype=np.int64), (), "f")
        lengths = []

        @contextmanager
        def count(kind, prompts, length):
            lengths.append(length)
            yield

        task.write(model, some, tokenizer, most=1, count=count, batch=unkept)
        expected = tokenizer("user a assistant b user c assistant", add_special_tokens=False)["input_ids"]
        assert lengths[0] == len(expected)
    finally:
        tokenizer.chat_template = before
