"""Rows that ask something and answer it: a prompt with its completion, or a chat whose last answer is the assistant's.

The question of a chat is the last thing said before the assistant's last turn; all before it stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ftft.data.examples import Examples
from ftft.data.loading import with_fingerprint
from ftft.data.messages import messages_of, text_of
from ftft.errors import UserError


def asks(examples: Examples) -> bool:
    """Whether the rows ask something: a text alone does not."""
    return "prompt" in examples.inputs or "messages" in examples.inputs


def require_prompts(examples: Examples, what: str) -> None:
    """UserError, led by ``what`` (who needs them), where the rows are texts without a prompt."""
    if not asks(examples):
        raise UserError(f"{what}, and rows of text alone have no prompt; give prompt and completion, or messages")


def turns_asked(chat: str) -> list[dict[str, Any]]:
    """All turns of a chat before the assistant's last one."""
    turns = messages_of(chat)
    return turns[: max(place for place, turn in enumerate(turns) if turn["role"] == "assistant")]


def questions_of(examples: Examples) -> list[str]:
    """What every row asks."""
    if "prompt" in examples.inputs:
        return [str(text) for text in examples.inputs["prompt"].to_pylist()]
    asked = [turns_asked(chat) for chat in examples.inputs["messages"].to_pylist()]
    return [str(turns[-1]["content"]) if turns else "" for turns in asked]


def answers_of(examples: Examples) -> list[str]:
    """What every row answers: its completion, or the assistant's last turn."""
    if "completion" in examples.inputs:
        return [str(text) for text in examples.inputs["completion"].to_pylist()]
    return [str(_last(messages_of(chat))["content"]) for chat in examples.inputs["messages"].to_pylist()]


def with_questions(examples: Examples, questions: Sequence[str]) -> Examples:
    """The same rows asking other questions (N texts); they keep ids and fingerprint, and are to be asked only."""
    if "prompt" in examples.inputs:
        return _with(examples, "prompt", list(questions))
    chats = []
    for chat, question in zip(examples.inputs["messages"].to_pylist(), questions):
        turns = turns_asked(chat)
        asked = turns[:-1] + [{**turns[-1], "content": question}] if turns else [{"role": "user", "content": question}]
        chats.append(text_of([*asked, _last(messages_of(chat))]))
    return _with(examples, "messages", chats)


def with_answers(examples: Examples, answers: Sequence[str]) -> Examples:
    """The same rows with other answers (N texts), and the fingerprint of what they say now; a chat ends with its answer."""
    if "completion" in examples.inputs:
        found = _with(examples, "completion", list(answers))
    else:
        chats = examples.inputs["messages"].to_pylist()
        found = _with(
            examples,
            "messages",
            [text_of([*turns_asked(chat), {"role": "assistant", "content": said}]) for chat, said in zip(chats, answers)],
        )
    return with_fingerprint(found)


def _with(examples: Examples, name: str, values: list[str]) -> Examples:
    column = pa.array(values, examples.inputs[name].type)
    return dataclasses.replace(examples, inputs={**examples.inputs, name: column})


def _last(turns: list[dict[str, Any]]) -> dict[str, Any]:
    return next(turn for turn in reversed(turns) if turn["role"] == "assistant")
