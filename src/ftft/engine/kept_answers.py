"""The answers that a model has written so far, kept batch by batch while `create` is at work: a kill loses one batch at most.

One line a batch, appended and flushed: the SHA-256 of what follows, a space, and as JSON the batch's ``key`` (what was asked,
:func:`ftft.tasks.decoding.written_to`), its ``answers`` (of each row [text or null, tokens]), its ``cost``, the ``shapes`` that
were first counted in it ([kind, rows, tokens, floating-point operations]), and the ``environment`` it was written in.

A kill can cut the last line off, which is then removed. A line that is not as it was left counts for nothing: its rows are
written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftft.engine.flops import Shape
from ftft.engine.ledger import Cost
from ftft.errors import UserError
from ftft.files import explain_os_error
from ftft.tasks.decoding import Written

VERSION = 1


@dataclass(frozen=True)
class KeptBatch:
    """The ``answers`` to one batch of prompts, and what they cost; ``shapes``: those that were first counted here."""

    answers: list[Written]
    cost: Cost
    shapes: dict[Shape, int]
    environment: Mapping[str, Any]


class KeptAnswers:
    """The ``batches`` in a file, by what was asked; there need not be one. ``warn`` is told of damage.

    UserError where the file cannot be read, or is of a newer format.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self.batches: dict[str, KeptBatch] = {}
        damaged = 0
        for line in self._lines():
            digest, _, content = line.partition(b" ")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                damaged += 1
                continue
            document = json.loads(content)
            version = document["format_version"]
            if version > VERSION:
                raise UserError(f"{path} is of format {version}, and this ftft reads {VERSION}; upgrade it, or remove the file")
            self.batches[document["key"]] = _batch(document)
        if damaged:
            warn(f"{damaged} of the batches of answers kept in {path} are damaged; these are written anew")

    @property
    def count(self) -> int:
        """How many answers there are."""
        return sum(len(batch.answers) for batch in self.batches.values())

    @property
    def cost(self) -> Cost:
        """What all of them cost."""
        return sum((batch.cost for batch in self.batches.values()), Cost())

    def keep(self, key: str, batch: KeptBatch) -> None:
        """Append a batch; UserError where the writing is refused."""
        document = {
            "format_version": VERSION,
            "key": key,
            "answers": [[one.text, one.tokens] for one in batch.answers],
            "cost": asdict(batch.cost),
            "shapes": [[*shape, flops] for shape, flops in batch.shapes.items()],
            "environment": batch.environment,
        }
        content = json.dumps(document).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as stream:
                stream.write(hashlib.sha256(content).hexdigest().encode() + b" " + content + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self.batches[key] = batch

    def _lines(self) -> Sequence[bytes]:
        """The whole lines; what follows the last one is cut off, so that the next batch begins a line."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            try:
                os.truncate(self.path, whole)
            except OSError as error:
                raise explain_os_error(error, self.path) from error
        return content[:whole].split(b"\n")[:-1]


def _batch(document: Mapping[str, Any]) -> KeptBatch:
    shapes = {(kind, rows, tokens): flops for kind, rows, tokens, flops in document["shapes"]}
    answers = [Written(text, tokens) for text, tokens in document["answers"]]
    return KeptBatch(answers, Cost(**document["cost"]), shapes, document["environment"])
