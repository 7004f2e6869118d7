"""A model that writes examples; what it computes is charged to the phase `creation`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ftft.data.examples import Examples
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger


@dataclass
class CountedWriting:
    """Implements :class:`ftft.methods.contract.Writer`. ``load`` gives (model, its tokenizer) when it is first asked."""

    load: Callable[[], tuple[torch.nn.Module, Any]]
    task: Any
    ledger: Ledger
    device: torch.device
    flops: FlopCounter = field(default_factory=FlopCounter)
    _loaded: tuple[torch.nn.Module, Any] | None = None

    def write(self, examples: Examples, most: int) -> list[str | None]:
        """The model's greedy answers in the examples' order, in evaluation mode."""
        if self._loaded is None:
            self._loaded = self.load()
        model, tokenizer = self._loaded
        started, before, was_on = time.perf_counter(), self.flops.spent, next(model.parameters()).device
        model.to(self.device).eval()
        written = self.task.write(model, examples, tokenizer, most=most, count=self.flops.count)
        model.to(was_on)
        self.ledger.add(
            "creation",
            flops=self.flops.spent - before,
            seconds=time.perf_counter() - started,
            examples=len(examples),
            tokens=sum(one.tokens for one in written),
        )
        return [one.text for one in written]
