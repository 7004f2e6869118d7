"""Emulated fine-tuning: the next-token distribution that fine-tuning a model would have given, from three others.

    log p(v | x) = log M(v|x) + sum_k s_k (log F_k(v|x) - log N(v|x)) - log Z(x)

M is the pretrained *target* of one size, F_k are fine-tunes of the pretrained N of another size, all of one vocabulary; Z
makes it sum to 1 at every token. s = (1,) is emulated fine-tuning, s = (a, 1 - a) a mixture of two fine-tunes. Mitchell et al.
2023, arXiv 2310.12962, sections 2.2 and 3.1.

With ``top_p`` below 1 (the paper's conservative decoding) the target is only asked about the tokens T that the fine-tune finds
likely: writing log F = sum_k s_k log F_k + (1 - sum_k s_k) log N,

    log p(v | x) = log F(v|x) + [v in T] (log M(v|x) - log N(v|x)) - log Z(x)

T is the smallest set of F's likeliest tokens with at least ``top_p`` of its mass. Without the brackets both lines are the same.
Tokens outside T keep F's weight: they are not made impossible. At 1 all tokens are in T, at 0 none is.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


def emulated(
    target: torch.Tensor, tuned: Sequence[torch.Tensor], base: torch.Tensor, shares: Sequence[float], top_p: float = 1.0
) -> torch.Tensor:
    """The log-probabilities [..., V] from the logits [..., V_i] of the models, one share a fine-tune.

    V is the smallest of the V_i: rows of an embedding that only pad it are cut off before anything is normalised. Computed in
    float32 (float64 where the logits are).
    """
    size = min(one.shape[-1] for one in (target, base, *tuned))
    target, base, *tuned = (_log_probabilities(one[..., :size]) for one in (target, base, *tuned))
    rest = 1.0 - sum(shares)
    # Terms without a weight are left out: 0 times an infinite logarithm would be no number.
    terms = [share * one for share, one in zip(shares, tuned, strict=True) if share != 0.0]
    small = sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(base)
    small = small + rest * base if abs(rest) > 1e-12 else small
    gain = target - base
    if top_p < 1.0:
        gain = gain.where(_nucleus(small, top_p), 0.0)
    return (small + gain).log_softmax(dim=-1)


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def _nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which tokens are among the likeliest that together have ``top_p`` of the mass: bool [..., V]."""
    ordered, order = scores.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < top_p)


class Asked:
    """A causal language model with its keys and values, asked token by token."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.told = "position_ids" in inspect.signature(model.forward).parameters

    def logits(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
        *,
        use_cache: bool,
        places: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Any]:
        """The logits [B, L, V] of ``tokens`` int64 [B, L] behind what is in ``cache``, and the new cache. ``mask`` int64
        [B, whole length]; ``places``: each token's position, where the model takes one."""
        given = {"position_ids": places} if self.told and places is not None else {}
        outputs = self.model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=use_cache, **given)
        return outputs.logits, outputs.past_key_values if use_cache else None


class EmulatedModel(nn.Module):
    """Takes tokens as a causal language model of transformers does and gives ``logits`` [B, L, V], which are the
    log-probabilities of :func:`emulated`. Its ``past_key_values`` are those of all its models."""

    def __init__(
        self, target: nn.Module, tuned: Sequence[nn.Module], base: nn.Module, shares: Sequence[float], top_p: float = 1.0
    ) -> None:
        super().__init__()
        self.target, self.base, self.tuned = target, base, nn.ModuleList(tuned)
        self.shares, self.top_p = tuple(shares), top_p

    @property
    def generation_config(self) -> Any:
        """How the fine-tune ends its texts."""
        return getattr(self.tuned[0], "generation_config", None)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Sequence[Any] | None = None,
        use_cache: bool = False,
    ) -> Any:
        """``logits`` [B, L, V] and ``past_key_values`` for ``input_ids`` int64 [B, L]."""
        models = [Asked(one) for one in (self.target, self.base, *self.tuned)]
        caches = past_key_values or [None] * len(models)
        said = [
            one.logits(input_ids, attention_mask, cache, use_cache=use_cache, places=position_ids)
            for one, cache in zip(models, caches, strict=True)
        ]
        target, base, *tuned = (logits for logits, _ in said)
        found = emulated(target, tuned, base, self.shares, self.top_p)
        return SimpleNamespace(logits=found, past_key_values=[cache for _, cache in said] if use_cache else None)
