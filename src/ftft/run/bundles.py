"""A bundle: training dynamics in a folder that can be given to others, and the check that data is what they are of.

    dynamics.parquet     the dynamics (docs/dynamics-format.md): ids, gold labels and logits, no text of a row
    bundle.json          format version, fingerprints of the data and the dynamics, how rows get their ids, the settings
    README.md            the card

:mod:`ftft.report.bundling` writes one; here it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.examples import Examples
from ftft.data.hashing import fingerprint_examples
from ftft.data.loading import load_examples
from ftft.data.reading import format_of
from ftft.data.settings import Columns, DataFile
from ftft.dynamics.parquet import fingerprint_dynamics, read_dynamics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import read_json
from ftft.methods.registry import load_class, task_header
from ftft.validation import check

VERSION = 1
DYNAMICS, DOCUMENT, CARD = "dynamics.parquet", "bundle.json", "README.md"
FILES = (DYNAMICS, DOCUMENT, CARD)
SHOWN_DIGITS = 16  # of a fingerprint in a sentence


@dataclass(frozen=True)
class Bundle:
    """A bundle as read: its folder, its document and its dynamics."""

    folder: Path
    document: Mapping[str, Any]
    dynamics: Dynamics


def is_bundle(path: Path) -> bool:
    """Whether a folder holds a bundle, sound or not."""
    return (path / DOCUMENT).is_file()


def read_document(folder: Path) -> dict[str, Any]:
    """``bundle.json``; UserError where it is missing, damaged or from a newer version."""
    document = read_json(folder / DOCUMENT, kind="bundle", version=VERSION)
    task = document.get("task")
    named = isinstance(task, dict) and isinstance(task.get("name"), str)
    if not named or not _describes(document.get("data")) or not isinstance(document.get("dynamics_fingerprint"), str):
        raise UserError(f"{folder / DOCUMENT} is damaged: it does not say what data and dynamics the bundle is of")
    return document


def _describes(data: Any) -> bool:
    """Whether ``data`` of a document says what is needed to read data alike; its settings are checked as they are used."""
    if not isinstance(data, dict) or not isinstance(data.get("fingerprint"), str) or not isinstance(data.get("part_of"), list):
        return False
    files = data.get("files")
    return isinstance(files, list) and all(isinstance(file, dict) for file in files)


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder; UserError where its dynamics are not those that ``bundle.json`` names."""
    document = read_document(folder)
    dynamics = read_dynamics(folder / DYNAMICS)
    found = fingerprint_dynamics(dynamics)
    if found != document["dynamics_fingerprint"]:
        raise UserError(
            f"{folder / DYNAMICS} has the fingerprint {_short(found)}, and {DOCUMENT} beside it names "
            f"{_short(document['dynamics_fingerprint'])}; copy the bundle again"
        )
    return Bundle(folder, document, dynamics)


def check_data(bundle: Bundle, paths: Sequence[Path]) -> int:
    """Check that the files hold the rows that the bundle's dynamics are of, by their fingerprint, and give how many rows
    more they hold: those that the recording run held out or left out itself.

    The files are read as the run read its own: its columns, label names and filters. UserError, one sentence with both
    fingerprints and what differs, for other data.
    """
    data = bundle.document["data"]
    examples = _load(bundle, paths)
    ids = bundle.dynamics.ids
    used = pc.is_in(examples.ids.cast(pa.large_string()), value_set=ids.cast(pa.large_string()))
    rows = np.flatnonzero(used.to_numpy(zero_copy_only=False))
    more = len(examples) - len(rows)
    kept = examples.take(rows) if data["part_of"] and len(rows) else examples
    found = fingerprint_examples(kept.ids, kept.inputs, kept.labels, kept.label_names)
    if found == data["fingerprint"]:
        return len(examples) - len(kept)
    differs = [f"{len(examples):,} rows here and {len(ids):,} there"]
    missing = pc.invert(pc.is_in(ids.cast(pa.large_string()), value_set=examples.ids.cast(pa.large_string())))
    if count := pc.sum(missing).as_py():
        differs.append(f'{count:,} of its ids are missing here, first "{ids.filter(missing)[0].as_py()}"')
    if more and not data["part_of"]:
        extra = examples.ids.filter(pc.invert(used))[0].as_py()
        differs.append(f'{more:,} ids here are not among its own, first "{extra}"')
    if other := _other_labels(bundle.dynamics, examples, rows):
        differs.append(f"{other:,} rows have another label")
    if len(differs) == 1:
        differs.append("the ids and labels agree, so texts or images differ")
    named = ", ".join(map(str, paths))
    corrected = "; its labels were corrected after loading" if "corrections" in data["part_of"] else ""
    raise UserError(
        f"{named} is not the data of the bundle {bundle.folder}: the fingerprint is {_short(found)} and the bundle's "
        f"{_short(str(data['fingerprint']))} ({'; '.join(differs)}){corrected}"
    )


def _load(bundle: Bundle, paths: Sequence[Path]) -> Examples:
    data = bundle.document["data"]
    if len(paths) != len(data["files"]):
        raise UserError(
            f"the data of the bundle {bundle.folder} came from {len(data['files'])} file{'s' * (len(data['files']) > 1)}, and "
            f"--data names {len(paths)}; give each of them, in order"
        )
    columns = check(data.get("columns") or {}, Columns, "data.columns")
    files = [check({**settings, "path": str(path)}, DataFile, "data.files") for settings, path in zip(data["files"], paths)]
    names = check(data.get("labels"), list[str] | None, "data.labels")
    task: Any = load_class(task_header(bundle.document["task"]["name"], f"{bundle.folder / DOCUMENT}: task"))
    return load_examples([_as_file(file) for file in files], columns, inputs=task.inputs, label_names=names)


def _as_file(file: DataFile) -> DataFile:
    """The settings that fit the file as it is: ``header`` and ``quotes`` are of delimited text only."""
    path = Path(file.path or "")
    delimited = not path.is_dir() and format_of(path) in ("csv", "tsv")
    return file if delimited else replace(file, header=None, quotes=None)


def _other_labels(dynamics: Dynamics, examples: Examples, rows: np.ndarray) -> int:
    """How many of the examples at ``rows`` have another label than the dynamics' gold one, by name."""
    names = dynamics.metadata.get("label_names")
    if dynamics.gold is None or not names:
        return 0
    kept = examples.take(rows)
    places = pc.index_in(kept.ids.cast(pa.large_string()), value_set=dynamics.ids.cast(pa.large_string()))
    gold = np.asarray(names, dtype=object)[dynamics.gold[places.to_numpy(zero_copy_only=False).astype(np.int64)]]
    return int((gold != np.asarray(kept.label_names, dtype=object)[kept.labels]).sum())


def _short(fingerprint: str) -> str:
    return fingerprint[:SHOWN_DIGITS]
