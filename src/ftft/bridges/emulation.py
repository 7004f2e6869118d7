"""Emulated fine-tuning in ``generate`` of transformers: a logits processor that asks the two small models beside the large one.

    large.generate(**inputs, logits_processor=[EmulatedFineTuningProcessor(tuned, base)])

The model that generates is the *target*, whose fine-tuning is emulated (:mod:`ftft.nn.emulation`). What ``generate`` does after
its processors (temperature, top-k, top-p of sampling) it does with the emulated distribution; with beams, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from ftft.errors import UserError
from ftft.nn.emulation import Asked, emulated

FORBIDDEN = -1e4  # as a logit: no probability, and yet a difference of two of them is a number


class _Following:
    """A model that follows growing texts, keeping keys and values as long as the texts only grow."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.asked = Asked(model)
        self.seen: torch.Tensor | None = None
        self.cache = None

    def next_logits(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The logits [B, V] of the token after ``tokens`` int64 [B, L]."""
        seen = self.seen
        goes_on = (
            seen is not None
            and seen.shape[0] == tokens.shape[0]
            and seen.shape[1] < tokens.shape[1]
            and torch.equal(tokens[:, : seen.shape[1]], seen)
        )
        known = seen.shape[1] if seen is not None and goes_on else 0
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, known:]
        cache = self.cache if goes_on else None
        logits, self.cache = self.asked.logits(tokens[:, known:], mask, cache, use_cache=True, places=places)
        self.seen = tokens.clone()
        return logits[:, -1]


class EmulatedFineTuningProcessor(LogitsProcessor):
    """What a pretrained model would say of the next token, had it been fine-tuned as ``tuned`` was from ``base``.

    ``shares``: the weights of several fine-tunes (by default equal, 1 in all). ``top_p``: see :mod:`ftft.nn.emulation` (the
    paper's conservative decoding has 0.95). ``pad_token_id``: leading tokens of this id are padding of a batch; None where
    no prompt is padded. All models have one tokenizer, are on one device and in evaluation mode. Raises UserError for shares
    that do not fit the fine-tunes.
    """

    def __init__(
        self,
        tuned: torch.nn.Module | Sequence[torch.nn.Module],
        base: torch.nn.Module,
        *,
        shares: Sequence[float] | None = None,
        top_p: float = 1.0,
        pad_token_id: int | None = None,
    ) -> None:
        models = [tuned] if isinstance(tuned, torch.nn.Module) else list(tuned)
        if not models or (shares is not None and len(shares) != len(models)):
            raise UserError(
                f"shares: there are {len(models)} fine-tuned models and {len(shares or ())} shares; give one for each"
            )
        self.shares = [1.0 / len(models)] * len(models) if shares is None else list(shares)
        self.tuned, self.base = [_Following(one) for one in models], _Following(base)
        self.top_p, self.pad_token_id = top_p, pad_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """The emulated log-probabilities [B, V] of the next token. Tokens that only the target has a row for are impossible.
        Of those that an earlier processor has forbidden no model is asked: each one's probabilities are those of the others."""
        mask = torch.ones_like(input_ids)
        if self.pad_token_id is not None:
            mask = (input_ids != self.pad_token_id).to(mask.dtype).cummax(dim=1).values
        with torch.no_grad():
            forbidden = torch.isneginf(scores)
            tuned = [_without(one.next_logits(input_ids, mask), forbidden) for one in self.tuned]
            base = _without(self.base.next_logits(input_ids, mask), forbidden)
            found = emulated(scores, tuned, base, self.shares, self.top_p)
        made = scores.new_full(scores.shape, float("-inf"))
        made[..., : found.shape[-1]] = found.to(scores.dtype)
        return made.masked_fill(forbidden, float("-inf"))


def _without(logits: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """Logits [B, V_i], of the tokens that ``forbidden`` bool [B, V] knows, with those it forbids out of the question."""
    size = min(logits.shape[-1], forbidden.shape[-1])
    return logits[..., :size].masked_fill(forbidden[..., :size], FORBIDDEN)
