"""Write a bundle of a finished run: its recorded dynamics with a card, ready to be given to others (:mod:`ftft.run.bundles`).

What leaves the machine is what a run's own files may say: ids, gold labels, logits, settings and fingerprints. No text of a
row, no path of a folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ftft.data.settings import Columns
from ftft.dynamics.parquet import fingerprint_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean
from ftft.files import explain_os_error, flush_file, flush_folder, write_json, write_text
from ftft.report.bundle_card import bundle_card
from ftft.report.figures import dig, stage_names, without_folders
from ftft.run.bundles import CARD, DOCUMENT, DYNAMICS, FILES, VERSION, read_document
from ftft.run.runner import read_result

HELD_OUT = "validation"
SETTINGS = ("train", "select", "adapt", "objective", "optimize", "combine", "stop", "dynamics", "seed")
NOT_SETTINGS = ("checkpoint_seconds",)
MODEL = ("source", "lineage", "architecture", "model_type", "layers", "layers_of_checkpoint", "parameters", "weights_sha256")
METADATA = ("source", "data_fingerprint", "label_names", "num_classes")
ID_BY_CONTENT = (
    "the first 16 hexadecimal digits of the SHA-256 of the text columns as netstrings; rows of equal content are told apart by "
    "-1, -2, ... in the order of the file"
)


def write_bundle(run: Path, out: Path, *, stage: str | None = None, licence: str | None = None) -> dict[str, Any]:
    """Write the bundle of the dynamics that a stage of the finished run recorded; gives its document.

    ``stage`` may be left out where one alone recorded any. The folder ``out`` is written whole or not at all; one that is
    there must be empty, or a bundle of the same stage of the same run, which is then renewed. Raises UserError.
    """
    if licence is not None and (not licence.strip() or not licence.isprintable()):
        raise UserError(f"--licence: {licence!r} is no name of a licence; give one such as cc-by-4.0")
    if not (run / "result.json").exists():
        raise UserError(f"{run} holds no result.json; give the folder of a finished run, such as runs/recipe")
    result = read_result(run)
    name = _recorded(run, result, stage)
    dynamics = _shareable(read_dynamics(run / "stages" / name / DYNAMICS))
    document = _document(result, name, dynamics, licence)
    _refuse_other(out, document)
    _write(out, dynamics, document)
    return document


def _recorded(run: Path, result: Mapping[str, Any], stage: str | None) -> str:
    """The stage whose dynamics are meant; UserError where it recorded none, or where several did."""
    names = [name for name in stage_names(result) if (run / "stages" / name / DYNAMICS).is_file()]
    if not names:
        raise UserError(f"no stage of the run {run} recorded dynamics; give one `dynamics: {{mode: online}}` and run it again")
    if stage is None:
        if len(names) > 1:
            raise UserError(f"{len(names)} stages of {run} recorded dynamics; choose one with --stage: {', '.join(names)}")
        return names[0]
    if stage not in names:
        what = "recorded no dynamics" if stage in stage_names(result) else "is not a stage of the run"
        raise UserError(f'--stage: "{stage}" {what}{did_you_mean(stage, names)}')
    return stage


def _shareable(dynamics: Dynamics) -> Dynamics:
    """The dynamics with what of their metadata may leave the machine."""
    metadata = {key: dynamics.metadata[key] for key in METADATA if dynamics.metadata.get(key) is not None}
    model = dynamics.metadata.get("model")
    return replace(dynamics, metadata={**metadata, **({"model": _model(model)} if isinstance(model, Mapping) else {})})


def _model(described: Mapping[str, Any]) -> dict[str, Any]:
    model = {key: described[key] for key in MODEL if key in described}
    if isinstance(model.get("source"), str):
        model["source"] = _public(model["source"])
    if isinstance(model.get("lineage"), (list, tuple)):
        model["lineage"] = list(dict.fromkeys(_public(str(name)) for name in model["lineage"]))
    return model


def _public(name: str) -> str:
    """A model's name without folders: ``owner/name`` and ``package:NAME`` stay, of a path the last part is left."""
    is_path = name.startswith(("/", ".", "~", "$")) or name.count("/") > 1 or "\\" in name
    return PurePath(name).name or name if is_path else name


