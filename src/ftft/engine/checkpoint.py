"""Resume checkpoints: written beside, flushed, listed with sizes and hashes, then renamed; never trusted unverified.

    step_00000120/
        <tree>.json, <tree>.safetensors    one pair per tree (model, optimizer, random generators, ...)
        manifest.json                      step, trees, info, every file's size and SHA-256; written last

A crash at any moment leaves either the whole checkpoint or a temporary folder that is never read.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftft.errors import UserError
from ftft.files import FolderLock, explain_os_error, flush_folder
from ftft.state.manifest import check_files, list_files, read_manifest, write_manifest
from ftft.state.tree import load_tree, save_tree, tree_files

KIND, FORMAT_VERSION, MANIFEST = "checkpoint", 1, "manifest.json"

_STEP = re.compile(r"step_(\d{8,})")
_LEFTOVER = re.compile(r"step_\d{8,}\.(tmp|old)-\d+")
_TREE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint: its ``step``, its ``trees`` by name, the JSON ``info`` it was saved with, its folder."""

    step: int
    trees: dict[str, Any]
    info: dict[str, Any]
    path: Path


def warn_user(message: str) -> None:
    """Report a problem that was worked around, as a Python warning."""
    warnings.warn(message, stacklevel=3)


class CheckpointFolder:
    """The checkpoints of one stage: the newest ``keep`` of them, and the pinned ones.

    One process works in the folder at a time; a second one's ``save`` is refused with a UserError.
    """

    def __init__(self, folder: Path | str, keep: int = 2, warn: Callable[[str], None] = warn_user) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self._warn = warn
        self._pinned: set[int] = set()
        self._damaged: set[int] = set()

    def pin(self, step: int) -> None:
        """Never remove this step's checkpoint. Pins belong to this object: after a resume they are set again."""
        self._pinned.add(step)

    def unpin(self, step: int) -> None:
        """Let this step's checkpoint be removed when it is no longer among the newest."""
        self._pinned.discard(step)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending; whether it is sound shows only when it is loaded."""
        try:
            found = [_STEP.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read the checkpoints in {self.folder}: {error.strerror or error}") from error
        return sorted(int(match.group(1)) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of this step's checkpoint, whether it exists or not."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, trees: Mapping[str, Any], info: Mapping[str, Any], *, keep_steps: Iterable[int] = ()) -> Path:
        """Write the checkpoint of ``step``, then remove the older ones beyond ``keep``, but none pinned or in ``keep_steps``.

        ``trees``: what ``ftft.state.tree`` can hold, by name. ``info``: JSON (its NaN is stored as null). An existing
        checkpoint of the same step is replaced (a crash in that instant leaves the older ones). Raises TypeError for a
        tree that cannot be saved, and UserError where the writing is refused (full disk, no permission): then nothing of
        the checkpoint is left and the older ones are untouched.
        """
        for name in trees:
            if not _TREE_NAME.fullmatch(name) or name == Path(MANIFEST).stem:
                raise ValueError(f"{name!r} cannot name a tree of a checkpoint")
        target = self.path(step)
        temporary = self.folder / f"{target.name}.tmp-{os.getpid()}"
        try:
            with FolderLock(self.folder):
                self._remove_leftovers()
                try:
                    _write(temporary, step, trees, info)
                    self._put_in_place(temporary, target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                self._damaged.discard(step)
                self._prune(step, {*keep_steps, *self._pinned, step})
        except OSError as error:
            raise explain_os_error(error, target) from error
        except UserError as error:
            if isinstance(error.__cause__, OSError) and temporary.name in str(error):
                raise explain_os_error(error.__cause__, target) from error
            raise
        return target

    def discard(self, step: int) -> None:
        """Remove this step's checkpoint, where there is one; UserError where another process works in the folder."""
        if self.path(step).is_dir():
            try:
                with FolderLock(self.folder):
                    self._delete(self._take_aside(self.path(step)))
            except OSError as error:
                self._warn(f"the checkpoint {self.path(step)} could not be removed: {error.strerror or error}")

    def load(self, step: int, only: Collection[str] | None = None) -> LoadedCheckpoint:
        """Verify and load this step's checkpoint (the trees named in ``only``, or all); UserError when missing or damaged."""
        path = self.path(step)
        if not path.is_dir():
            there = ", ".join(str(found) for found in self.steps()) or "none"
            raise UserError(f"there is no checkpoint of step {step} in {self.folder}; there is: {there}")
        try:
            manifest = read_manifest(path / MANIFEST, kind=KIND, version=FORMAT_VERSION)
            names, files = manifest["trees"], manifest["files"]
            check_files(path, files)
            if manifest.get("step") != step:
                raise UserError(f"{path} is damaged: its manifest is that of step {manifest.get('step')}")
            wanted = [name for name in names if only is None or name in only]
            if any(file.name not in files for name in names for file in tree_files(path, name)):
                raise UserError(f"{path} is damaged: its manifest does not list the files of all its trees")
            trees = {name: load_tree(path, name) for name in wanted}
            return LoadedCheckpoint(step=step, trees=trees, info=manifest["info"], path=path)
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged and cannot be read: {error}") from error

    def newest_valid(
        self, only: Collection[str] | None = None, *, usable: Callable[[LoadedCheckpoint], None] = lambda found: None
    ) -> LoadedCheckpoint | None:
        """The newest checkpoint whose sizes and hashes are right and that ``usable`` does not refuse with a UserError, or
        None; the others are passed over with a warning."""
        for step in reversed(self.steps()):
            try:
                found = self.load(step, only)
                usable(found)
                return found
            except UserError as error:
                self._damaged.add(step)
                self._warn(f"the checkpoint of step {step} is passed over: {error}")
        return None

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        aside = self._take_aside(target) if target.exists() else None
        os.rename(temporary, target)
        flush_folder(self.folder)
        if aside is not None:
            self._delete(aside)

    def _prune(self, saved: int, kept: set[int]) -> None:
        # A checkpoint known to be damaged must not fill the place of a sound one. Later steps than the one just
        # saved exist only when the caller went back on purpose; they are left alone.
        steps = self.steps()
        sound = [step for step in steps if step <= saved and step not in self._damaged]
        kept = {*kept, *sound[-self.keep :], *(step for step in steps if step > saved and step not in self._damaged)}
        for step in steps:
            if step not in kept:
                try:
                    self._delete(self._take_aside(self.path(step)))
                    self._damaged.discard(step)
                except OSError as error:
                    self._warn(f"the old checkpoint {self.path(step)} could not be removed: {error.strerror or error}")

    def _take_aside(self, path: Path) -> Path:
        # Renamed before it is deleted, so that a crash while deleting leaves no half checkpoint under a valid name.
        aside = path.with_name(f"{path.name}.old-{os.getpid()}")
        os.rename(path, aside)
        return aside

    def _remove_leftovers(self) -> None:
        # The lock is held, so whoever made these folders is no longer working here.
        for entry in self.folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                self._delete(entry)

    def _delete(self, folder: Path) -> None:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            self._warn(f"{folder} is no longer needed and could not be removed: {error.strerror or error}")


def _write(temporary: Path, step: int, trees: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    temporary.mkdir()
    for name, tree in trees.items():
        save_tree(temporary, name, tree)
    files = list_files(temporary, [path.name for path in temporary.iterdir()])
    payload = {"step": step, "trees": list(trees), "files": files, "info": dict(info)}
    write_manifest(temporary / MANIFEST, payload, kind=KIND, version=FORMAT_VERSION)
    flush_folder(temporary)
