"""A model that writes examples; what it computes is charged to the phase `creation`.

Every batch of answers is kept when it is done, and one that was kept before a kill is not written again: a resumed run asks
the same in the same batches, so that it ends with the same answers and the same effective costs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ftft.data.examples import Examples
from ftft.engine.flops import FlopCounter
from ftft.engine.kept_answers import KeptAnswers, KeptBatch
from ftft.engine.ledger import Cost, Ledger
from ftft.engine.loop import JOURNAL_SECONDS
from ftft.engine.provenance import differences, provenance
from ftft.tasks.decoding import Written


@dataclass
class CountedWriting:
    """Implements :class:`ftft.methods.contract.Writer`. ``load`` gives (model, its tokenizer) when it is first asked. ``kept``
    are the batches from before, whose costs the ``ledger`` holds already; it gets the new ones. ``journal`` is the file of what
    has been spent. ``told`` is called after each batch with how many rows are answered, of how many that were asked.

    ``resume_differences``: what is otherwise here than where batches from before were written.
    """

    load: Callable[[], tuple[torch.nn.Module, Any]]
    task: Any
    ledger: Ledger
    device: torch.device
    kept: KeptAnswers
    journal: Path
    told: Callable[[int, int], None] = lambda done, asked: None
    flops: FlopCounter = field(default_factory=FlopCounter)
    resume_differences: list[str] = field(default_factory=list)
    _loaded: tuple[torch.nn.Module, Any] | None = None

    def __post_init__(self) -> None:
        self._environment = provenance()
        for batch in self.kept.batches.values():  # a shape is counted where it would be without the interruption
            self.flops.known.update(batch.shapes)
            new = differences(batch.environment, self._environment)
            self.resume_differences += [one for one in new if one not in self.resume_differences]
        self._began, self._spent_before = time.perf_counter(), 0
        self._journaled = self._began

    def write(self, examples: Examples, most: int) -> list[str | None]:
        """The model's greedy answers in the examples' order, in evaluation mode."""
        if self._loaded is None:
            self._loaded = self.load()
        model, tokenizer = self._loaded
        started, done, in_batches, was_on = time.perf_counter(), 0, 0.0, next(model.parameters()).device

        def batch(key: str, write: Callable[[], list[Written]]) -> list[Written]:
            nonlocal done, in_batches
            known = key in self.kept.batches
            if not known:
                in_batches += self._write_batch(key, write).seconds
            answers = self.kept.batches[key].answers
            done += len(answers)
            if not known:
                self.told(done, len(examples))
            return answers

        model.to(self.device).eval()
        written = self.task.write(model, examples, tokenizer, most=most, count=self._count, batch=batch)
        model.to(was_on)
        self.ledger.add("creation", seconds=max(0.0, time.perf_counter() - started - in_batches))
        return [one.text for one in written]

    def _write_batch(self, key: str, write: Callable[[], list[Written]]) -> Cost:
        """Write a batch, charge it and keep it; what it cost."""
        self._began, self._spent_before, counted = time.perf_counter(), self.flops.spent, len(self.flops.known)
        answers = write()
        cost = self._cost(examples=len(answers), tokens=sum(one.tokens for one in answers))
        shapes = dict(list(self.flops.known.items())[counted:])
        self._journal(cost)  # first: a kill between the two makes this batch lost work, which is known
        self.kept.keep(key, KeptBatch(answers, cost, shapes, self._environment))
        self.ledger.add("creation", **asdict(cost))
        return cost

    @contextlib.contextmanager
    def _count(self, kind: str, rows: int, tokens: int) -> Iterator[None]:
        with self.flops.count(kind, rows, tokens):
            yield
        if time.perf_counter() - self._journaled >= JOURNAL_SECONDS:
            self._journal(self._cost())

    def _cost(self, examples: int = 0, tokens: int = 0) -> Cost:
        """Of the batch in hand so far."""
        spent, seconds = self.flops.spent - self._spent_before, time.perf_counter() - self._began
        return Cost(flops=spent, seconds=seconds, examples=examples, tokens=tokens)

    def _journal(self, cost: Cost) -> None:
        """Write down what has been spent, with that of the batch in hand."""
        so_far = Ledger()
        so_far.add("creation", **asdict(cost))
        self.ledger.observe_memory("creation")
        self.ledger.merge(so_far).journal(self.journal)
        self._journaled = time.perf_counter()
