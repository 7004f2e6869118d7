"""A model that selectors look at the data with; what it computes is charged to the phase `scoring`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ftft.data.examples import EvaluationSet, Examples
from ftft.data.settings import require_target
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.predict import to_device
from ftft.modelmap import backbone_of
from ftft.tasks.contract import Task

BATCH = 64


@dataclass
class CountedScoring:
    """Implements :class:`ftft.methods.contract.ScoringModel`. ``load`` gives (model, its tokenizer) when something is first
    asked of it; ``where`` is the stage's path in the recipe."""

    load: Callable[[], tuple[torch.nn.Module, Any]]
    task: Task
    sets: Mapping[str, EvaluationSet]
    ledger: Ledger
    device: torch.device
    where: str
    flops: FlopCounter = field(default_factory=FlopCounter)
    _loaded: tuple[torch.nn.Module, Any] | None = None

    def target(self, name: str) -> Examples:
        """The inputs of an evaluation set that may steer; UserError for another."""
        return steering_target(self.sets, name, self.where)

    def embed(self, examples: Examples) -> np.ndarray:
        """The mean over its tokens of the last hidden states of every example, float32 [N, H], in their order."""
        if self._loaded is None:
            self._loaded = self.load()
        model, tokenizer = self._loaded
        started, before = time.perf_counter(), self.flops.spent
        prepared = self.task.prepare(examples, tokenizer)
        order = np.argsort(prepared.lengths, kind="stable")
        was_on, parts = next(model.parameters()).device, []
        _, backbone = backbone_of(model.to(self.device).eval())
        with torch.no_grad():
            for start in range(0, len(order), BATCH):
                batch = to_device(self.task.collate(prepared, order[start : start + BATCH]), self.device)
                with self.flops.count("embed", *batch.shape):
                    hidden = backbone(**batch.inputs).last_hidden_state
                    mask = batch.inputs["attention_mask"][:, :, None].to(hidden.dtype)
                    parts.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy())
        model.to(was_on)
        found = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
        found[order] = np.concatenate(parts)
        self.ledger.add(
            "scoring",
            flops=self.flops.spent - before,
            seconds=time.perf_counter() - started,
            examples=len(order),
            tokens=int(prepared.lengths.sum()),
        )
        return found


def steering_target(sets: Mapping[str, EvaluationSet], name: str, where: str) -> Examples:
    """The examples of a validation set; UserError, led by ``where``, for a test set, or where there is none of that name."""
    require_target(name, [other for other, one in sets.items() if one.split == "validation"], sets, where)
    return sets[name].examples
