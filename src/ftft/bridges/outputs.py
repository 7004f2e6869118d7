"""What the dynamics keep of a model's outputs: the logits of a classifier, or four numbers per sequence.

The numbers of a sequence are those of :mod:`ftft.tasks.sequences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ftft.errors import UserError
from ftft.tasks.sequences import STATISTICS as STATISTICS
from ftft.tasks.sequences import means, statistics_of


@dataclass(frozen=True)
class Observation:
    """What one forward pass said of B examples: ``values`` (float32, ``logits`` [B, C] or each statistic [B]), ``gold``
    (int64 [B], classification only) and ``counted`` (bool [B]: False for an example without a target, which nothing
    was said about). Detached copies on the model's device."""

    values: dict[str, torch.Tensor]
    gold: torch.Tensor | None
    counted: torch.Tensor


def observe_outputs(outputs: Any, labels: torch.Tensor | None, *, size: int, shifts: bool) -> Observation | None:
    """What is kept of ``outputs`` for a batch of ``size`` examples; None where the outputs are not about these examples
    (another number of rows: an extra forward pass). ``shifts``: the logits at position t predict the label at t + 1.

    Raises UserError for outputs or labels that are neither single-label classification nor token prediction.
    """
    fused = _get(outputs, "log_probs"), _get(outputs, "label_mask")
    if torch.is_tensor(fused[0]) and torch.is_tensor(fused[1]):
        return _fused(outputs) if len(fused[0]) == size else None
    logits = _logits(outputs)
    if logits is None:
        raise UserError(
            "the model's outputs hold no logits, so there is nothing to record; a fused loss kernel such as liger's must be off"
        )
    if logits.shape[0] != size:
        return None
    if labels is None:
        raise UserError("the batch holds no labels; name the label column in TrainingArguments(label_names=[...])")
    if logits.ndim == 2:
        return _classification(logits, labels, size)
    if logits.ndim == 3 and labels.ndim == 2:
        with torch.no_grad():
            return sequence_statistics(logits.detach(), labels, shifts=shifts)
    raise UserError(
        f"logits of the shape {list(logits.shape)} with labels of the shape {list(labels.shape)} cannot be recorded"
    )


def _get(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _logits(outputs: Any) -> torch.Tensor | None:
    """The tensor named logits, or in a plain tuple the first tensor with a batch axis and another (the loss has none)."""
    found = outputs if torch.is_tensor(outputs) else _get(outputs, "logits")
    if found is None and isinstance(outputs, (tuple, list)):
        found = next((part for part in outputs if torch.is_tensor(part) and part.is_floating_point() and part.ndim >= 2), None)
    return found if torch.is_tensor(found) and found.ndim >= 2 else None


def _classification(logits: torch.Tensor, labels: torch.Tensor, size: int) -> Observation:
    classes = logits.shape[1]
    if classes == 1:
        raise UserError("the model has one output (regression), and the recorder keeps classification or token prediction only")
    if labels.is_floating_point() or labels.numel() != size:
        raise UserError(
            f"labels of the shape {list(labels.shape)} and type {labels.dtype} are not one class per example, and the "
            "recorder keeps single-label classification or token prediction only"
        )
    gold = labels.detach().reshape(size).to(torch.int64, copy=True)
    # A copy, for a loss may change the outputs in place afterwards.
    kept = logits.detach().to(torch.float32, copy=True)
    return Observation({"logits": kept}, gold, (gold >= 0) & (gold < classes))


def _fused(outputs: Any) -> Observation:
    """Of TRL's fused head, whose per-token numbers are zero where there is no target."""
    mask = outputs.label_mask
    per_token = [outputs.log_probs, outputs.is_top1, outputs.entropy]
    if any(values is None for values in per_token):
        raise UserError(
            "the trainer's fused head gives no entropy or token accuracy, so nothing can be recorded; use trl 1.16 or newer"
        )
    sums = [values.detach().to(torch.float32).sum(dim=1) for values in per_token]
    tokens = mask.sum(dim=1)
    return Observation(means(sums[0], sums[1], sums[2], tokens), None, tokens > 0)


def sequence_statistics(logits: torch.Tensor, labels: torch.Tensor, *, shifts: bool) -> Observation:
    """The statistics from logits [B, L, V] and labels int [B, L] (-100: no target), in float32, a slice at a time.

    A prompt-learning adapter puts positions in front of the sequence; they are left out.
    """
    if logits.shape[1] < labels.shape[1]:
        raise UserError(
            f"the logits cover {logits.shape[1]} of {labels.shape[1]} positions, so the sequences cannot be recorded"
        )
    logits = logits[:, logits.shape[1] - labels.shape[1] :]
    if shifts:
        logits, labels = logits[:, :-1], labels[:, 1:]
    values, tokens = statistics_of(logits, labels)
    return Observation(values, None, tokens > 0)
