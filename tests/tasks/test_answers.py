"""Answers in texts, read and compared; greedy decoding is transformers' own, whatever stands beside a row."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GPT2LMHeadModel, LlamaForCausalLM

from ftft.engine.flops import FlopCounter
from ftft.methods.adapt.lora import LoRA
from ftft.tasks.answers import answer_in, as_number, is_right
from ftft.tasks.decoding import end_tokens, greedy


@pytest.mark.parametrize(
    ("text", "how", "answer"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18", "marked", "18"),
        ("#### 3\nmore\n#### 1,234.50 \nnot 7", "marked", "1234.5"),
        ("####  red  fox", "marked", "red fox"),
        ("no mark 18", "marked", None),
        ("####", "marked", None),
        ("16 - 12 = 4 kids. The answer is 4.", "number", "4"),
        ("it costs $1,200.00.", "number", "1200"),
        ("down by -3.50%", "number", "-3.5"),
        ("from 10-3", "number", "3"),
        ("none", "number", None),
        (" a \n b ", "text", "a b"),
        ("", "text", None),
    ],
)
def test_the_answer_of_a_text(text: str, how: Any, answer: str | None) -> None:
    assert answer_in(text, how) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4.0", "4"),
        ("$5", "5"),
        ("50%", "50"),
        ("7.", "7"),
        ("-0.0", "0"),
        ("100", "100"),
        (".5", "0.5"),
        ("4 kids", None),
        ("", None),
    ],
)
def test_a_number_has_one_form(text: str, number: str | None) -> None:
    assert as_number(text) == number


def test_a_reference_without_an_answer_is_never_met() -> None:
    assert is_right("so 4.0 it is", "= 4", "number")
    assert not is_right("none", "none", "number") and not is_right("5", "4", "number")


@pytest.mark.parametrize(("kind", "adapted"), [(LlamaForCausalLM, False), (GPT2LMHeadModel, False), (GPT2LMHeadModel, True)])
def test_greedy_decoding_is_transformers_own_row_by_row(kind: Any, adapted: bool, tiny_config: Any) -> None:
    torch.manual_seed(0)
    model = kind(tiny_config("llama" if kind is LlamaForCausalLM else "gpt2")).double().eval()
    model.generation_config.eos_token_id = None
    if adapted:
        model = LoRA(rank=2).adapt(model, None).model.double().eval()
    prompts = [[7, 8, 9, 10, 11], [12], [13, 14, 15]]
    alone = []
    for prompt in prompts:
        config = GenerationConfig(do_sample=False, max_new_tokens=9, eos_token_id=None, pad_token_id=0)
        alone.append(model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist())
    counter = FlopCounter()
    found = greedy(model, prompts, most=9, ends=(), pad=0, count=counter.count)
    assert found == alone and counter.spent > 0
    end = alone[0][4]  # a token that ends a row leaves the others as they are
    expected = [row[: row.index(end)] if end in row else row for row in alone]
    assert greedy(model, prompts, most=9, ends={end}, pad=0, count=lambda *_: contextlib.nullcontext()) == expected
    again = counter.spent
    greedy(model, prompts, most=9, ends=(), pad=0, count=counter.count)
    assert counter.spent == 2 * again, "every step is charged, the second time from memory"


def test_an_answer_ends_where_tokenizer_or_model_end_it(tiny_config: Any) -> None:
    class Processor:
        eos_token_id = 5

    model = LlamaForCausalLM(tiny_config("llama"))
    model.generation_config.eos_token_id = [3, 4]
    assert end_tokens(model, Processor()) == {3, 4, 5}
    model.generation_config.eos_token_id = 3
    assert end_tokens(model, Processor()) == {3, 5}
