"""Selections for people's own code: choose by training dynamics, write a selection, read it again.

    subset = select(dynamics, score="variability", fraction=0.33)
    write_selection(subset, "subset.parquet")

Files. ``.parquet``: columns ``id`` (string), ``score`` (float64, null where there is none), ``weight`` (float64), in the
selection's order, with ``<name>.parquet.json`` beside it: the rule, the counts, the dynamics' fingerprint, the format's
version, and the Parquet file's SHA-256, which ties the two together. ``.csv`` and ``.jsonl``: the three columns alone.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftft.dynamics.cartography import Metrics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean
from ftft.files import atomic_path, read_json, sha256_file, write_json
from ftft.methods.contract import Selection
from ftft.methods.pool import ScoredPool
from ftft.methods.select.top import Top

FORMAT_VERSION = 1
SUFFIXES = (".parquet", ".csv", ".jsonl")
COLUMNS = ("id", "score", "weight")


@dataclass(frozen=True)
class ExamplesOfDynamics:
    """What dynamics alone say of their examples: ids, gold labels (None for sequences), label names."""

    ids: pa.Array
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(cls, dynamics: Dynamics) -> ExamplesOfDynamics:
        """The view of ``dynamics``; where they name no labels, these are called by their index."""
        labels = None if dynamics.gold is None else np.asarray(dynamics.gold, dtype=np.int64)
        names = tuple(str(name) for name in dynamics.metadata.get("label_names") or ())
        if not names and labels is not None and len(labels):
            names = tuple(str(index) for index in range(max(int(labels.max()) + 1, dynamics.num_classes or 0)))
        return cls(dynamics.ids, labels, names, str(dynamics.metadata.get("data_fingerprint") or ""))


def select(
    dynamics: Dynamics,
    *,
    score: str = "variability",
    fraction: float | None = None,
    count: int | None = None,
    largest: bool = True,
    balance: Literal["none", "class", "prior"] | dict[str, float] = "none",
    ddof: Literal[0, 1] | None = None,
    include_ci: bool = False,
    window: int | None = None,
    epochs: Sequence[int] | None = None,
    drop_first_epochs: int = 0,
    drop_suspects: float = 0.0,
    suspect_score: Literal["confidence", "aum"] = "confidence",
    apply: Literal["subset", "copies", "weights"] = "subset",
    copies: int = 1,
    weight: float = 2.0,
    compat: Literal["ftft", "cartography"] | None = None,
    seed: int = 0,
) -> Selection:
    """The examples with the largest (or smallest) score: the method ``top`` without a recipe; its settings, its rule.

    Exactly one of ``fraction`` (above 0, at most 1) and ``count``. Raises UserError for settings out of range, scores
    these dynamics cannot give, and fewer scored examples than asked for.
    """
    method = Top(
        score=score,
        largest=largest,
        fraction=fraction,
        count=count,
        balance=balance,
        ddof=ddof,
        include_ci=include_ci,
        window=window,
        epochs=None if epochs is None else list(epochs),
        drop_first_epochs=drop_first_epochs,
        drop_suspects=drop_suspects,
        suspect_score=suspect_score,
        apply=apply,
        copies=copies,
        weight=weight,
        compat=compat,
    )
    return method.select(ExamplesOfDynamics.of(dynamics), dynamics, seed=seed)


def select_by_metrics(metrics: Metrics, method: Top, *, seed: int = 0) -> Selection:
    """What ``method`` chooses by the scores of a metrics file (``td_metrics.jsonl``, published coordinates) alone.

    Raises UserError for a score the file does not hold, and for settings that need dynamics (epochs) or labels (balance).
    """
    if method.epochs is not None or method.drop_first_epochs or method.window is not None:
        raise UserError("a metrics file holds no epochs to choose from; leave epochs, drop_first_epochs and window out")
    view = ExamplesOfDynamics(metrics.ids, None, (), "")
    suspects = np.zeros(len(metrics.ids), dtype=bool)
    pool = ScoredPool(view, metrics.ids, None, None, suspects, None, seed, given=metrics.scores)
    if method.drop_suspects:
        pool.drop_suspects(method.drop_suspects, method.suspect_score)
    return method.select_from(pool, seed=seed)


def sidecar(path: Path | str) -> Path:
    """Where the rule and the counts of a Parquet selection are."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def check_suffix(path: Path | str) -> str:
    """The file's ending, one of .parquet, .csv, .jsonl; UserError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f'a selection cannot be kept as "{Path(path).name}"{did_you_mean(suffix or "no ending", SUFFIXES)}')
    return suffix


def write_selection(selection: Selection, path: Path | str) -> None:
    """Write a selection as its ending says (see above), each file atomically.

    Raises UserError for another ending and where the operating system refuses.
    """
    path = Path(path)
    suffix = check_suffix(path)
    scores = np.full(len(selection), np.nan) if selection.scores is None else selection.scores
    if suffix == ".parquet":
        table = pa.table(
            {
                "id": selection.ids,
                "score": pa.array(scores, type=pa.float64(), mask=np.isnan(scores)),
                "weight": pa.array(selection.weights, type=pa.float64()),
            },
            metadata={"format": "ftft/selection", "format_version": str(FORMAT_VERSION)},
        )
        # An old sidecar would describe the new rows between the two renames.
        sidecar(path).unlink(missing_ok=True)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
            digest = sha256_file(temporary)
        write_json(sidecar(path), _description(selection, digest), kind="selection", version=FORMAT_VERSION)
        return
    rows = zip(selection.ids.to_pylist(), scores.tolist(), np.asarray(selection.weights, dtype=np.float64).tolist())
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        if suffix == ".csv":
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((id_, "" if math.isnan(score) else repr(score), repr(weight)) for id_, score, weight in rows)
        else:
            for id_, score, weight in rows:
                record = {"id": id_, "score": None if math.isnan(score) else score, "weight": weight}
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_selection(path: Path | str) -> Selection:
    """Read what :func:`write_selection` wrote. From .csv and .jsonl the rule is only where the rows came from.

    Raises UserError for a missing, damaged or foreign file, and for a Parquet file whose sidecar is not its own.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a file")
    if suffix == ".parquet":
        return _read_parquet(path)
    try:
        rows = _csv_rows(path) if suffix == ".csv" else _jsonl_rows(path)
        ids = pa.array([row[0] for row in rows], type=pa.string())
        scores = np.array([math.nan if row[1] is None else row[1] for row in rows], dtype=np.float64)
        weights = np.array([row[2] for row in rows], dtype=np.float64)
    except (ValueError, KeyError, TypeError, IndexError, csv.Error, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{path} is not a selection with the columns id, score and weight: {error}") from None
    return Selection(
        ids=ids,
        weights=weights,
        rule={"name": "file", "sha256": sha256_file(path)},
        scores=None if np.isnan(scores).all() else scores,
        counts={"selected": len(set(ids.to_pylist())), "rows": len(ids)},
    )


def _description(selection: Selection, digest: str) -> dict[str, Any]:
    return {
        "rule": dict(selection.rule),
        "counts": dict(selection.counts),
        "dynamics_fingerprint": selection.dynamics_fingerprint,
        "rows": len(selection),
        "sha256": digest,
    }


def _read_parquet(path: Path) -> Selection:
    description = read_json(sidecar(path), kind="selection", version=FORMAT_VERSION)
    if description.get("sha256") != sha256_file(path):
        raise UserError(f"{path} is not the file that {sidecar(path).name} describes; select and write it again")
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a Parquet file with the columns id, score and weight: {error}") from None
    scores = table["score"].to_numpy()
    return Selection(
        ids=table["id"].combine_chunks(),
        weights=table["weight"].to_numpy(),
        rule=description["rule"],
        scores=None if table["score"].null_count == len(table) else scores,
        counts=description["counts"],
        dynamics_fingerprint=description["dynamics_fingerprint"],
    )


def _csv_rows(path: Path) -> list[tuple[str, float | None, float]]:
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        return [(row["id"], float(row["score"]) if row["score"] else None, float(row["weight"])) for row in reader]


def _jsonl_rows(path: Path) -> list[tuple[str, float | None, float]]:
    with open(path, encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream if line.strip()]
    return [(record["id"], record["score"], float(record["weight"])) for record in records]
