"""Which tokens of a block are to be told, and what the model sees there (BERT, Devlin et al. 2019, section 3.1).

15 % of a block's ordinary tokens are chosen. For masked language modelling a chosen token becomes [MASK] with probability 0.8,
a random ordinary token with 0.1, and stays itself with 0.1. For ELECTRA's generator all of them become [MASK].
"""

from __future__ import annotations

import torch

CHOSEN, MASKED, RANDOM = 0.15, 0.8, 0.1


def choose(blocks: torch.Tensor, special: torch.Tensor, generator: torch.Generator, share: float = CHOSEN) -> torch.Tensor:
    """Bool [B, L]: in every block round(share * ordinary tokens) positions, at least one, drawn without replacement; none that
    is a special token. ``blocks`` int64 [B, L]; ``special`` bool [V]. A block of special tokens alone has none."""
    ordinary = ~special[blocks]
    order = torch.rand(blocks.shape, generator=generator).masked_fill(~ordinary, 2.0)
    counts = (share * ordinary.sum(dim=1)).round().clamp(min=1)
    rank = order.argsort(dim=1).argsort(dim=1)
    return (rank < counts[:, None]) & ordinary


def corrupt(
    blocks: torch.Tensor, chosen: torch.Tensor, mask: int, special: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """The blocks, int64 [B, L], with the ``chosen`` positions 80 % [MASK], 10 % random ordinary tokens, 10 % unchanged."""
    drawn = torch.rand(blocks.shape, generator=generator)
    ordinary = (~special).nonzero()[:, 0]
    others = ordinary[torch.randint(len(ordinary), blocks.shape, generator=generator)]
    seen = torch.where(chosen & (drawn < MASKED), mask, blocks)
    return torch.where(chosen & (drawn >= MASKED) & (drawn < MASKED + RANDOM), others, seen)
