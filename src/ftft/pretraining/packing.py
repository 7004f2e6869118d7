"""The text as one long row of tokens in a file, two bytes each, cut into blocks that all have the same length.

Documents follow one another, each with an end token behind it ([SEP] for an encoder, end-of-text for a decoder); a block may
hold the end of one and the beginning of the next, and attention does not stop there. An encoder's block is [CLS], ..., [SEP].
What is left at the end of the text and fills no block is not used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftft.files import atomic_path
from ftft.pretraining.texts import Piece

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

TOKEN = np.dtype("<u2")
AT_ONCE = 16  # pieces tokenised together


def write_tokens(path: Path, pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Tokenise the pieces into a file; gives ``documents``, ``bytes`` (of UTF-8), ``tokens`` and the text's ``sha256``.

    The SHA-256 is that of the documents' UTF-8, each followed by a zero byte, however they were cut and compressed. What looks
    like a special token in the text is text.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    digest = hashlib.sha256()
    counts = {"documents": 0, "bytes": 0, "tokens": 0}
    waiting: list[Piece] = []
    backend = _all_is_text(tokenizer)

    with atomic_path(path) as temporary, open(temporary, "wb") as stream:

        def write() -> None:
            found = backend.encode_batch([one.text for one in waiting], add_special_tokens=False)
            for piece, encoded in zip(waiting, found):
                ids = [*encoded.ids, end] if piece.last else encoded.ids
                stream.write(np.asarray(ids, dtype=TOKEN).tobytes())
                counts["tokens"] += len(ids)
            waiting.clear()

        for piece in pieces:
            raw = piece.text.encode("utf-8")
            counts["bytes"] += len(raw)
            digest.update(raw)
            if piece.last:
                counts["documents"] += 1
                digest.update(b"\0")
            waiting.append(piece)
            if len(waiting) == AT_ONCE:
                write()
        write()
    return {**counts, "sha256": digest.hexdigest()}


def _all_is_text(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A copy of the tokenizer that takes ``[SEP]`` in a text for five characters."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return backend


@dataclass(frozen=True)
class Blocks:
    """The blocks ``rows`` (int64 [N]) of a file of tokens; each is ``first``, the tokens, ``last``: ``block`` in all."""

    path: Path
    block: int
    first: int | None
    last: int | None
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> torch.Tensor:
        """The blocks at ``positions`` (int64 [B]), int64 [B, block]."""
        import torch

        inner = self.block - (self.first is not None) - (self.last is not None)
        stored = np.memmap(self.path, dtype=TOKEN, mode="r")
        whole = stored[: len(stored) // inner * inner].reshape(-1, inner)
        tokens = np.empty((len(positions), self.block), dtype=np.int64)
        start = int(self.first is not None)
        tokens[:, start : start + inner] = whole[self.rows[positions]]
        if self.first is not None:
            tokens[:, 0] = self.first
        if self.last is not None:
            tokens[:, -1] = self.last
        return torch.from_numpy(tokens)

    def only(self, rows: np.ndarray) -> Blocks:
        """Some of these blocks, by their positions among them."""
        return Blocks(self.path, self.block, self.first, self.last, self.rows[rows])


def open_blocks(path: Path, tokenizer: PreTrainedTokenizerFast, block: int) -> Blocks:
    """All whole blocks of a file that :func:`write_tokens` wrote."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    inner = block - (first is not None) - (last is not None)
    return Blocks(path, block, first, last, np.arange(path.stat().st_size // TOKEN.itemsize // inner))
