"""Several sequences in one row of a batch, kept apart.

A batch of B sequences is as wide as the longest of them, W tokens. Padded, it takes B rows; packed, the sequences are put one
behind another into as few rows of the same width as first-fit decreasing finds: longest first, each into the first row that
still has room. So packing never costs more than padding does.

    position_ids   0 .. l - 1 over every sequence of l tokens, 0 on every padding token

and no attention mask: wherever positions do not go up by one, transformers begins a new block, and no token sees another block
(with a sliding window, too). Models that do not build their mask so, and flash attention where a batch has several rows, mix
the sequences; :func:`ftft.models.packing.require_separate` tells them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from ftft.tasks.contract import Batch

SEQUENCE = "sequence"  # of a packed batch's `extra`: int64 [R, W - 1], which of the B sequences each target belongs to


@dataclass(frozen=True)
class Layout:
    """Where B sequences stand: ``row`` and ``start`` int64 [B], the row and the column of each one's first token."""

    row: np.ndarray
    start: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.row.max(initial=-1)) + 1


def first_fit(lengths: np.ndarray, width: int) -> Layout:
    """First-fit decreasing of sequences of ``lengths`` (int [B], none above ``width``), equal ones in their order."""
    row, start = np.zeros(len(lengths), dtype=np.int64), np.zeros(len(lengths), dtype=np.int64)
    filled: list[int] = []
    for index in np.argsort(-lengths.astype(np.int64), kind="stable"):
        length = int(lengths[index])
        place = next((number for number, used in enumerate(filled) if used + length <= width), len(filled))
        if place == len(filled):
            filled.append(0)
        row[index], start[index] = place, filled[place]
        filled[place] += length
    return Layout(row, start)


def owners(batch: Batch) -> torch.Tensor:
    """Which of the batch's examples every target position belongs to, int64 like ``extra["targets"]``: of a padded batch its
    row."""
    import torch

    targets = batch.extra["targets"]
    if SEQUENCE in batch.extra:
        return batch.extra[SEQUENCE]
    return torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)
