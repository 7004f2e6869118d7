"""Chats as tokens, with an exact mask of what the assistant says.

The tokenizer's chat template writes a chat as one text. A turn of the assistant is what the template adds to everything before
it and the prompt that asks for it:

    tokens of turn i = tokens(messages[: i + 1]) without tokens(messages[:i], add_generation_prompt)

Each of these must be a prefix of the whole chat's tokens, and it is: every prefix is tokenised and compared. A template that
writes earlier turns otherwise once later ones follow (leaving out their reasoning, say) has no such mask and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftft.data.messages import messages_of
from ftft.errors import UserError


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


def tokenised_chats(chats: Sequence[str], ids: Sequence[str], processor: Any) -> list[tuple[list[int], list[bool]]]:
    """(tokens, whether each is said by the assistant) of every chat (as :mod:`ftft.data.messages` keeps it), uncut; ``ids``
    name the chats in errors. UserError for a template that refuses a chat or has no exact mask."""
    texts: list[str] = []
    plans: list[list[tuple[int, int]]] = []  # of each chat: the places in `texts` before and after each assistant's turn
    wholes: list[int] = []
    for chat, name in zip(chats, ids):
        messages = messages_of(chat)
        plan = []
        for turn, message in enumerate(messages):
            if message["role"] == "assistant":
                plan.append((len(texts), len(texts) + 1))
                texts.append(_written(messages[:turn], name, processor, asks=True))
                texts.append(_written(messages[: turn + 1], name, processor))
        wholes.append(len(texts))
        texts.append(_written(messages, name, processor))
        plans.append(plan)
    tokens = processor(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    found = []
    for whole, plan, name in zip(wholes, plans, ids):
        row, said = tokens[whole], [False] * len(tokens[whole])
        for before, after in plan:
            first, last = len(tokens[before]), len(tokens[after])
            if row[:first] != tokens[before] or row[:last] != tokens[after]:
                raise UserError(
                    f"task.chat_template: the chat template writes the beginning of example {name} otherwise once later "
                    "turns follow, so the assistant's tokens cannot be told exactly; name a file whose template only appends"
                )
            said[first:last] = [True] * (last - first)
        found.append((row, said))
    return found


def asked_of(turns: list[dict[str, Any]], name: str, processor: Any) -> list[int]:
    """The tokens of the ``turns`` of example ``name`` up to where the assistant begins to answer."""
    text = _written(turns, name, processor, asks=True)
    tokens: list[int] = processor(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return tokens


def _written(messages: list[dict[str, Any]], name: str, processor: Any, *, asks: bool = False) -> str:
    from jinja2.exceptions import TemplateError

    if not messages:
        raise UserError(f"example {name} begins with the assistant; begin the chat with the turn that it answers")
    try:
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"example {name}: the chat template refuses its messages: {' '.join(str(error).split())}") from None
