"""The files of allenai/cartography, both directions: training dynamics per epoch, and the metrics made of them.

``training_dynamics/dynamics_epoch_<e>.jsonl``, e = 0, 1, ... without a gap: one object per line with ``guid`` (integer or
string), ``logits_epoch_<e>`` (list of C floats) and ``gold`` (index into it), written by pandas' ``to_json``: at most 10
decimals, non-ASCII and slashes escaped. ``td_metrics.jsonl``: guid, index, threshold_closeness, confidence, variability,
correctness, forgetfulness. Our writer gives the same bytes as pandas does.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from ftft.dynamics.dynamics_file import check_unique
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import atomic_path

FOLDER = "training_dynamics"
METRICS_FILE = "td_metrics.jsonl"
EPOCH_FILE = re.compile(r"dynamics_epoch_(\d+)\.jsonl")
_INTEGER = re.compile(r"-?[1-9]\d{0,17}|0")
_LINES_AT_ONCE = 65_536
_LONGEST_LINE = 16 << 20  # bytes; a line holds one example's id and numbers
# Their name of a metric -> ours; the order of the file's columns after guid and index.
METRICS = {
    "threshold_closeness": "threshold_closeness",
    "confidence": "confidence",
    "variability": "variability",
    "correctness": "correctness",
    "forgetfulness": "forgetting",
}


def epoch_folder(folder: Path | str) -> Path | None:
    """The folder that holds the epoch files: ``folder/training_dynamics`` or ``folder`` itself; None where there are none."""
    for candidate in (Path(folder) / FOLDER, Path(folder)):
        if candidate.is_dir() and any(path.name.startswith("dynamics_epoch_") for path in candidate.iterdir()):
            return candidate
    return None


def read_cartography(folder: Path | str) -> Dynamics:
    """Read a folder of epoch files; ``folder`` is ``training_dynamics`` or its parent.

    The rows stand in the order of epoch 0, which defines the examples; one that is missing in a later epoch is unseen
    there. Integer guids become strings of digits, and ``metadata["guid_type"]`` remembers it. Raises UserError for a
    missing epoch, a stray file, a damaged line, a guid that is not in epoch 0 or stands twice, and a gold label that
    changes.
    """
    files = _epoch_files(folder)
    guid_type = _guid_type(files[0])
    ids, gold, first = _read_epoch(files[0], 0, guid_type)
    check_unique(ids, str(files[0]))
    logits = np.zeros((len(files), *first.shape), dtype=np.float32)
    seen = np.zeros((len(files), len(ids)), dtype=bool)
    logits[0], seen[0] = first, True
    for epoch, path in enumerate(files[1:], start=1):
        guids, golds, values = _read_epoch(path, epoch, guid_type)
        check_unique(guids, str(path))
        rows = pc.index_in(guids, value_set=ids)
        if rows.null_count:
            stranger = guids.filter(rows.is_null())[0].as_py()
            raise UserError(
                f'{path} holds {rows.null_count} guids that are not in {files[0].name}, "{stranger}" for one; '
                "all epochs must be of the same examples"
            )
        rows = np.asarray(rows).astype(np.int64)
        changed = golds != gold[rows]
        if changed.any():
            where = int(np.flatnonzero(changed)[0])
            raise UserError(
                f'the gold label of "{guids[where].as_py()}" is {golds[where]} in {path} '
                f"and {gold[rows[where]]} in {files[0].name}; it must stay the same"
            )
        if values.shape[1] != first.shape[1]:
            raise UserError(f"{path} has {values.shape[1]} logits per example, and {files[0].name} has {first.shape[1]}")
        logits[epoch, rows], seen[epoch, rows] = values, True
    metadata = {"source": "import", "format": "cartography", "guid_type": guid_type}
    return Dynamics(ids=ids, epochs=tuple(range(len(files))), seen=seen, gold=gold, logits=logits, metadata=metadata)


def _epoch_files(folder: Path | str) -> list[Path]:
    found = epoch_folder(folder)
    if found is None:
        raise UserError(f"{folder} holds no training dynamics: there is no dynamics_epoch_0.jsonl in it or in its {FOLDER}")
    numbered: dict[int, Path] = {}
    for path in sorted(found.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        match = EPOCH_FILE.fullmatch(path.name)
        if match is None:
            raise UserError(f"{path} is not a file of training dynamics (dynamics_epoch_<number>.jsonl); move it elsewhere")
        if int(match[1]) in numbered:
            raise UserError(f"{path} and {numbered[int(match[1])].name} are of the same epoch; keep one")
        numbered[int(match[1])] = path
    missing = next(epoch for epoch in range(len(numbered) + 1) if epoch not in numbered)
    if missing < len(numbered):
        raise UserError(f"{found} has no dynamics_epoch_{missing}.jsonl, but later epochs; epochs count from 0 without a gap")
    return [numbered[epoch] for epoch in range(len(numbered))]


def _guid_type(path: Path) -> str:
    """``int`` or ``str``, by the first line."""
    try:
        with open(path, "rb") as stream:
            first = json.loads(bounded_line(stream) or "null")
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"the first line of {path} is not JSON: {error}") from None
    if not isinstance(first, dict):
        raise UserError(f"{path} is empty or does not hold one JSON object per line")
    guid = first.get("guid")
    if isinstance(guid, bool) or not isinstance(guid, (int, str)):
        raise UserError(f"the first line of {path} has no guid that is an integer or a string; it has {', '.join(first)}")
    return type(guid).__name__


def _read_epoch(path: Path, epoch: int, guid_type: str) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Ids, gold (int32 [n]) and logits (float32 [n, C]) of one file, in its order."""
    name = f"logits_epoch_{epoch}"
    guid = pa.int64() if guid_type == "int" else pa.string()
    schema = pa.schema([("guid", guid), (name, pa.list_(pa.float64())), ("gold", pa.int64())])
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pa.json.read_json(path, parse_options=options)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].removeprefix("JSON parse error: ")
        raise UserError(f"{path} cannot be read as training dynamics with {guid_type} guids: {reason}") from None
    for field in schema.names:
        if table[field].null_count:
            line = int(np.flatnonzero(np.asarray(table[field].is_null()))[0]) + 1
            raise UserError(f"line {line} of {path} has no {field}; every line needs guid, {name} and gold")
    column = table[name].combine_chunks()
    lengths, flat = np.asarray(pc.list_value_length(column)), column.flatten()
    uneven = lengths != lengths[0]
    if uneven.any() or lengths[0] == 0:
        line = int(np.flatnonzero(uneven)[0]) if uneven.any() else 0
        raise UserError(f"line {line + 1} of {path} has {lengths[line]} logits, and line 1 has {lengths[0]}")
    if flat.null_count:
        line = int(np.flatnonzero(np.asarray(flat.is_null()))[0]) // int(lengths[0]) + 1
        raise UserError(f"line {line} of {path} has a logit that is not a number (null); the training diverged there")
    gold = np.asarray(table["gold"])
    if (gold < 0).any() or (gold >= lengths[0]).any():
        line = int(np.flatnonzero((gold < 0) | (gold >= lengths[0]))[0])
        raise UserError(f"line {line + 1} of {path} has the gold label {gold[line]}, and there are {lengths[0]} logits")
    ids = table["guid"].cast(pa.string()).combine_chunks()
    return ids, gold.astype(np.int32), np.asarray(flat).astype(np.float32).reshape(len(gold), -1)


