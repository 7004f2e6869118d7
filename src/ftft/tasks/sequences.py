"""What a language model says of whole sequences, from its next-token logits.

For a sequence with target tokens t in T (label not -100), next-token distribution p_t and label y_t:

    mean_log_probability  m = mean_t log p_t(y_t)
    probability           exp(m), the geometric mean of the token probabilities
    token_accuracy        mean_t [argmax p_t = y_t]
    entropy               mean_t -sum_v p_t(v) log p_t(v)   (nats)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STATISTICS = ("mean_log_probability", "probability", "token_accuracy", "entropy")
IGNORED = -100
# What is kept of a sequence for evaluation, column by column; behind these, where answers were written, whether it is right.
PREDICTIONS = ("mean_log_probability", "token_accuracy", "tokens")
EXACT_MATCH = "exact_match"
# Tokens x vocabulary that are held in float32 at a time while the statistics are computed.
ELEMENTS_AT_ONCE = 1 << 24


def statistics_of(
    logits: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor | None = None, count: int | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The statistics, each float32 [B], and the number of target tokens int64 [B], from logits [R, L, V] and the labels int
    [R, L] that they predict, position by position (-100: no target). In float32, a slice of tokens at a time.

    ``owners`` (int64 [R, L]): which of ``count`` = B sequences each position belongs to; by default every row is one."""
    where = (labels != IGNORED).nonzero()  # [T, 2]: row, position
    sequences = where[:, 0] if owners is None else owners[labels != IGNORED]
    count = len(logits) if count is None else count
    sums = logits.new_zeros((3, count), dtype=_double(logits))
    size = max(1, ELEMENTS_AT_ONCE // logits.shape[2])
    for part, sequence in zip(where.split(size), sequences.split(size)):
        row, position = part.unbind(1)
        sums.index_add_(1, sequence, _per_token(logits[row, position], labels[row, position]).to(sums.dtype))
    tokens = sequences.bincount(minlength=count)
    return means(sums[0], sums[1], sums[2], tokens), tokens


def means(
    log_probability: torch.Tensor, correct: torch.Tensor, entropy: torch.Tensor, tokens: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The statistics from the sums [B] over each sequence's ``tokens`` [B]."""
    import torch

    divisor = tokens.clamp(min=1)
    mean = (log_probability / divisor).to(torch.float32)
    return {
        "mean_log_probability": mean,
        "probability": mean.exp(),
        "token_accuracy": (correct / divisor).to(torch.float32),
        "entropy": (entropy / divisor).to(torch.float32),
    }


def measure(predictions: np.ndarray, counts: np.ndarray | None = None) -> dict[str, np.ndarray | float]:
    """Of N sequences as in ``PREDICTIONS``, float64 [N, 3] (or [N, 4], with ``EXACT_MATCH``): ``loss``, the mean negative
    log-probability of a target token over all tokens (not over sequences, which would weigh short ones higher), in nats;
    ``perplexity`` = exp(loss); the share of target tokens that are the likeliest; and the share of rows whose answer is right.
    With ``counts`` [R, N], how often each sequence counts, R values each."""
    tokens = predictions[:, 2]
    weights = tokens if counts is None else counts * tokens
    total = weights.sum(axis=-1)
    loss = -(weights @ predictions[:, 0]) / total
    found = {"loss": loss, "perplexity": np.exp(loss), "token_accuracy": (weights @ predictions[:, 1]) / total}
    if predictions.shape[1] > len(PREDICTIONS):
        often = np.ones(len(predictions)) if counts is None else counts
        found[EXACT_MATCH] = (often @ predictions[:, len(PREDICTIONS)]) / often.sum(axis=-1)
    return found


def _per_token(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Log-probability of the target, whether it is the likeliest, and entropy: [3, T]."""
    import torch

    log_p = logits.to(torch.float32).log_softmax(dim=1)
    entropy = torch.special.entr(log_p.exp()).sum(dim=1)
    chosen = target[:, None]
    return torch.stack([log_p.gather(1, chosen)[:, 0], (log_p.argmax(dim=1) == chosen[:, 0]).float(), entropy])


def _double(like: torch.Tensor) -> torch.dtype:
    import torch

    return torch.float32 if like.device.type == "mps" else torch.float64
