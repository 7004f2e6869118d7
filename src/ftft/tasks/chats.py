"""Chats as tokens, with an exact mask of what the assistant says.

The tokenizer's chat template writes a chat as one text. A turn of the assistant is what the template adds to everything before
it and the prompt that asks for it:

    tokens of turn i = tokens(messages[: i + 1]) without tokens(messages[:i], add_generation_prompt)

Each of these must be a prefix of the whole chat's tokens, and it is: every prefix is tokenised and compared. A template that
writes earlier turns otherwise once later ones follow (leaving out their reasoning, say) has no such mask and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftft.data.messages import messages_of
from ftft.errors import UserError

# Given to the tokenizer at once, whole chats and their beginnings together: bounds the memory its Python lists take.
CHARACTERS = 1 << 22
_SAID = "ftft0answer0ftft"  # stands for what the assistant says, to see what the template writes behind it


@dataclass
class TokenisedChat:
    """A chat's ``tokens``, uncut, whether each is ``said`` by the assistant, and of each turn of the assistant its place among
    the messages (from 0) and the place of its first token."""

    tokens: list[int]
    said: list[bool]
    turns: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class _Plan:
    """Of one chat the places in a list of texts: its ``whole``, and for every turn of the assistant (its place among the
    messages, the text before it, the text that ends with it)."""

    name: str
    whole: int
    turns: list[tuple[int, int, int]]


def read_template(path: Path) -> str:
    """The chat template in a file; UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"task.chat_template: {path} cannot be read as text: {error}") from None


def require_template(processor: Any) -> None:
    """UserError where the tokenizer has no chat template."""
    if not getattr(processor, "chat_template", None):
        raise UserError(
            "task.chat_template: the tokenizer has no chat template, so messages cannot be written as one text; "
            "name a file that holds one (Jinja)"
        )


def tokenised_chats(chats: Iterable[tuple[str, str]], processor: Any) -> Iterator[TokenisedChat]:
    """The tokens of every chat, given as :mod:`ftft.data.messages` keeps it with the name that errors call it by. UserError
    for a template that refuses a chat or has no exact mask."""
    texts: list[str] = []
    plans: list[_Plan] = []
    characters = 0
    for chat, name in chats:
        first = len(texts)
        plans.append(_planned(messages_of(chat), name, processor, texts))
        characters += sum(map(len, texts[first:]))
        if characters > CHARACTERS:
            yield from _tokenised(texts, plans, processor)
            texts, plans, characters = [], [], 0
    if plans:
        yield from _tokenised(texts, plans, processor)


def behind_a_turn(chat: str, name: str, processor: Any) -> str:
    """What the template writes behind what the assistant says in its last turn of a chat; "" where it writes that otherwise."""
    messages = messages_of(chat)
    while messages[-1]["role"] != "assistant":
        messages.pop()
    messages[-1] = {**messages[-1], "content": _SAID}
    _, found, behind = _written(messages, name, processor).rpartition(_SAID)
    return behind if found else ""


def _planned(messages: list[dict[str, Any]], name: str, processor: Any, texts: list[str]) -> _Plan:
    """Write a chat and its beginnings behind ``texts``."""
    turns = []
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            turns.append((turn, len(texts), len(texts) + 1))
            texts.append(_written(messages[:turn], name, processor, asks=True))
            texts.append(_written(messages[: turn + 1], name, processor))
    texts.append(_written(messages, name, processor))
    return _Plan(name, len(texts) - 1, turns)


def _tokenised(texts: list[str], plans: list[_Plan], processor: Any) -> Iterator[TokenisedChat]:
    tokens = processor(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    for plan in plans:
        row = tokens[plan.whole]
        found = TokenisedChat(row, [False] * len(row))
        for turn, before, after in plan.turns:
            first, last = len(tokens[before]), len(tokens[after])
            if row[:first] != tokens[before] or row[:last] != tokens[after]:
                raise UserError(
                    f"task.chat_template: the chat template writes the beginning of example {plan.name} otherwise once later "
                    "turns follow, so the assistant's tokens cannot be told exactly; name a file whose template only appends"
                )
            found.said[first:last] = [True] * (last - first)
            found.turns.append((turn, first))
        yield found


def _written(messages: list[dict[str, Any]], name: str, processor: Any, *, asks: bool = False) -> str:
    from jinja2.exceptions import TemplateError

    if not messages:
        raise UserError(f"example {name} begins with the assistant; begin the chat with the turn that it answers")
    try:
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"example {name}: the chat template refuses its messages: {' '.join(str(error).split())}") from None