def write_cartography(dynamics: Dynamics, folder: Path | str) -> list[Path]:
    """Write ``folder/training_dynamics/dynamics_epoch_<e>.jsonl``, epochs numbered from 0, and give the files' paths.

    Guids are integers where they were read as such, else strings. Raises UserError where the format cannot hold the
    dynamics (it needs every logit, gold labels, and each example in the first epoch), or where the folder holds
    files that its readers would count as further epochs.
    """
    if dynamics.logits is None or dynamics.gold is None:
        missing = "gold labels" if dynamics.logits is not None else "the logits of every class"
        raise UserError(f"cartography's format needs {missing}, which these dynamics do not hold")
    if not dynamics.epochs:
        raise UserError("these dynamics hold no epoch, so there is nothing to export")
    late = dynamics.seen[1:].any(axis=0) & ~dynamics.seen[0]
    if late.any():
        name = dynamics.ids[int(np.flatnonzero(late)[0])].as_py()
        raise UserError(
            f'cartography\'s format needs every example in the first epoch, and "{name}" was not seen in epoch '
            f"{dynamics.epochs[0]}; choose later epochs"
        )
    if not np.isfinite(dynamics.logits[dynamics.seen]).all():
        bad = ~np.isfinite(dynamics.logits).all(axis=2) & dynamics.seen
        name = dynamics.ids[int(np.nonzero(bad)[1][0])].as_py()
        raise UserError(f'the logits of "{name}" are not finite numbers, which JSON cannot hold; leave its epoch out')
    target = Path(folder) / FOLDER
    paths = [target / f"dynamics_epoch_{number}.jsonl" for number in range(len(dynamics.epochs))]
    if target.is_dir() and (strange := {p.name for p in target.iterdir()} - {p.name for p in paths}):
        raise UserError(f"{target} already holds {min(strange)}, which readers would count as an epoch; name another folder")
    guids = _guids(dynamics)
    for number, path in enumerate(paths):
        rows = np.flatnonzero(dynamics.seen[number])
        with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as stream:
            for start in range(0, len(rows), _LINES_AT_ONCE):
                stream.writelines(_epoch_lines(dynamics, number, rows[start : start + _LINES_AT_ONCE], guids))
    return paths


