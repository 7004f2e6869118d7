"""Floating-point operations, counted by torch on the first real batch of each shape and remembered for the others.

The rule of thumb (6 x tokens x parameters) is wrong by 1.4x and more as soon as parameters are frozen, sequences are
long or the vocabulary is large, so every new shape is counted once. That makes the one step slower (MiniLM on 32 x 32
tokens by a quarter); batches have few widths, so it stays below 1 % of a run of hundreds of steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# The CPU's fused attention (taken without dropout, as in evaluation); torch's counter knows that of other devices only.
# Each is called with the shapes of the operation's arguments.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}

Shape = tuple[str, int, int]  # what was done ("train", "predict"), examples, tokens of the padded batch's length


class FlopCounter:
    """Counts each (kind, batch, length) once. ``spent`` is the running total, an exact integer."""

    def __init__(self) -> None:
        self.known: dict[Shape, int] = {}
        self.spent = 0

    @contextlib.contextmanager
    def count(self, kind: str, examples: int, length: int) -> Iterator[None]:
        """Charge the work done inside; it is measured the first time its shape is met."""
        shape = (kind, examples, length)
        if shape in self.known:
            yield
        else:
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as mode:
                yield
            self.known[shape] = int(mode.get_total_flops())
        self.spent += self.known[shape]

    def estimate(self, kind: str, examples: int, length: int) -> float:
        """FLOPs of a shape that may never have run: per example a polynomial of degree <= 2 in the length (exact for
        dense attention), fitted to the counted shapes of this kind; NaN where none was counted."""
        exact = self.known.get((kind, examples, length))
        if exact is not None:
            return float(exact)
        points = sorted(
            {(seen_length, flops / batch) for (seen, batch, seen_length), flops in self.known.items() if seen == kind}
        )
        if not points:
            return float("nan")
        lengths = np.array([point[0] for point in points], dtype=np.float64)
        per_example = np.array([point[1] for point in points], dtype=np.float64)
        degree = min(2, len(np.unique(lengths)) - 1)
        if degree == 0:
            return float(examples * per_example.mean() * length / lengths[0])
        scale = lengths.max()
        coefficients = np.polyfit(lengths / scale, per_example, degree)
        return float(examples * np.polyval(coefficients, length / scale))

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"spent": self.spent, "known": [[*shape, flops] for shape, flops in self.known.items()]}

    def load_state(self, state: dict) -> None:
        self.spent = int(state["spent"])
        self.known = {(str(kind), int(batch), int(length)): int(flops) for kind, batch, length, flops in state["known"]}
