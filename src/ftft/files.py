"""Crash-safe files: written beside, flushed, renamed; every stored JSON carries its format's name and version.

A reader of the store never sees half a file: either the old content or the new. The rename is atomic on POSIX
file systems; the folder is flushed too, so that the new name survives a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftft.errors import UserError

FORMAT, VERSION = "format", "format_version"
_KILLED_WRITE = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names of atomic_path and of tempfile.mkdtemp beside a target


def explain_os_error(error: OSError, path: Path | str) -> UserError:
    """The sentence for a disk that is full, a folder that may not be written, and the like."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EFBIG: "the file would be larger than is allowed here (see ulimit -f); raise the limit and run again",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission was denied",
        errno.EPERM: "permission was denied",
        errno.ENOENT: "the folder does not exist",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a file stands where a folder is meant to be",
        errno.EISDIR: "a folder stands where a file is meant to be",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {reason}")


def safetensors_os_error(error: Exception) -> OSError | None:
    """The system's error inside safetensors' own one, whose text holds its number (``(os error 28)``, in older releases
    ``Os { code: 28, ...``); None where there is none."""
    found = re.search(r"(?:os error|\bcode:) (\d+)", str(error))
    return OSError(int(found.group(1)), os.strerror(int(found.group(1)))) if found else None


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename inside it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_file(path: Path) -> None:
    """Flush a finished file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it over ``path``, else remove it.

    Raises UserError where the operating system refuses the writing (full disk, no permission).
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        # mkstemp makes private files; a stored file follows the user's umask like any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        flush_file(temporary)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # a file system that turned read-only: the first error says so
                temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, payload: Mapping[str, Any], *, kind: str, version: int = 1) -> None:
    """Write ``payload`` atomically as JSON with its format's name (``ftft/<kind>``) and version in front.

    NaN is written as null: JSON has no NaN, and readers in other languages refuse it.
    """
    document = {FORMAT: f"ftft/{kind}", VERSION: version, **_without_nan(dict(payload))}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, *, kind: str, version: int = 1) -> dict[str, Any]:
    """Read what :func:`write_json` wrote; UserError when missing, damaged, of another kind, or from a newer version."""
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged and cannot be read as JSON: {error}") from None
    if not isinstance(document, dict) or document.get(FORMAT) != f"ftft/{kind}":
        raise UserError(f'{path} is not a file of the kind "ftft/{kind}"')
    found = document.get(VERSION)
    if not isinstance(found, int) or found > version:
        raise UserError(f"{path} has format version {found}, and this ftft reads up to {version}; upgrade ftft to read it")
    return document


def json_line(payload: Mapping[str, Any]) -> str:
    """``payload`` as one line of JSON without its newline, NaN and infinities as null as in :func:`write_json`."""
    return json.dumps(_without_nan(dict(payload)), ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy scalars
        return _without_nan(value.item())
    if isinstance(value, Path):
        return str(value)
    return value


def replace_folder(new: Path, folder: Path) -> None:
    """Put the finished folder ``new``, which lies beside ``folder``, in its place, and remove what was there.

    A folder cannot be renamed over a full one, so the old one steps aside first; a crash in that instant leaves both,
    under other names. Raises OSError; the old folder is then back in its place.
    """
    old = folder.with_name(f".{folder.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    flush_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Link (or, across file systems, copy) a finished file that is never changed; UserError where that is refused."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            flush_file(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def copy_folder(source: Path, target: Path) -> None:
    """Put a copy of a folder in the place of ``target``, written beside and renamed; UserError where that is refused.

    A target that holds the same files already is left alone, with whatever the user has put beside them. Copies, not
    links: a user who edits the copy in place must not edit the source.
    """
    beside: Path | None = None
    try:
        names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
        if target.is_dir() and not any(filecmp.cmpfiles(source, target, [str(name) for name in names], shallow=False)[1:]):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        beside.chmod(source.stat().st_mode & 0o777)  # mkdtemp's folders are private
        for name in names:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, beside / name)
            flush_file(beside / name)
        replace_folder(beside, target)
    except OSError as error:
        raise explain_os_error(error, target) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def remove_killed_writes(folder: Path) -> None:
    """Remove what killed processes left half-written directly in ``folder``; call it where no other process writes."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if not _KILLED_WRITE.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A SHA-256 of a JSON-like value that does not depend on the order of keys."""
    canonical = json.dumps(_without_nan(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class FolderLock:
    """An exclusive lock on a folder, held by the operating system, so that a killed process never leaves one behind.

    Entering it raises UserError where another process holds it; with ``wait``, that is called once with a sentence for
    the user, and entering goes on when the other process has finished or died.
    """

    FILE = ".lock"

    def __init__(self, folder: Path | str, *, wait: Callable[[str], None] | None = None) -> None:
        self.folder = Path(folder)
        self._wait = wait
        self._stream: Any = None

    def __enter__(self) -> FolderLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stream = open(self.folder / self.FILE, "a+")
            try:
                self._acquire()
            except BaseException:
                self._stream.close()
                raise
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        with contextlib.suppress(OSError):  # the number only tells others who it is; a full disk must not cost the lock
            os.ftruncate(self._stream.fileno(), 0)
            os.write(self._stream.fileno(), str(os.getpid()).encode())
        return self

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            self._stream.seek(0)
            owner = self._stream.read().strip()
        who = f" (process {owner})" if owner else ""
        busy = f"another run{who} is already working in {self.folder}"
        if self._wait is None:
            raise UserError(f"{busy}; wait for it or choose another folder")
        self._wait(f"{busy}; waiting for it to finish")
        fcntl.flock(self._stream, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._stream.close()  # closing releases the lock; the empty file stays, for removing it would race
