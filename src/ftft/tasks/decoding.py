"""Greedy decoding of a batch of prompts: the likeliest next token, again and again, with the keys and values kept.

The prompts stand on the right, padded on the left, so that every row's next token is at the same place; positions count the
row's own tokens. No random number is drawn: the same weights and batch give the same tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftft.files import fingerprint

if TYPE_CHECKING:
    import torch

Counting = Callable[[str, int, int], AbstractContextManager[None]]  # what is done, rows, tokens seen: charges the work inside
# What a batch asks (a SHA-256) and what writes it -> its answers, of now or of before.
Batching = Callable[[str, Callable[[], "list[Written]"]], "list[Written]"]

AT_ONCE = 64  # prompts that are answered together


def greedy(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    most: int | Sequence[int],
    ends: Collection[int],
    pad: int,
    count: Counting,
) -> list[list[int]]:
    """At most ``most`` tokens (of all, or of each) for every prompt (none empty), up to the first of ``ends``, which is left
    out."""
    import torch

    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device)
    told = "position_ids" in inspect.signature(_innermost(model).forward).parameters
    written: list[list[int]] = [[] for _ in prompts]
    limits = [most] * len(prompts) if isinstance(most, int) else list(most)
    going, cache = [True] * len(prompts), None
    with torch.no_grad():
        for done in range(max(limits)):
            places: dict[str, Any] = {}
            if told:
                places["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            with count("decode" if done else "prefill", len(prompts), mask.shape[1]):
                outputs = model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **places)
            cache, following = outputs.past_key_values, outputs.logits[:, -1].argmax(dim=-1)
            for row, token in enumerate(following.tolist()):
                going[row] = going[row] and token not in ends
                if going[row]:
                    written[row].append(token)
                    going[row] = len(written[row]) < limits[row]
            if not any(going):
                break
            tokens = following[:, None]
            # What has ended stays where it is: its positions might be the model's last.
            mask = torch.cat([mask, mask.new_tensor(going)[:, None]], dim=1)
    return written


@dataclass(frozen=True)
class Written:
    """What a model wrote: the ``text``, None where it had not ended; ``tokens`` that went through the model for it."""

    text: str | None
    tokens: int


def written_to(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    processor: Any,
    *,
    most: int,
    room: int,
    ends: Collection[int],
    cut: str,
    pad: int,
    count: Counting,
    batch: Batching,
) -> list[Written]:
    """A text to every prompt, greedily, of at most ``most`` tokens and, with its prompt and an end, at most ``room``; prompts
    without room, or without a token, get none. The text ``cut`` ends one, too, where it is not empty. In batches of prompts of
    similar length, each of which goes through ``batch``: what it asks is all that its answers depend on besides the model."""
    found = [Written(None, 0)] * len(prompts)
    ending = {"ends": sorted(ends), "cut": cut, "pad": pad}
    order = sorted((index for index, one in enumerate(prompts) if 0 < len(one) < room), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        limits = [min(most + 1, room - len(prompts[index])) for index in part]  # the end is a token, too
        asked = [list(prompts[index]) for index in part]

        def write(asked: list[list[int]] = asked, limits: list[int] = limits) -> list[Written]:
            written = greedy(model, asked, most=limits, ends=ends, pad=pad, count=count)
            texts = processor.batch_decode(written, skip_special_tokens=True)
            return [_ended(text, cut, limit, one, tokens) for text, limit, one, tokens in zip(texts, limits, asked, written)]

        for index, answer in zip(part, batch(fingerprint({"prompts": asked, "limits": limits, **ending}), write)):
            found[index] = answer
    return found


def _ended(text: str, cut: str, limit: int, prompt: list[int], tokens: list[int]) -> Written:
    before, ended, _ = text.partition(cut) if cut else (text, "", "")
    return Written(before if ended or len(tokens) < limit else None, len(prompt) + len(tokens))


def pad_token(processor: Any) -> int:
    """The token that fills rows up: the tokenizer's padding token, or where it has none its end-of-text token."""
    return int(processor.pad_token_id if processor.pad_token_id is not None else processor.eos_token_id)


def _innermost(model: Any) -> torch.nn.Module:
    """The model inside peft's, whose own forward takes any argument and names none."""
    found: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    return found


def end_tokens(model: torch.nn.Module, processor: Any) -> set[int]:
    """The tokens that end an answer: the tokenizer's end-of-text token, and those that the model's own generation ends with."""
    return model_ends(model) | ({int(processor.eos_token_id)} if processor.eos_token_id is not None else set())


def model_ends(model: torch.nn.Module) -> set[int]:
    """The tokens that the model's own generation ends with."""
    own = getattr(getattr(getattr(model, "module", model), "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [own]
    return {int(token) for token in listed if token is not None}
