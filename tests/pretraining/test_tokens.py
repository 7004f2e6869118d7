"""Tokenizers and packed blocks: every string can be written, every token is so many bytes, blocks are the text in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftft.pretraining.packing import open_blocks, write_tokens
from ftft.pretraining.texts import Piece
from ftft.pretraining.tokenizing import bytes_of_tokens, train_tokenizer

STRANGE = "the old dog\n\tbarks… über 中文 😀\x00 [MASKED] ~"


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_every_string_comes_back_and_its_tokens_are_its_bytes(objective: str, tokenizers_of_text: Callable[[str], Any]) -> None:
    tokenizer = tokenizers_of_text(objective)
    ids = tokenizer(STRANGE, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == STRANGE
    sizes = bytes_of_tokens(tokenizer)
    assert len(sizes) == len(tokenizer) and sizes[ids].sum() == len(STRANGE.encode())
    assert (sizes == 0).sum() == len(set(tokenizer.all_special_ids))


def test_an_encoder_writes_texts_and_pairs_as_bert_does(tokenizers_of_text: Callable[[str], Any]) -> None:
    tokenizer = tokenizers_of_text("masked")
    found = tokenizer("the dog", "barks")
    assert tokenizer.decode(found["input_ids"]) == "[CLS]the dog[SEP]barks[SEP]"
    assert found["token_type_ids"][-1] == 1 and found["token_type_ids"][0] == 0
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    assert [getattr(tokenizer, name) for name in names] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.model_max_length == 32


def test_a_decoder_adds_nothing_and_has_an_end_and_a_padding_token(tokenizers_of_text: Callable[[str], Any]) -> None:
    tokenizer = tokenizers_of_text("causal")
    assert tokenizer.decode(tokenizer("the dog")["input_ids"]) == "the dog"
    assert tokenizer.eos_token_id is not None and tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_same_text_gives_the_same_tokenizer() -> None:
    pieces = [Piece("a rose is a rose is a rose\n" * 20, last=True)]
    first, again = (train_tokenizer(pieces, "causal", vocabulary=270, max_length=8) for _ in range(2))
    assert first.get_vocab() == again.get_vocab() and len(first) <= 270


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_blocks_are_the_documents_in_order(objective: str, tokenizers_of_text: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizer = tokenizers_of_text(objective)
    documents = ["the old dog barks", "the blue king\nrules at the cat" * 5, "young girl"]
    pieces = [Piece(documents[0], True), Piece(documents[1][:40], False), Piece(documents[1][40:], True)]
    pieces.append(Piece(documents[2], True))
    facts = write_tokens(tmp_path / "tokens.bin", pieces, tokenizer)
    assert facts["documents"] == 3 and facts["bytes"] == sum(len(one.encode()) for one in documents)
    assert facts["sha256"] == hashlib.sha256("".join(f"{one}\0" for one in documents).encode()).hexdigest()
    blocks = open_blocks(tmp_path / "tokens.bin", tokenizer, 8)
    inner = 8 if objective == "causal" else 6
    assert len(blocks) == facts["tokens"] // inner
    taken = blocks.take(np.arange(len(blocks))).numpy()
    assert taken.shape == (len(blocks), 8)
    if objective == "masked":
        assert (taken[:, 0] == tokenizer.cls_token_id).all() and (taken[:, -1] == tokenizer.sep_token_id).all()
        taken = taken[:, 1:-1]
    end = "<|endoftext|>" if objective == "causal" else "[SEP]"
    whole = end.join(documents) + end
    assert whole.startswith(tokenizer.decode(taken.ravel())) and taken.size > facts["tokens"] - inner
    backwards = blocks.only(np.array([2, 0]))
    assert np.array_equal(backwards.take(np.array([1, 0])).numpy(), blocks.take(np.array([0, 2])).numpy())


@pytest.mark.parametrize(("objective", "word"), [("causal", "<|endoftext|>"), ("masked", "[MASK]")])
def test_what_looks_like_a_special_token_in_the_text_is_text(
    objective: str, word: str, tokenizers_of_text: Callable[[str], Any], tmp_path: Path
) -> None:
    tokenizer = tokenizers_of_text(objective)
    write_tokens(tmp_path / "tokens.bin", [Piece(f"the {word} dog", last=True)], tokenizer)
    stored = np.fromfile(tmp_path / "tokens.bin", dtype="<u2")
    assert not set(stored[:-1].tolist()) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(stored[:-1].tolist()) == f"the {word} dog"
