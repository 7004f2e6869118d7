"""What a model writes is compared with what was asked for: the right turn, from the right place, up to where a turn ends."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ftft.data.examples import Examples
from ftft.data.messages import read_messages
from ftft.errors import UserError
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.contract import written_by

ENDED = (
    "{% for m in messages %}{{ m.role + ' : ' + m.content + END }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
TURNS = [("user", "a dog"), ("assistant", "sleeps inside"), ("user", "the old cat"), ("assistant", "runs")]


class Knowing(torch.nn.Module):
    """A model that knows some sequences of tokens and goes on with them, then with ``after`` for ever; its cache is the tokens
    it has seen."""

    def __init__(self, known: list[list[int]], size: int, after: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.known, self.size, self.after = known, size, after

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        new = [
            [int(t) for t, real in zip(row, mask) if real]
            for row, mask in zip(input_ids, attention_mask[:, -input_ids.shape[1] :])
        ]
        seen = new if past_key_values is None else [before + more for before, more in zip(past_key_values, new)]
        logits = torch.zeros(len(seen), 1, self.size)
        for row, tokens in enumerate(seen):
            nexts = [one[len(tokens)] for one in self.known if one[: len(tokens)] == tokens and len(one) > len(tokens)]
            logits[row, 0, nexts[0] if nexts else self.after] = 1
        return SimpleNamespace(logits=logits, past_key_values=seen)


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    tiny_tokenizer.chat_template, tiny_tokenizer.eos_token = ENDED.replace("END", "' ; '"), "[SEP]"
    yield tiny_tokenizer
    tiny_tokenizer.chat_template = tiny_tokenizer.eos_token = None


def rows(**inputs: pa.Array) -> Examples:
    n = len(next(iter(inputs.values())))
    return Examples(pa.array([f"r{i}" for i in range(n)]), inputs, np.zeros(n, dtype=np.int64), (), "f")


def chats(*turns: list[tuple[str, str]]) -> Examples:
    made = [[{"role": role, "content": content} for role, content in one] for one in turns]
    return rows(messages=read_messages(pa.chunked_array([pa.array(made)]), "messages", "rows", str))


def right(examples: Examples, tokenizer: Any, **settings: Any) -> list[float]:
    """Which answers of a model are right that knows every row by heart, uncut."""

    def task(length: int) -> CausalLanguageModelling:
        return CausalLanguageModelling(**{"answer": "text", "answer_tokens": 8, **settings, "max_length": length})

    whole = task(512).prepare(examples, tokenizer).storage
    known = [whole["input_ids"][a:b].tolist() for a, b in zip(whole["offsets"], whole["offsets"][1:])]
    model = Knowing(known, len(tokenizer), tokenizer.convert_tokens_to_ids("good"))
    cut = task(settings.get("max_length", 512))
    data = cut.prepare(examples, tokenizer)
    batch = cut.collate(data, np.arange(len(data)))
    found = written_by(cut, model, data, batch, lambda *_: contextlib.nullcontext())
    assert found is not None and found.shape == (len(data), 1)
    return found[:, 0].tolist()


def test_a_cut_chat_is_asked_for_the_last_turn_that_it_still_has(tokenizer: Any) -> None:
    length = int(CausalLanguageModelling().prepare(chats(TURNS), tokenizer).lengths[0])
    assert right(chats(TURNS, TURNS[:2]), tokenizer) == [1, 1]
    assert right(chats(TURNS, TURNS[:2]), tokenizer, max_length=length - 2) == [1, 1], "its last turn is cut off"
    assert right(chats(TURNS, TURNS[:2]), tokenizer, max_length=length - 1) == [1, 1], "its last turn lost its end"


def test_turns_of_the_assistant_without_anything_between_are_told_apart(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + ' ; ' }}{% endfor %}"
    assert right(chats([("user", "a dog"), ("assistant", "sleeps"), ("assistant", "runs")]), tokenizer) == [1]


@pytest.mark.parametrize("completion", ["bad film", "good"])
def test_answers_are_not_asked_where_a_prompt_is_empty(completion: str, tokenizer: Any) -> None:
    empty = rows(prompt=pa.array(["", "the film"]), completion=pa.array([completion, "is good"]))
    with pytest.raises(UserError, match=r"^task.answer: example r0 has an empty prompt"):
        right(empty, tokenizer)
    CausalLanguageModelling().prepare(empty, tokenizer)  # to learn from it is well
    tokenizer.bos_token = "[CLS]"
    try:  # which the tokenizer puts before every text
        assert right(empty, tokenizer) == [1, 1]
    finally:
        tokenizer.bos_token = None


@pytest.mark.parametrize("end", ["' ; '", "' [MASK] ' + 'good '", "' [SEP] '", "''"])
def test_an_answer_in_a_chat_ends_as_the_template_ends_a_turn(end: str, tokenizer: Any) -> None:
    tokenizer.chat_template = ENDED.replace("END", end)
    for turns in (TURNS, TURNS[:2]):
        expected = 0 if end == "''" else 1  # nothing says where such a turn ends: the model goes on for ever
        assert right(chats(turns), tokenizer) == [expected]


def test_what_ends_a_turn_ends_no_completion(tokenizer: Any) -> None:
    assert right(rows(prompt=pa.array(["a dog"]), completion=pa.array(["runs ; sleeps"])), tokenizer) == [1]


def test_a_last_row_without_a_token_is_refused_in_one_sentence(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="^example r1 has no token to predict"):
        CausalLanguageModelling(add_end=False).prepare(rows(text=pa.array(["a b", ""])), tokenizer)


def test_many_chats_are_tokenised_a_part_at_a_time(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftft.tasks import chats as module

    examples = chats(*[TURNS[: 2 + 2 * (n % 2)] for n in range(9)])
    whole = CausalLanguageModelling().prepare(examples, tokenizer)
    sizes = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **settings: Any) -> Any:
            sizes.append(sum(map(len, texts)))
            return tokenizer(texts, **settings)

    monkeypatch.setattr(module, "CHARACTERS", 300)
    parts = CausalLanguageModelling().prepare(examples, Watched())
    for name in ("input_ids", "told", "offsets"):
        np.testing.assert_array_equal(parts.storage[name], whole.storage[name])
    assert len(sizes) > 3 and max(sizes) < 700
