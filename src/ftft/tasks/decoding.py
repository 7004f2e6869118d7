"""Greedy decoding of a batch of prompts: the likeliest next token, again and again, with the keys and values kept.

The prompts stand on the right, padded on the left, so that every row's next token is at the same place; positions count the
row's own tokens. No random number is drawn: the same weights and batch give the same tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Counting = Callable[[str, int, int], AbstractContextManager[None]]  # what is done, rows, tokens seen: charges the work inside


def greedy(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    most: int,
    ends: Collection[int],
    pad: int,
    count: Counting,
) -> list[list[int]]:
    """At most ``most`` tokens for every prompt (none empty), up to the first of ``ends``, which is left out."""
    import torch

    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device)
    told = "position_ids" in inspect.signature(_innermost(model).forward).parameters
    written: list[list[int]] = [[] for _ in prompts]
    going, cache = [True] * len(prompts), None
    with torch.no_grad():
        for done in range(most):
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
            if not any(going):
                break
            tokens = following[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    return written


def _innermost(model: Any) -> torch.nn.Module:
    """The model inside peft's, whose own forward takes any argument and names none."""
    found: torch.nn.Module = getattr(model, "get_base_model", lambda: model)()
    return found


def end_tokens(model: torch.nn.Module, processor: Any) -> set[int]:
    """The tokens that end an answer: the tokenizer's end-of-text token, and those that the model's own generation ends with."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [own]
    return {int(token) for token in (processor.eos_token_id, *listed) if token is not None}
