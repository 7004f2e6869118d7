"""Save a finished model as a folder that ``from_pretrained`` loads alone: written beside, flushed, renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftft.errors import UserError
from ftft.files import (
    explain_os_error,
    flush_file,
    flush_folder,
    replace_folder,
    safetensors_os_error,
    sha256_file,
    write_json,
    write_text,
)
from ftft.models.folder import MODEL_FILE
from ftft.models.quiet import quiet_transformers


def save_model(
    folder: Path | str,
    model: Any,
    tokenizer: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> Path:
    """Write weights (safetensors), config with the label names, tokenizer, ``metadata`` with the weights' SHA-256
    (``ftft.json``) and ``card`` (``README.md``) to ``folder``; returns it.

    A model already in ``folder`` is replaced; the old one stays whole until the new one is. Raises UserError when the
    folder holds something else, and when the disk is full or may not be written; nothing half-written stays behind.
    """
    folder = Path(folder)
    if folder.exists() and not _is_model_or_empty(folder):
        raise UserError(f"the model cannot be saved to {folder}: something that is not a model is there; choose another folder")
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        _write(beside, model, tokenizer, metadata or {}, card)
        replace_folder(beside, folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    except Exception as error:
        # safetensors reports the system's errors as its own class, with the system's words in the message.
        if type(error).__name__ != "SafetensorError":
            raise
        system = safetensors_os_error(error)
        raise (explain_os_error(system, folder) if system else UserError(f"cannot write {folder}: {error}")) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _write(folder: Path, model: Any, tokenizer: Any, metadata: Mapping[str, Any], card: str | None) -> None:
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)  # mkdtemp's folders are private; a saved model follows the user's umask
    with quiet_transformers():
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    weights = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    write_json(folder / MODEL_FILE, {**metadata, "weights_sha256": weights}, kind="model")
    if card is not None:
        write_text(folder / "README.md", card)
    for path in folder.rglob("*"):
        if path.is_file():
            flush_file(path)
    flush_folder(folder)


def _is_model_or_empty(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "config.json").is_file() or not any(folder.iterdir()))
