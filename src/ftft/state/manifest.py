"""Which files a stored folder holds, with their sizes and SHA-256, so that a damaged folder is never trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ftft.errors import UserError
from ftft.files import fingerprint, flush_file, flush_folder, read_json, sha256_file, write_json

_DIGEST = "payload_sha256"


def list_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Flush the named files (POSIX paths below ``folder``) and give each one's size in bytes and SHA-256."""
    files, folders = {}, set()
    for name in sorted(names):
        path = folder / name
        flush_file(path)
        folders.add(path.parent)
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    for parent in folders:
        flush_folder(parent)
    return files


def check_files(folder: Path, files: Any, *, full: bool = True) -> None:
    """UserError when a listed file is missing, of another size or (``full``) another content, or lies elsewhere.

    The list comes from a file, so it is not trusted: a path that leaves ``folder``, by ``..`` or a link, is refused.
    """
    if not isinstance(files, Mapping):
        raise UserError(f"{folder} is damaged: its manifest lists no files")
    for name, facts in files.items():
        if not is_inside(name) or (folder / name).resolve() != folder.resolve() / name:
            raise UserError(f"{folder} is damaged: its manifest lists {name!r}, which lies outside the folder")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{folder} is damaged: {name} is missing")
        if not isinstance(facts, Mapping) or path.stat().st_size != facts.get("bytes"):
            raise UserError(f"{folder} is damaged: {name} has not the size in the manifest")
        if full and sha256_file(path) != facts.get("sha256"):
            raise UserError(f"{folder} is damaged: the content of {name} does not fit its SHA-256 in the manifest")


def is_inside(name: object) -> bool:
    """Whether ``name`` is a plain relative POSIX path that stays below the folder it is joined to."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name != "."


def write_manifest(path: Path, payload: Mapping[str, Any], *, kind: str, version: int = 1) -> None:
    """Write ``payload`` as versioned JSON together with its own SHA-256."""
    write_json(path, {**payload, _DIGEST: fingerprint(dict(payload))}, kind=kind, version=version)


def read_manifest(path: Path, *, kind: str, version: int = 1) -> dict[str, Any]:
    """Read what :func:`write_manifest` wrote; UserError when missing, damaged, of another kind, or from a newer ftft."""
    document = read_json(path, kind=kind, version=version)
    payload = _payload(document)
    if fingerprint(payload) != document.get(_DIGEST):
        raise _unfit(path)
    return payload


def read_guarded(path: Path, *, kind: str, version: int = 1) -> dict[str, Any]:
    """As :func:`read_manifest`, but the whole document, and also one without a SHA-256, which earlier releases wrote."""
    document = read_json(path, kind=kind, version=version)
    if _DIGEST in document and fingerprint(_payload(document)) != document.pop(_DIGEST):
        raise _unfit(path)
    return document


def _payload(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("format", "format_version", _DIGEST)}


def _unfit(path: Path) -> UserError:
    return UserError(f"{path} is damaged: its content does not fit its own SHA-256")
