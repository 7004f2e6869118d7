"""A byte-level BPE tokenizer trained on the text: every string can be written with it, and every token is so many bytes.

A decoder's has an end-of-text token (which also begins a text) and one for padding. An encoder's has BERT's [PAD], [UNK],
[CLS], [SEP] and [MASK], and writes a pair as [CLS] a [SEP] b [SEP]. [UNK] is never produced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ftft.pretraining.kinds import Objective
from ftft.pretraining.texts import Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LEARNED_FROM = 50_000_000  # characters the merges are counted on: the counts of all words met are in memory
DECODER = {"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"}
ENCODER = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
SMALLEST = 256 + max(len(DECODER), len(ENCODER))  # a vocabulary of all bytes and the special tokens
LARGEST = 1 << 16  # so that a token is stored in two bytes


def train_tokenizer(
    pieces: Iterable[Piece], objective: Objective, *, vocabulary: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most ``vocabulary`` tokens (fewer where the text has no more to merge). Depends on the text alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = DECODER if objective == "causal" else ENCODER
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_beginning(pieces), trainer)
    names: dict[str, Any] = dict(special)
    if objective == "causal":
        names |= {"bos_token": special["eos_token"], "model_input_names": ["input_ids", "attention_mask"]}
    else:
        ends = [(special[name], backend.token_to_id(special[name])) for name in ("cls_token", "sep_token")]
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        names |= {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, clean_up_tokenization_spaces=False, **names
    )


def bytes_of_tokens(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """How many bytes of text each token stands for, int64 [V]; special tokens for none."""
    sizes = np.zeros(len(tokenizer), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        sizes[index] = len(token)  # one character a byte
    sizes[tokenizer.all_special_ids] = 0
    return sizes


def _beginning(pieces: Iterable[Piece]) -> Iterator[str]:
    left = LEARNED_FROM
    for piece in pieces:
        yield piece.text[:left]
        left -= len(piece.text)
        if left <= 0:
            return