def _epoch_lines(dynamics: Dynamics, number: int, rows: np.ndarray, guids: pa.Array) -> Iterator[str]:
    assert dynamics.logits is not None and dynamics.gold is not None
    logits = dynamics.logits[number, rows]
    texts = pandas_floats(logits.reshape(-1))
    classes = logits.shape[1]
    names, gold = guids.take(pa.array(rows)).to_pylist(), dynamics.gold[rows].tolist()
    for row, (guid, label) in enumerate(zip(names, gold)):
        values = ",".join(texts[row * classes : (row + 1) * classes])
        yield f'{{"guid":{_json(guid)},"logits_epoch_{number}":[{values}],"gold":{label}}}\n'


def _guids(dynamics: Dynamics) -> pa.Array:
    """The ids as they are written: integers where they were integers and all still read as such."""
    were_integers = dynamics.metadata.get("guid_type") == "int"
    if were_integers and all(_INTEGER.fullmatch(text) for text in dynamics.ids.to_pylist()):
        return dynamics.ids.cast(pa.int64())
    return dynamics.ids


def _json(value: Any) -> str:
    """As pandas writes it: non-ASCII and slashes escaped."""
    return json.dumps(value).replace("/", "\\/") if isinstance(value, str) else str(value)


def pandas_floats(values: np.ndarray) -> list[str]:
    """Finite floats as pandas' ``to_json`` writes them: rounded to 10 decimals, trailing zeros dropped but for one; above
    1e16 with 15 significant digits."""
    wide = np.asarray(values, dtype=np.float64)
    size = np.abs(wide)
    whole = np.floor(np.minimum(size, 1e17))
    scaled = (size - whole) * 1e10
    decimals = np.where(scaled == 0.5, 1.0, np.rint(scaled))  # ties go to even, but for this one
    carried = decimals >= 1e10
    wholes = (whole + carried).astype(np.int64).tolist()
    fractions = np.where(size > 1e16, 0, np.where(carried, 0, decimals)).astype(np.int64).tolist()
    texts = [f"{w}.{f:010d}".rstrip("0") for w, f in zip(wholes, fractions)]
    texts = [text + "0" if text[-1] == "." else text for text in texts]
    for index in np.flatnonzero(wide < 0).tolist():
        texts[index] = "-" + texts[index]
    for index in np.flatnonzero(size > 1e16).tolist():
        texts[index] = f"{wide[index]:.15g}"
    return texts


