"""The store of stages: a stage is kept under the hash of everything that determines its outcome, and never computed twice.

store.json                     the store's format version
<first 20 digits of the key>/
    .lock                      held by the process that works here
    stage.json                 the full key and the specification it is the hash of
    checkpoints/               for resuming; removed when the stage is finished
    ...                        whatever the stage leaves (model, dynamics, ledger, predictions)
    finished.json              every result file's size and SHA-256, and the stage's summary; written last
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftft.engine.checkpoint import CheckpointFolder, warn_user
from ftft.errors import UserError
from ftft.files import (
    FolderLock,
    explain_os_error,
    fingerprint,
    flush_folder,
    read_json,
    remove_killed_writes,
    write_json,
)
from ftft.state.manifest import check_files, is_inside, list_files, read_manifest, write_manifest

STORE_VERSION = STAGE_VERSION = FINISHED_VERSION = 1
_STORE, _STAGE, _FINISHED, _CHECKPOINTS, _LOCK = "store.json", "stage.json", "finished.json", "checkpoints", ".lock"
_KEY = re.compile(r"[0-9a-f]{64}")
_KILLED_WRITE = re.compile(r"\..*\.tmp|\.tmp\w{6,}")  # what a killed atomic_path or safetensors leaves
_FOLDER_DIGITS = 20  # 80 bits: enough to tell stages apart, short enough for a path; the full key is in stage.json


def stage_key(spec: Mapping[str, Any]) -> str:
    """The key of a stage: the SHA-256 of its specification, whatever the order of the specification's keys."""
    return fingerprint(dict(spec))