def _document(result: Mapping[str, Any], name: str, dynamics: Dynamics, licence: str | None) -> dict[str, Any]:
    recipe, summary = dig(result, "recipe", "stages", name) or {}, dig(result, "stages", name)
    settings = without_folders(_given({key: recipe.get(key) for key in SETTINGS}))
    settings["seed"] = dig(summary, "seed")
    counts = None
    labels = list(dig(result, "data", "label_names") or ())
    if dynamics.gold is not None and labels:
        counts = dict(zip(labels, np.bincount(dynamics.gold, minlength=len(labels)).tolist()))
    return {
        "run": result.get("name"),
        "stage": name,
        "stage_key": dig(summary, "key"),
        "created": result.get("created"),
        "licence": licence,
        "model": dynamics.metadata.get("model"),
        "task": dig(result, "recipe", "task"),
        "settings": settings,
        "examples": len(dynamics),
        "classes": counts,
        "epochs": [int(epoch) for epoch in dynamics.epochs],
        "source": dynamics.metadata.get("source"),
        "dynamics_fingerprint": fingerprint_dynamics(dynamics),
        "data": _data(result, dynamics),
        "versions": dig(result, "provenance", "versions"),
    }


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are null or say how often a checkpoint is written."""
    kept = {key: value for key, value in settings.items() if value is not None and key not in NOT_SETTINGS}
    return {key: _given(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _data(result: Mapping[str, Any], dynamics: Dynamics) -> dict[str, Any]:
    """How the data was read, so that others can read theirs alike: settings of each file but where it lies, and by what the
    run left rows out itself (``part_of``)."""
    data = dig(result, "recipe", "data") or {}
    train = data.get("train") or {}
    files = train if isinstance(train, list) else [train]
    columns = _read_columns(data.get("columns"))
    part_of = []
    if HELD_OUT in (dig(result, "data", "evaluation") or {}) and HELD_OUT not in (data.get("evaluation") or {}):
        part_of.append("validation_fraction")
    part_of += [key for key in ("drop_duplicates_of_evaluation", "corrections") if data.get(key)]
    elsewhere = ("path", "format", "hub", "hub_config", "hub_split")
    return {
        "fingerprint": str(dynamics.metadata.get("data_fingerprint") or ""),
        "id_rule": [_id_rule(_read_columns(file["columns"]) if file.get("columns") else columns) for file in files],
        "columns": columns,
        "labels": data.get("labels"),
        "files": [
            {key: _read_columns(value) if key == "columns" else value for key, value in file.items() if value is not None}
            for file in [{key: value for key, value in file.items() if key not in elsewhere} for file in files]
        ],
        "part_of": part_of,
    }


def _read_columns(columns: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns that a fingerprint is of; groups and clusters are not, and others' files need not have them."""
    given = {**asdict(Columns()), **(columns or {})}
    return {key: given[key] for key in ("text", "label", "id")}


def _id_rule(columns: Mapping[str, Any]) -> dict[str, Any]:
    if columns.get("id"):
        return {"rule": "column", "column": columns["id"]}
    return {"rule": "content", "columns": columns.get("text"), "how": ID_BY_CONTENT}


def _refuse_other(out: Path, document: Mapping[str, Any]) -> None:
    """UserError where ``out`` holds anything but a bundle of the same stage of the same run."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out: {out} is a file; name a folder")
    if not any(out.iterdir()):
        return
    if not (out / DOCUMENT).is_file():
        raise UserError(f"--out: {out} is there and is no bundle; name a folder that does not exist yet")
    found = read_document(out)
    same = all(found.get(key) == document[key] for key in ("stage_key", "stage", "run", "dynamics_fingerprint"))
    if not same:
        whose = f"stage {found.get('stage')} of the run {found.get('run')}"
        raise UserError(f"--out: {out} is the bundle of other dynamics ({whose}); name another folder")


def _write(out: Path, dynamics: Dynamics, document: Mapping[str, Any]) -> None:
    """A new folder is written beside and renamed. Of a bundle that is there each file is replaced, whole; its dynamics are
    the same already, and what a user put beside them (a repository) stays."""
    beside: Path | None = None
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent))
        write_dynamics(dynamics, beside / DYNAMICS)
        write_text(beside / CARD, bundle_card(document))
        write_json(beside / DOCUMENT, document, kind="bundle", version=VERSION)
        for name in FILES:
            flush_file(beside / name)
        if (out / DOCUMENT).is_file():
            for name in FILES:
                os.replace(beside / name, out / name)
            flush_folder(out)
            return
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o777 & ~umask)  # mkdtemp's folders are private
        os.rename(beside, out)
        flush_folder(out.absolute().parent)
    except OSError as error:
        raise explain_os_error(error, out) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
