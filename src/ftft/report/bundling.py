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
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ftft.data.image_folders import FILE_NAME
from ftft.data.inputs import TaskInputs
from ftft.data.settings import Columns
from ftft.data.streams import FORMATS
from ftft.dynamics.parquet import fingerprint_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean
from ftft.files import explain_os_error, flush_file, flush_folder, write_json, write_text
from ftft.methods.registry import load_class, task_header
from ftft.report.bundle_card import bundle_card
from ftft.report.figures import dig, last_part, stage_names, without_folders
from ftft.run.bundles import CARD, DOCUMENT, DYNAMICS, FILES, VERSION, read_document
from ftft.run.reading import DEFAULT_TASK
from ftft.run.runner import read_result

HELD_OUT = "validation"
SETTINGS = ("train", "select", "adapt", "objective", "optimize", "combine", "stop", "dynamics", "seed")
NOT_SETTINGS = ("checkpoint_seconds",)
MODEL = ("source", "lineage", "architecture", "model_type", "layers", "layers_of_checkpoint", "parameters", "weights_sha256")
METADATA = ("source", "data_fingerprint", "label_names", "num_classes")
ID_BY_CONTENT = (
    "the first 16 hexadecimal digits of the SHA-256 of the input columns as netstrings; rows of equal content are told apart "
    "by -1, -2, ... in the order of the file"
)
ID_BY_FILE_NAME = "the path of the picture in its folder"


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
    dynamics = _shareable(read_dynamics(run / "stages" / name / DYNAMICS), dig(result, "recipe", "stages", name, "model") or {})
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


def _shareable(dynamics: Dynamics, settings: Mapping[str, Any]) -> Dynamics:
    """The dynamics with what of their metadata may leave the machine; ``settings``: the recipe's of the model."""
    metadata = {key: dynamics.metadata[key] for key in METADATA if dynamics.metadata.get(key) is not None}
    model = dynamics.metadata.get("model")
    shared = {"model": _model(model, settings)} if isinstance(model, Mapping) else {}
    return replace(dynamics, metadata={**metadata, **shared})


def _model(described: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the model, without folders. Only the recipe knows ``owner/name`` on a hub from a folder in a folder, so a
    model that it takes from elsewhere goes by last parts alone."""
    model = {key: described[key] for key in MODEL if key in described}
    public = settings.get("hub") or settings.get("package")
    known = public is not None and described.get("source") == public
    if isinstance(model.get("source"), str):
        model["source"] = public if known else last_part(model["source"])
    if isinstance(model.get("lineage"), (list, tuple)):
        model["lineage"] = list(dict.fromkeys(_public(str(name), known) for name in model["lineage"]))
    return model


def _public(name: str, from_hub: bool) -> str:
    """A name of a model's lineage; with ``from_hub``, ``owner/name`` stays, as whoever published the model wrote it."""
    is_path = name.startswith(("/", ".", "~", "$")) or name.count("/") > 1 or "\\" in name
    return name if from_hub and not is_path else last_part(name)


def _task(section: Mapping[str, Any], task: type) -> dict[str, Any]:
    """The task's settings; of the files that they name the last part."""
    kept = without_folders(section)
    files = {name: last_part(kept[name]) for name in getattr(task, "files", ()) if isinstance(kept.get(name), str)}
    return {**kept, **files}


def _document(result: Mapping[str, Any], name: str, dynamics: Dynamics, licence: str | None) -> dict[str, Any]:
    recipe, summary = dig(result, "recipe", "stages", name) or {}, dig(result, "stages", name)
    settings = without_folders(_given({key: recipe.get(key) for key in SETTINGS}))
    settings["seed"] = dig(summary, "seed")
    section = dig(result, "recipe", "task") or {"name": DEFAULT_TASK}
    task: Any = load_class(task_header(section["name"], "the task of the run"))
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
        "task": _task(section, task),
        "settings": settings,
        "examples": len(dynamics),
        "classes": counts,
        "epochs": [int(epoch) for epoch in dynamics.epochs],
        "source": dynamics.metadata.get("source"),
        "dynamics_fingerprint": fingerprint_dynamics(dynamics),
        "data": _data(result, dynamics, task.inputs),
        "versions": dig(result, "provenance", "versions"),
    }


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are null or say how often a checkpoint is written."""
    kept = {key: value for key, value in settings.items() if value is not None and key not in NOT_SETTINGS}
    return {key: _given(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _data(result: Mapping[str, Any], dynamics: Dynamics, inputs: TaskInputs) -> dict[str, Any]:
    """How the data was read, so that others can read theirs alike: settings of each file but where it lies, and by what the
    run left rows out itself (``part_of``). ``inputs``: what the task reads of a row."""
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
        "id_rule": [
            _id_rule(file, _read_columns(file["columns"]) if file.get("columns") else columns, inputs) for file in files
        ],
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
    return {key: given[key] for key in ("text", "inputs", "label", "id")}


def _id_rule(file: Mapping[str, Any], columns: Mapping[str, Any], inputs: TaskInputs) -> dict[str, Any]:
    """How the rows of a file get their ids. The columns that content is of are empty where the recipe names none and the task
    reads rows of several kinds."""
    if columns.get("id"):
        return {"rule": "column", "column": columns["id"]}
    if inputs.images and _is_folder(file):
        return {"rule": "file_name", "column": FILE_NAME, "how": ID_BY_FILE_NAME}
    known = bool(columns.get("inputs") or columns.get("text")) or len(inputs.layouts) == 1
    named = list(inputs.columns_of(Columns(**columns), "data.columns").values()) if known else []
    return {"rule": "content", "columns": named, "how": ID_BY_CONTENT}


def _is_folder(file: Mapping[str, Any]) -> bool:
    """Whether what a run read was a folder of images: a file has a format, or says it by its ending."""
    if file.get("format") is not None or file.get("path") is None:
        return file.get("format") == "images"
    return not any(suffix.lower() in FORMATS for suffix in PureWindowsPath(file["path"]).suffixes[-2:])


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