class Store:
    """A folder of stages. Made when missing (unless not to ``make`` it, for reading alone); UserError when it cannot be, or
    was written by a newer ftft."""

    def __init__(self, root: Path | str, warn: Callable[[str], None] = warn_user, *, make: bool = True) -> None:
        self.root = Path(root)
        self._warn = warn
        version_file = self.root / _STORE
        if version_file.exists():
            read_json(version_file, kind="store", version=STORE_VERSION)
        if make:
            with FolderLock(self.root, wait=lambda sentence: None):  # only whoever holds it writes files here
                remove_killed_writes(self.root)
                if not version_file.exists():
                    write_json(version_file, {}, kind="store", version=STORE_VERSION)

    def remembered(self, name: str, condition: str, decide: Callable[[], str]) -> str:
        """What was decided here before under this condition (this machine), else ``decide()``, kept for the next time.

        A measured choice that enters a stage's key must not change between a run and its resumption.
        """
        path = self.root / f"{name}.json"
        with FolderLock(self.root, wait=self._warn):  # else two runs that start together might choose differently
            known = dict(read_json(path, kind=name)["choices"]) if path.exists() else {}
            if condition not in known:
                known[condition] = decide()
                write_json(path, {"choices": known}, kind=name)
        return str(known[condition])

    def stage_folder(self, key: str) -> StageFolder:
        """The folder of the stage with this key (64 hexadecimal digits); UserError when another key has the same folder."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"a stage's key is a SHA-256 of 64 hexadecimal digits, not {key!r}")
        return StageFolder(self.root / key[:_FOLDER_DIGITS], key, warn=self._warn)


class StageFolder:
    """One stage's results and, until it is finished, its resume checkpoints.

    The order of work: take ``lock()``; if ``finished``, use the results; else ``describe(spec)``, train (saving to and
    resuming from ``checkpoints``), write results to ``path(name)``, and ``finish(payload)``.
    """

    def __init__(self, folder: Path, key: str, warn: Callable[[str], None] = warn_user) -> None:
        self.folder = folder
        self.key = key
        self.checkpoints = CheckpointFolder(folder / _CHECKPOINTS, warn=warn)
        self._warn = warn
        self._warned: set[str] = set()
        self._check_key()

    def lock(self, *, wait: Callable[[str], None] | None = None) -> FolderLock:
        """A context that keeps other processes out of this folder; entering it raises UserError when one is at work, or
        with ``wait`` says so through it and waits."""
        return FolderLock(self.folder, wait=wait)

    def path(self, name: str) -> Path:
        """Where the result ``name`` (a POSIX path below the folder, such as ``model/config.json``) lies or will lie."""
        if not is_inside(name):
            raise ValueError(f"{name!r} is not a path inside a stage's folder")
        if name.split("/")[0] in (_STAGE, _FINISHED, _CHECKPOINTS, _LOCK):
            raise ValueError(f"{name!r} is kept by the store itself")
        return self.folder / name

    @property
    def predictions(self) -> Path:
        """The folder of the finished model's predictions, which come after ``finish`` and are not in its record."""
        return self.folder / "predictions"

    @property
    def predictions_before(self) -> Path:
        """The same of the model before training."""
        return self.folder / "predictions_before"

    @property
    def measured(self) -> Path:
        """The folder of what was measured of the finished model itself, which comes after ``finish`` too."""
        return self.folder / "measured"

    @property
    def made_later(self) -> tuple[Path, ...]:
        """The folders that are filled after ``finish``; each file in them has a checksum of its own."""
        return self.predictions, self.predictions_before, self.measured

    @property
    def finished(self) -> bool:
        """Whether the stage is finished and all result files are there with their sizes; damage gives a warning."""
        return self.verify(full=False)

    def verify(self, *, full: bool = True) -> bool:
        """Whether the stage is finished and its files are as they were left: sizes, and with ``full`` every SHA-256."""
        if not (self.folder / _FINISHED).exists():
            return False
        try:
            check_files(self.folder, self._read_finished().get("files"), full=full)
        except (UserError, OSError) as error:
            self._warn_once(f"a stored stage is damaged and counts as unfinished: {error}")
            return False
        return True

    def payload(self) -> dict[str, Any]:
        """What ``finish`` was given; UserError when the stage is not finished or its record is damaged."""
        return dict(self._read_finished()["payload"])

    def spec(self) -> dict[str, Any]:
        """The specification ``describe`` wrote; UserError when there is none."""
        return dict(read_json(self.folder / _STAGE, kind="stage", version=STAGE_VERSION)["spec"])

    def describe(self, spec: Mapping[str, Any]) -> None:
        """Begin work: write ``stage.json`` unless it is there, and take away what must not be found in the results: the
        record of results that are damaged, what was made of a model that will be trained anew, half-written files.

        ``spec`` is what :func:`stage_key` made the key of (ValueError otherwise). Call it with the lock held.
        """
        if stage_key(spec) != self.key:
            raise ValueError("the specification is not the one this stage's key was made of")
        if not self._check_key():
            write_json(self.folder / _STAGE, {"key": self.key, "spec": dict(spec)}, kind="stage", version=STAGE_VERSION)
        remove_killed_writes(self.folder)
        finished = self.folder / _FINISHED
        if self.verify():
            return
        try:
            # Before the record: without it nothing would tell that they are of another model.
            for folder in self.made_later:
                if folder.exists():
                    shutil.rmtree(folder)
            # New results of the same sizes beside an old record would look finished before they are.
            finished.unlink(missing_ok=True)
            flush_folder(self.folder)
        except OSError as error:
            raise explain_os_error(error, finished) from error

    def finish(self, payload: Mapping[str, Any]) -> None:
        """Flush and list every result file, write ``finished.json`` last, then remove the resume checkpoints.

        ``payload``: JSON, the stage's summary. UserError where the writing is refused; the stage then stays unfinished.
        """
        try:
            files = list_files(self.folder, list(self._result_files()))
        except OSError as error:
            raise explain_os_error(error, self.folder) from error
        content = {"key": self.key, "files": files, "payload": dict(payload)}
        write_manifest(self.folder / _FINISHED, content, kind="finished", version=FINISHED_VERSION)
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Remove the resume checkpoints; a folder that resists gives a warning."""
        folder = self.checkpoints.folder
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            self._warn_once(f"{folder} is no longer needed and could not be removed: {error.strerror or error}")

    def _check_key(self) -> bool:
        """Whether a sound stage.json stands here; UserError when it belongs to another key."""
        path = self.folder / _STAGE
        if not path.exists():
            return False
        try:
            found = read_json(path, kind="stage", version=STAGE_VERSION)
        except UserError as error:
            self._warn_once(f"{error}; it will be written again")
            return False
        if found.get("key") != self.key:
            raise UserError(f"{self.folder} belongs to the stage {found.get('key')}, not {self.key}; use another store")
        return stage_key(found.get("spec") or {}) == self.key

    def _read_finished(self) -> dict[str, Any]:
        path = self.folder / _FINISHED
        content = read_manifest(path, kind="finished", version=FINISHED_VERSION)
        if content.get("key") != self.key:
            raise UserError(f"{path} belongs to another stage")
        return content

    def _result_files(self) -> Iterator[str]:
        own = {_STAGE, _FINISHED, _LOCK}
        for path in self.folder.rglob("*"):
            parts = path.relative_to(self.folder).parts
            name = "/".join(parts)
            if parts[0] == _CHECKPOINTS or name in own or any(_KILLED_WRITE.fullmatch(part) for part in parts):
                continue
            if path.is_symlink():
                raise ValueError(f"{path} is a link; a stage's results must lie in its own folder")
            if path.is_file():
                yield name

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._warn(message)
