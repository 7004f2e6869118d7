"""Trouble at a chosen moment of a process' writing: a kill, or a disk that is full, or a file system read-only, from then on.

A moment is one thing the process asks of the file system below a folder: to open a file for writing, to flush, rename, link
or remove one, to make a folder; or the end of a library's own writing (Parquet, safetensors), which is then cut in half.
Its name is what is asked and of what, without the parts of names that change from run to run.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

FULL = "No space left on device"
GROWING = ("open", "mkdir", "rename", "link", "flush", "written")  # what a full disk refuses; removing always works
CHANGING = ("open", "mkdir", "rename", "link", "remove", "rmdir")  # what a read-only file system refuses


class Trouble:
    """``kind``: "watch" (write the names of the moments to ``log``), "kill", "full" or "read-only"; ``at``: the moment, as its
    name (the first of that name) or its number from 0."""

    def __init__(self, root: str, kind: str, at: int | str | None, log: str) -> None:
        self.root, self.kind, self.at = os.path.realpath(root), kind, at
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.count, self.begun = 0, False

    def moment(self, what: str, path: str) -> None:
        name = f"{what} {self.plain(path)}"
        self.begun = self.begun or self.at in (self.count, name)
        self.count += 1
        if self.kind == "watch":
            os.write(self.log, f"{name}\n".encode())
        elif self.begun and self.kind == "kill":
            self.cut(path, what)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.begun and self.kind == "read-only":
            if what in CHANGING:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        elif self.begun and what in GROWING:
            if what == "written":
                self.cut(path, what)
                raise OSError(errno.ENOSPC, FULL)
            raise OSError(errno.ENOSPC, FULL, path)

    def cut(self, path: str, what: str) -> None:
        """What was not flushed yet may be lost."""
        if what in ("flush", "written") and os.path.isfile(path):
            os.truncate(path, os.path.getsize(path) // 2)

    def plain(self, path: str) -> str:
        name = os.path.relpath(path, self.root)
        name = re.sub(r"\.[a-z0-9_]{8}\.tmp", ".*.tmp", name)
        name = re.sub(r"\.tmp[\w]{6,}", ".tmp*", name)
        name = re.sub(r"\b[0-9a-f]{20}\b", "<key>", name)
        return re.sub(r"\d{4,}|(?<=-)\d+\b", "<n>", name)

    def inside(self, path: Any, folder: int | None = None) -> str | None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path)
        if folder is not None and folder >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.normpath(os.path.join(os.getcwd(), path))
        return path if path.startswith(self.root + os.sep) else None

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: it comes before the work, and what it raises is the work's error."""
        place: str | None = None
        if event == "open" and not isinstance(arguments[0], int):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                event, place = "open", self.inside(arguments[0])
        elif event in ("os.rename", "os.link"):
            place = self.inside(arguments[1])
        elif event in ("os.remove", "os.rmdir", "os.mkdir"):
            place = self.inside(arguments[0], arguments[-1])
        if place is not None and (self.kind == "read-only" or not place.endswith("/.lock")):
            self.moment(event.removeprefix("os."), place)

    def install(self) -> None:
        import pyarrow.parquet as pq
        import safetensors.torch
        from safetensors import SafetensorError

        import ftft.state.tree

        flush, close, save = os.fsync, pq.ParquetWriter.close, safetensors.torch.save_file

        def fsync(descriptor: int) -> None:
            place = self.inside(descriptor)
            if place is not None:
                self.moment("flush", place)
            flush(descriptor)

        def finish(writer: Any) -> None:
            was_open, where = writer.is_open, getattr(writer, "_ftft_where", None)
            close(writer)
            if was_open and where is not None:
                self.moment("written", where)

        begin = pq.ParquetWriter.__init__

        def start(writer: Any, where: Any, *rest: Any, **more: Any) -> None:
            begin(writer, where, *rest, **more)
            writer._ftft_where = self.inside(where) if isinstance(where, (str, Path)) else None

        def save_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
            save(tensors, filename, metadata=metadata)
            place = self.inside(filename)
            try:
                if place is not None:
                    self.moment("written", place)
            except OSError as error:
                raise SafetensorError(f"Error while serializing: I/O error: {FULL} (os error {error.errno})") from None

        os.fsync = fsync
        pq.ParquetWriter.__init__, pq.ParquetWriter.close = start, finish
        ftft.state.tree.save_file = save_file
        for module in list(sys.modules.values()):
            if getattr(module, "safe_save_file", None) is save:
                module.safe_save_file = save_file  # transformers' name for it
        sys.addaudithook(self.hook)
