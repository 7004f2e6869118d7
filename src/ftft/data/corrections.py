"""Corrections of training rows from a file: other labels, and rows to leave out.

A CSV file with the header ``id,action,label``, one row of the training set a line: ``relabel`` with the name of the class
that is right, or ``drop`` with no label. Further columns (a note, who decided) are left alone. The training files stay as
they are. Evaluation data is never corrected, rows that were held out of the training set for validation included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.examples import Examples
from ftft.data.hashing import framed_rows
from ftft.data.reading import records_of
from ftft.errors import UserError, did_you_mean

COLUMNS = ("id", "action", "label")
ACTIONS = ("relabel", "drop")


@dataclass(frozen=True)
class Corrections:
    """The lines of a corrections file: ``labels`` holds for every id its new class's name, or None where it is dropped;
    ``lines`` where in the file it stands."""

    path: Path
    labels: Mapping[str, str | None]
    lines: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """A SHA-256 (64 hexadecimal digits) of what is corrected; file name, order of lines and notes do not change it."""
        rows = sorted((name, "drop" if label is None else "relabel", label or "") for name, label in self.labels.items())
        columns = [pa.array([row[index] for row in rows], pa.string()) for index in range(3)]
        return hashlib.sha256(b"\n".join(framed_rows(columns))).hexdigest()


@dataclass(frozen=True)
class Corrected:
    """Examples after their corrections, and how many rows were changed; ``unchanged`` had the label they were given."""

    examples: Examples
    corrections: Corrections
    relabelled: int
    unchanged: int
    dropped: int

    @property
    def counts(self) -> dict[str, Any]:
        """What the data report says of the corrections."""
        counts = {"relabelled": self.relabelled, "unchanged": self.unchanged, "dropped": self.dropped}
        return {**counts, "fingerprint": self.corrections.fingerprint}

    @property
    def sentence(self) -> str:
        """The same as a warning, for nobody should take the training set for the one in the files."""
        already = f" ({self.unchanged:,} more had their label already)" if self.unchanged else ""
        return (
            f"the training set is not as its files say: {self.corrections.path} relabels {self.relabelled:,} of its rows"
            f"{already} and drops {self.dropped:,}"
        )


def read_corrections(path: Path) -> Corrections:
    """The corrections of a file. UserError, one sentence with the line, for another header, another action, a label that
    is missing or too much, and an id that stands there twice."""
    labels: dict[str, str | None] = {}
    lines: dict[str, int] = {}
    for line, record in records_of(path, given="csv"):
        where = f"{path}, line {line}"
        for column in COLUMNS:
            if column not in record:
                raise UserError(f'{path} has no column "{column}"; its header is {",".join(COLUMNS)}')
        name, action, label = (str(record[column]) for column in COLUMNS)
        if not name:
            raise UserError(f"{where} has no id; every line names the training row that it corrects")
        if name in labels:
            raise UserError(f'{where}: the id "{name}" stands at line {lines[name]} already; correct a row once')
        if action not in ACTIONS:
            raise UserError(f'{where}: the action "{action}" is neither relabel nor drop{_meant(action)}')
        if (action == "relabel") != bool(label):
            way = "relabel needs the new class's name as its label" if action == "relabel" else "drop takes no label"
            raise UserError(f'{where}: {way} (id "{name}")')
        labels[name], lines[name] = label or None, line
    return Corrections(path, labels, lines)


def _meant(action: str) -> str:
    return did_you_mean(action, ACTIONS) if action.strip() else "; write one of the two"


def correct(train: Examples, corrections: Corrections, evaluation: Mapping[str, pa.Array]) -> Corrected:
    """The training examples as corrected; ``evaluation``: the ids of each evaluation set, for the sentence.

    UserError for an id that is not in the training set, a class that it does not have, and a class that loses its last row.
    The fingerprint is the caller's to take anew.
    """
    names = list(corrections.labels)
    positions = pc.index_in(pa.array(names, train.ids.type), value_set=train.ids)
    if positions.null_count:
        raise UserError(_unknown(names, positions, corrections, evaluation))
    codes = {label: code for code, label in enumerate(train.label_names)}
    labels, keep, changed = train.labels.copy(), np.ones(len(train), dtype=bool), 0
    for name, row in zip(names, positions.to_pylist()):
        label = corrections.labels[name]
        if label is None:
            keep[row] = False
            continue
        if label not in codes:
            where = f"{corrections.path}, line {corrections.lines[name]}"
            if not codes:
                raise UserError(f"{where}: the rows of this task have no classes to relabel them with; they can be dropped")
            raise UserError(f'{where}: the training set has no class "{label}"{did_you_mean(label, codes)}')
        changed += int(labels[row] != codes[label])
        labels[row] = codes[label]
    lost = np.setdiff1d(train.labels, labels[keep])
    if len(lost):
        raise UserError(
            f"{corrections.path} leaves no training row{train.labelled(lost[0])}; keep one at least"
            + (", or leave the class out of the training files" if train.label_names else "")
        )
    dropped = int((~keep).sum())
    made = replace(train, labels=labels).take(np.flatnonzero(keep))
    return Corrected(made, corrections, relabelled=changed, unchanged=len(names) - dropped - changed, dropped=dropped)


def _unknown(names: list[str], positions: pa.Array, corrections: Corrections, evaluation: Mapping[str, pa.Array]) -> str:
    missing = [name for name, row in zip(names, positions.to_pylist()) if row is None]
    where = f"{corrections.path}, line {corrections.lines[missing[0]]}"
    more = f" (nor {len(missing) - 1:,} more ids of it)" if len(missing) > 1 else ""
    for held, ids in evaluation.items():
        if pc.is_in(pa.scalar(missing[0], pa.large_string()), value_set=ids.cast(pa.large_string())).as_py():
            return (
                f'{where}: the id "{missing[0]}" is of the evaluation set "{held}", and evaluation data is never corrected; '
                "take it out of the corrections"
            )
    return f'{where}: no training row has the id "{missing[0]}"{more}; were the corrections made for other data?'
