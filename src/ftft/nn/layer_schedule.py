"""Which blocks of a model learn, step by step: a hook before the step that freezes and thaws whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ftft.nn.seeds import numbered_seed


def drawn_blocks(seed: int, number: int, count: int, blocks: int) -> frozenset[int]:
    """``count`` of ``blocks`` indices, uniformly and without replacement, for the ``number``-th draw: the same wherever it is
    made. ValueError for more than there are."""
    if not 0 < count <= blocks:
        raise ValueError(f"{count} of {blocks} blocks cannot be drawn")
    generator = torch.Generator().manual_seed(numbered_seed(seed, number))
    return frozenset(torch.randperm(blocks, generator=generator)[:count].tolist())


class RandomBlocks:
    """A hook before the step: every ``interval`` steps another ``count`` of the ``blocks`` learn, the others are frozen.

    ``blocks``: for each its trainable parameters; what is in none of them is left alone. A frozen parameter has no gradient
    and, unless ``keep_state``, no state in the optimizer. The hook keeps nothing: what is to be active follows from the number
    of the step, so that a resumed run, and every process, has the same.
    """

    def __init__(
        self, blocks: Sequence[Sequence[torch.nn.Parameter]], *, count: int, interval: int, seed: int, keep_state: bool = False
    ) -> None:
        self.blocks = [list(block) for block in blocks]
        self.count, self.interval, self.seed, self.keep_state = count, interval, seed, keep_state

    def active(self, step: int) -> frozenset[int]:
        """The indices of the blocks that learn at ``step`` (from 0)."""
        return drawn_blocks(self.seed, step // self.interval, self.count, len(self.blocks))

    def __call__(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        active = self.active(step)
        for index, block in enumerate(self.blocks):
            for parameter in block:
                parameter.requires_grad_(index in active)
                if index not in active:
                    parameter.grad = None
                    if not self.keep_state:
                        optimizer.state.pop(parameter, None)