@dataclass(frozen=True)
class Metrics:
    """A metrics or coordinates file: ``ids`` (N strings) and, by our score names, ``scores`` (float64 [N])."""

    ids: pa.Array
    scores: Mapping[str, np.ndarray]
    guid_type: str


def write_metrics(dynamics: Dynamics, path: Path | str, *, include_ci: bool = False) -> int:
    """Write ``td_metrics.jsonl``: every example that was seen in two epochs or more, in the order of the rows; population
    variability. Gives the number of examples written.

    Raises UserError where the dynamics hold no predictions, or fewer than two epochs.
    """
    scores = compute_scores(dynamics, list(METRICS.values()), include_ci=include_ci)
    scored = ~np.isnan(scores["variability"])
    rows = np.flatnonzero(scored)
    guids = _guids(dynamics).take(pa.array(rows)).to_pylist()
    columns = {theirs: pandas_floats(scores[ours][rows]) for theirs, ours in METRICS.items()}
    for counted in ("correctness", "forgetfulness"):
        columns[counted] = [text.removesuffix(".0") for text in columns[counted]]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as stream:
        for index, (guid, *values) in enumerate(zip(guids, *columns.values())):
            numbers = ",".join(f'"{name}":{value}' for name, value in zip(columns, values))
            stream.write(f'{{"guid":{_json(guid)},"index":{index},{numbers}}}\n')
    return len(rows)


def is_metrics_file(path: Path | str) -> bool:
    """Whether a file is one of metrics by its first line: a guid and a metric, and no epoch."""
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return False
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
            first = json.loads(bounded_line(stream) or "null")
    except (ValueError, OSError, EOFError, zlib.error, RecursionError):
        return False  # the reader that is tried next says what is wrong with it
    return isinstance(first, dict) and "guid" in first and "epoch" not in first and any(name in first for name in METRICS)


def bounded_line(stream: Any) -> bytes:
    """The next line of a file; ValueError for one that no example fills, so that it never fills the memory."""
    line = stream.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"a line is longer than {_LONGEST_LINE >> 20} MiB")
    return line


def read_metrics(path: Path | str) -> Metrics:
    """Read ``td_metrics.jsonl`` or a published coordinates file (guid and any of the metrics), gzip'd or not.

    Raises UserError for a damaged file, a duplicate guid, a missing value, or a file with none of the metrics.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(raw) if zipped else raw as stream:
                lines = [json.loads(line) for line in iter(lambda: bounded_line(stream), b"") if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise UserError(f"{path} is damaged and cannot be read as JSON lines: {error}") from None
    if not lines or not all(isinstance(line, dict) and "guid" in line for line in lines):
        raise UserError(f"{path} is not a metrics file: every line must be a JSON object with a guid")
    names = [name for name in METRICS if name in lines[0]]
    if not names:
        raise UserError(f"{path} holds none of the metrics {', '.join(METRICS)}; its first line has {', '.join(lines[0])}")
    guid_type = "int" if all(isinstance(line["guid"], int) for line in lines) else "str"
    ids = pa.array([str(line["guid"]) for line in lines], type=pa.string())
    check_unique(ids, str(path))
    try:
        scores = {METRICS[name]: np.array([float(line[name]) for line in lines]) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} must give every example a number for {', '.join(names)}; one lacks it ({error})") from None
    return Metrics(ids, scores, guid_type)
