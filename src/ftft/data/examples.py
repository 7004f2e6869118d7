"""The data as the rest of the library sees it: examples with ids, inputs and labels, and sets with a role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

Role = Literal["id", "ood", "forget"]
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Examples:
    """N labelled examples.

    ``ids``: N unique strings. ``inputs``: the task's input columns by the task's own names (text classification:
    ``text`` and, for pairs, ``text_pair``), each N long. ``labels``: int64 [N], an index into ``label_names``; zeros where rows
    have no classes and ``label_names`` is empty.
    ``groups`` (worst-group metrics) and ``clusters`` (bootstrap units): N strings or None. ``fingerprint``: a SHA-256
    of ids, inputs and labels that does not depend on the order of the rows.
    """

    ids: pa.Array
    inputs: Mapping[str, pa.Array]
    labels: np.ndarray
    label_names: tuple[str, ...]
    fingerprint: str
    groups: pa.Array | None = None
    clusters: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def labelled(self, code: int) -> str:
        """' with the label "yes"' for a class, to be said behind "row"; nothing where rows have no classes."""
        return f' with the label "{self.label_names[code]}"' if self.label_names else ""

    def take(self, rows: np.ndarray) -> Examples:
        """The examples at ``rows`` (int64 positions, repeats allowed), in that order; keeps the parent's fingerprint."""
        indices = pa.array(np.asarray(rows, dtype=np.int64))
        return Examples(
            ids=self.ids.take(indices),
            inputs={name: column.take(indices) for name, column in self.inputs.items()},
            labels=self.labels[np.asarray(rows, dtype=np.int64)],
            label_names=self.label_names,
            fingerprint=self.fingerprint,
            groups=None if self.groups is None else self.groups.take(indices),
            clusters=None if self.clusters is None else self.clusters.take(indices),
        )


@dataclass(frozen=True)
class EvaluationSet:
    """A set to measure on.

    ``merge``: for a set with fewer labels than the model: ``merge[k]`` lists the model's classes that count as the
    set's class k (``examples.labels`` then index ``examples.label_names``, the set's own); None where they are equal.
    """

    name: str
    examples: Examples
    role: Role
    split: Split
    merge: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class LoadedData:
    """Everything a recipe's ``data`` section names: the training examples, the evaluation sets, and what was noticed.

    ``report``: JSON-like; ``train`` and ``evaluation`` -> set name, each with ``n``, ``classes`` (rows of each label name)
    and ``empty_texts``; evaluation sets also ``role``, ``split`` and ``duplicates`` (of training rows). With corrections also
    ``corrections``: training rows ``relabelled``, ``unchanged`` and ``dropped``, and their ``fingerprint``.
    """

    train: Examples
    evaluation: Mapping[str, EvaluationSet]
    warnings: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
