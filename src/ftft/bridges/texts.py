"""Texts for a causal language model, tokenised as TRL's SFTTrainer does: the completion (or the whole text) is the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ftft.data.examples import Examples
from ftft.errors import UserError
from ftft.tasks.sequences import IGNORED

CHUNK = 4096  # texts given to the tokenizer at once: bounds the memory its Python lists take


@dataclass(frozen=True)
class PreparedTexts:
    """Tokenised examples: ``lengths`` int [N] in tokens, of which ``cut`` examples were longer than ``max_length``, and
    ``batch``, which gives the padded inputs of the examples at some rows (int64 [B]), with ``labels`` where the targets are
    tokens."""

    lengths: np.ndarray
    max_length: int
    cut: int
    batch: Callable[[np.ndarray], dict[str, torch.Tensor]]


def prepare_texts(examples: Examples, tokenizer: Any, max_length: int) -> PreparedTexts:
    """Of ``prompt`` and ``completion`` the completion's tokens are targets, of ``text`` all; an end-of-text token is added
    and everything after ``max_length`` tokens is cut off. Raises UserError where the examples have neither."""
    eos = tokenizer.eos_token or ""
    if "prompt" in examples.inputs and "completion" in examples.inputs:
        prompts = examples.inputs["prompt"].to_pylist()
        texts = [_ended(text, eos) for text in examples.inputs["completion"].to_pylist()]
    elif "text" in examples.inputs:
        prompts, texts = [""] * len(examples), [_ended(text, eos) for text in examples.inputs["text"].to_pylist()]
    else:
        raise UserError(
            "a language model's examples need the inputs prompt and completion, or text; these have "
            + ", ".join(examples.inputs)
        )
    tokens = tokenizer([prompt + text for prompt, text in zip(prompts, texts, strict=True)], verbose=False)["input_ids"]
    starts = [0] * len(tokens)
    if any(prompts):
        # Tokens may merge over the boundary: the completion begins where the two tokenisations part.
        starts = [_common(prompt, both) for prompt, both in zip(tokenizer(prompts)["input_ids"], tokens, strict=True)]
    cut = sum(len(one) > max_length for one in tokens)
    tokens = [one[:max_length] for one in tokens]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def batch(rows: np.ndarray) -> dict[str, torch.Tensor]:
        shape = (len(rows), max(1, max(len(tokens[row]) for row in rows)))
        ids, mask = torch.full(shape, pad, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        for place, row in enumerate(rows):
            one = torch.tensor(tokens[row], dtype=torch.int64)
            ids[place, : len(one)], mask[place, : len(one)] = one, 1
            labels[place, starts[row] : len(one)] = one[starts[row] :]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return PreparedTexts(np.array([len(one) for one in tokens], dtype=np.int32), max_length, cut, batch)


def count_longer(examples: Examples, tokenizer: Any, lengths: np.ndarray, max_length: int) -> int:
    """How many examples have more than ``max_length`` tokens, given their ``lengths`` (int [N]) after the cut."""
    rows = np.flatnonzero(lengths >= max_length)
    count = 0
    for start in range(0, len(rows), CHUNK):
        some = pa.array(rows[start : start + CHUNK])
        texts = [examples.inputs[name].take(some).to_pylist() for name in ("text", "text_pair") if name in examples.inputs]
        count += sum(len(one) > max_length for one in tokenizer(*texts, verbose=False)["input_ids"])
    return count


def _ended(text: str, eos: str) -> str:
    return text if not eos or text.endswith(eos) else text + eos


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
