"""Text classification: one text or a pair of texts, one of C classes.

Tokens are kept flat (int32 with offsets), so that a batch in any order is one gather. A batch is as wide as its longest
example, rounded up to a multiple of 8 but never beyond ``max_length``; padding stands on the right, where it changes
neither positions nor, in decoders, what a token can see, so that an example's logits do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ftft.data.inputs import TEXTS, TaskInputs
from ftft.errors import UserError
from ftft.settings import setting
from ftft.tasks.class_logits import ClassLogits
from ftft.tasks.contract import Batch, Prepared, batch_of, wide

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples

CHUNK = 4096  # texts given to the tokenizer at once: bounds the memory its Python lists take
MULTIPLE = 8  # batch widths, for the matrix units; also few distinct shapes to count the FLOPs of


@dataclass(frozen=True)
class TextClassification(ClassLogits):
    """Assign one of C classes to a text, or to a pair of texts (``text``, ``text_pair``)."""

    max_length: int = setting(128, "tokens, special ones included; of longer pairs the longer text is cut first", ge=1)

    name: ClassVar[str] = "text_classification"
    inputs: ClassVar[TaskInputs] = TEXTS
    model: ClassVar[str] = "sequence_classification"

    @property
    def longest(self) -> int:
        """The most tokens an input has."""
        return self.max_length

    def prepare(self, examples: Examples, processor: Any) -> Prepared:
        """Tokenise every example with the model's tokenizer, cutting to ``max_length`` tokens.

        Raises UserError when ``max_length`` is more than the model has positions for, or too small for a text.
        """
        require_length(self.max_length, processor, pair="text_pair" in examples.inputs)
        columns = [examples.inputs["text"]] + ([examples.inputs["text_pair"]] if "text_pair" in examples.inputs else [])
        input_ids, token_types, lengths = [], [], []
        for start in range(0, len(examples), CHUNK):
            texts = [column.slice(start, CHUNK).to_pylist() for column in columns]
            encoded = processor(*texts, truncation="longest_first", max_length=self.max_length, return_attention_mask=False)
            tokens = _fill_empty(encoded["input_ids"], processor)
            chunk_lengths = np.fromiter(map(len, tokens), dtype=np.int32, count=len(tokens))
            lengths.append(chunk_lengths)
            input_ids.append(_flatten(tokens, int(chunk_lengths.sum())))
            if "token_type_ids" in encoded:
                types = [types or [0] for types in encoded["token_type_ids"]]
                token_types.append(_flatten(types, int(chunk_lengths.sum())))
        all_lengths = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int32)
        storage: dict[str, Any] = {
            "input_ids": np.concatenate(input_ids) if input_ids else np.zeros(0, dtype=np.int32),
            "offsets": np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(all_lengths, dtype=np.int64)]),
            "pad_token_id": int(processor.pad_token_id),
        }
        if token_types:
            storage["token_type_ids"] = np.concatenate(token_types)
            storage["pad_token_type_id"] = int(getattr(processor, "pad_token_type_id", 0))
        return Prepared(examples=examples, lengths=all_lengths, storage=storage)

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]): inputs int64 [B, L], weights 1 where none are given."""
        import torch

        rows = np.asarray(rows, dtype=np.int64)
        storage, lengths = prepared.storage, prepared.lengths[rows]
        longest = int(lengths.max())
        width = max(longest, min(-(-longest // MULTIPLE) * MULTIPLE, self.max_length))
        mask = np.arange(width) < lengths[:, None]
        positions = (storage["offsets"][rows][:, None] + np.arange(width))[mask]

        def padded(name: str, fill: int) -> torch.Tensor:
            values = np.full(mask.shape, fill, dtype=np.int64)
            values[mask] = storage[name][positions]
            return torch.from_numpy(values)

        inputs = {"input_ids": padded("input_ids", storage["pad_token_id"])}
        if "token_type_ids" in storage:
            inputs["token_type_ids"] = padded("token_type_ids", storage["pad_token_type_id"])
        inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        return batch_of(prepared.examples, rows, weights, inputs)

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [B, C]: float64 from a float64 model, else float32 (under autocast the model gives bfloat16)."""
        return wide(model(**batch.inputs).logits)


def require_length(max_length: int, tokenizer: Any, *, pair: bool = False) -> None:
    """UserError where ``task.max_length`` is more than the model has positions for, or leaves no room for a text."""
    limit = tokenizer.model_max_length
    if max_length > limit:
        raise UserError(
            f"task.max_length is {max_length}, but the model has positions for {limit} tokens; give at most {limit}"
        )
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special:
        raise UserError(
            f"task.max_length is {max_length}, but the tokenizer's {special} special tokens leave no room for the text; give "
            f"at least {special + (2 if pair else 1)}"
        )


def _fill_empty(tokens: list[list[int]], processor: Any) -> list[list[int]]:
    """An empty text of a tokenizer without special tokens becomes one end-of-text token: no model takes zero tokens."""
    if all(tokens):
        return tokens
    token = processor.eos_token_id if processor.eos_token_id is not None else processor.pad_token_id
    return [one or [token] for one in tokens]


def _flatten(lists: Sequence[Sequence[int]], total: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=total)
