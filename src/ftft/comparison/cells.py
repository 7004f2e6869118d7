"""Cells: one row on one task under one seed, finished, as a small JSON file that can be committed and never goes stale
silently.

    results/<suite>/cells/<first 20 digits of the key>.json     a cell: figures, costs, packed predictions
    results/<suite>/cells/<...>.failed.json                     why it could not be computed; tried again on the next run
    results/<suite>/sets/<digits>.json                          labels and clusters of an evaluation set, once for all cells

A cell is keyed by its recipe, names and places left out. It is looked up by what its stored recipe means to this version
of the software: a setting that is new since then has its default, one whose default changed stands as it was. So a cell
computed elsewhere is found again, and one whose recipe means something else by now is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.comparison.packing import pack, pack_probabilities, unpack, unpack_probabilities
from ftft.data.examples import EvaluationSet
from ftft.errors import UserError
from ftft.files import fingerprint, read_json, write_json
from ftft.run.portable import portable_recipe
from ftft.run.reading import recipe_from_dict
from ftft.run.recipe import Recipe, without_later
from ftft.tasks.intervals import codes

VERSION = 1
OF_STEPS = ("training", "evaluation")  # the phases that grow with the steps of `main`
DIGITS = 20
# `only` has done its work: the stages it leaves out are gone.
NOT_IN_KEY = ("name", "output", "store", "only", "report_texts")


def cell_key(recipe: Recipe, task: str) -> str:
    """The SHA-256 of everything in a recipe that may change its outcome, and of the task's name in the suite (of a file
    outside the current folder only the last part of its path counts, and two tasks may have files of one name)."""
    document = without_later(portable_recipe(recipe))
    return fingerprint([task, {key: value for key, value in document.items() if key not in NOT_IN_KEY}])


@dataclass(frozen=True)
class SetData:
    """What is true of an evaluation set whatever the model: ``labels`` int [N] (the set's own classes) and ``clusters``
    int [N] or None, in the order of its sorted ids."""

    labels: np.ndarray
    clusters: np.ndarray | None


class Cell:
    """A finished cell, as read."""

    def __init__(self, document: Mapping[str, Any], path: Path, key: str) -> None:
        self.document, self.path, self.key = document, path, key

    @property
    def sets(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of each evaluation set, figures and packed predictions included."""
        return self.document["sets"]

    def probabilities(self, name: str) -> np.ndarray:
        """float64 [N, K] on a set, in the order of its sorted ids."""
        return unpack_probabilities(self.sets[name]["predictions"], f"{self.path}: the predictions on {name}")

    def statistics(self, name: str) -> np.ndarray | None:
        """What the model's task keeps of each row of a set, float64 [N, K], in the order of its sorted ids; None where it keeps
        :meth:`probabilities`."""
        kept = self.sets[name]["predictions"]
        if "columns" not in kept:
            return None
        values = unpack(kept["values"], f"{self.path}: the predictions on {name}")
        if values.ndim != 2 or values.shape[1] != len(kept["columns"]) or not np.isfinite(values).all():
            raise UserError(f"{self.path}: the predictions on {name} are damaged: not a table of {', '.join(kept['columns'])}")
        return values.astype(np.float64)

    @property
    def flops(self) -> int:
        """Everything the row spent, its reference included; a stage taken from the store as what it cost when it ran."""
        return int(self.document["cost"]["flops"])

    @property
    def flops_per_step(self) -> float:
        """What a step of `main` cost on average, the evaluations on the way included."""
        return self.flops_of(OF_STEPS) / max(1, int(self.document["training"]["steps"]))

    def flops_of(self, phases: Iterable[str]) -> int:
        """What the row spent in these phases; ``reference`` is what all earlier stages did."""
        return sum(int(self.document["cost"]["phases"].get(phase, 0)) for phase in phases)

    @property
    def score(self) -> Callable[[str], float]:
        """The mean of a metric over the ID validation sets."""

        def mean(metric: str) -> float:
            found = [
                one["figures"]["metrics"][metric]["value"]
                for one in self.sets.values()
                if one["role"] == "id" and one["split"] == "validation"
            ]
            return float(np.mean(found)) if found else float("nan")

        return mean


class CellFolder:
    """The cells of one suite."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda sentence: None) -> None:
        self.folder, self._warn = folder, warn
        self._keys: dict[str, str | None] = {}  # file name -> key, or None where the recipe cannot be read any more

    def read(self) -> dict[str, Cell]:
        """Every readable cell by key; damaged ones, and those of recipes this version cannot read, are named once."""
        cells = {}
        for path in sorted((self.folder / "cells").glob("*.json")):
            if path.name.endswith(".failed.json"):
                continue
            known = path.name in self._keys
            try:
                document = read_json(path, kind="cell", version=VERSION)
                if not known:
                    self._require_sets(document)
                    self._keys[path.name] = cell_key(recipe_from_dict(document["recipe"]), document["task"])
            except (UserError, KeyError, TypeError, AttributeError) as error:
                if not known:
                    self._keys[path.name] = None
                    self._warn(f"the cell {path} is left out: {error}")
                continue
            key = self._keys[path.name]
            if key is not None:
                cells[key] = Cell(document, path, key)
        return cells

    def _require_sets(self, document: Mapping[str, Any]) -> None:
        for name, one in document["sets"].items():
            if not self.set_path(one["set"]).is_file():
                raise UserError(f"its labels of the set {name} are missing ({self.set_path(one['set']).name})")

    def path(self, key: str) -> Path:
        return self.folder / "cells" / f"{key[:DIGITS]}.json"

    def failed_path(self, key: str) -> Path:
        return self.folder / "cells" / f"{key[:DIGITS]}.failed.json"

    def failures(self) -> dict[str, str]:
        """Key -> why that cell could not be computed."""
        found = {}
        for path in sorted((self.folder / "cells").glob("*.failed.json")):
            try:
                document = read_json(path, kind="failed_cell", version=VERSION)
                found[str(document["key"])] = str(document["why"])
            except (UserError, KeyError):
                continue
        return found

    def write(self, document: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep a finished cell and what it says of its sets; a failure noted before is forgotten."""
        for name, content in sets.items():
            path = self.set_path(name)
            if not path.exists():
                write_json(path, content, kind="evaluation_set", version=VERSION)
        self._keys.pop(self.path(document["key"]).name, None)
        write_json(self.path(document["key"]), document, kind="cell", version=VERSION)
        self.failed_path(document["key"]).unlink(missing_ok=True)

    def write_failure(self, key: str, why: str) -> None:
        """Note why a cell could not be computed."""
        write_json(self.failed_path(key), {"key": key, "why": why}, kind="failed_cell", version=VERSION)

    def set_data(self, name: str) -> SetData:
        """Labels and clusters of a set, by the name a cell knows it by; UserError where they are missing or damaged."""
        path = self.set_path(name)
        document = read_json(path, kind="evaluation_set", version=VERSION)
        clusters = document.get("clusters")
        return SetData(
            unpack(document["labels"], f"{path}: labels").astype(np.int64),
            None if clusters is None else unpack(clusters, f"{path}: clusters").astype(np.int64),
        )

    def set_path(self, name: str) -> Path:
        """Where the content of an evaluation set is kept."""
        return self.folder / "sets" / f"{name[:DIGITS]}.json"


def packed_set(
    one: EvaluationSet, predictions: np.ndarray, columns: Sequence[str] = ()
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(name, labels and clusters, predictions) of an evaluation set, packed, in the order of its sorted ids.

    ``predictions`` [N, K]: probabilities, or a task's ``columns``. The name is a hash of labels, clusters and the fingerprint
    of the examples, so that equal sets are kept once.
    """
    order = pc.sort_indices(one.examples.ids).to_numpy()
    examples = one.examples
    content = {
        "classes": list(examples.label_names),
        "labels": pack(examples.labels[order].astype(np.int32)),
        "clusters": None if examples.clusters is None else pack(_dense(examples.clusters, order)),
    }
    name = fingerprint([examples.fingerprint, content])
    if columns:
        return name, content, {"columns": list(columns), "values": pack(predictions[order].astype(np.float32))}
    return name, content, pack_probabilities(predictions[order])


def _dense(clusters: pa.Array, order: np.ndarray) -> np.ndarray:
    """Cluster codes from 0 in the order of first appearance: names, which may be texts, are not kept."""
    _, first, inverse = np.unique(codes(clusters)[order], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse.reshape(-1)]
