"""What happened in a run, one JSON object per line: the source of truth that trackers mirror.

{"format": "ftft/events", "format_version": 1, "time": 1700000000.0, "event": "log"}     first line of a new file
{"time": 1700000003.2, "event": "evaluation", "step": 120, "accuracy": 0.81}
{"time": 1700000960.7, "event": "repaired"}     the line before was cut off by a crash
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ftft.errors import UserError
from ftft.files import FORMAT, VERSION, explain_os_error, json_line

KIND, FORMAT_VERSION = "ftft/events", 1


class EventLog:
    """Appends events to a file; each line goes to the operating system at once, so that a killed process loses none.

    A last line that a crash cut off is ended by a newline when the file is opened again. One process writes at a time.
    Raises UserError where the file cannot be written.
    """

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        if size == 0:
            try:
                self._append({FORMAT: KIND, VERSION: FORMAT_VERSION, "time": self._clock(), "event": "log"})
            except UserError:
                self.close()
                raise

    def write(self, event: str, fields: Mapping[str, Any] | None = None) -> None:
        """Append ``{"time": seconds since 1970, "event": event, **fields}``; NaN and infinities become null."""
        fields = fields or {}
        if clash := {"time", "event", FORMAT, VERSION}.intersection(fields):
            raise ValueError(f"an event's fields may not be called {sorted(clash)}")
        if self._torn:
            self._append({"time": self._clock(), "event": "repaired"})
        self._append({"time": self._clock(), "event": event, **fields})

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _append(self, document: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        # Half a surrogate pair (an undecodable file name) has no UTF-8; its backslash form is a JSON escape.
        line = json_line(document).encode("utf-8", "backslashreplace") + b"\n"
        if self._torn:
            line = b"\n" + line
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
                self._torn = bool(line)
        except OSError as error:
            raise explain_os_error(error, self.path) from error


def read_events(
    path: Path | str, warn: Callable[[str], None] = lambda message: warnings.warn(message, stacklevel=3)
) -> list[dict[str, Any]]:
    """The events of a log in order, without its first (format) line.

    A line that a crash cut off is passed over silently, any other damaged line with a warning.
    UserError when the file is missing, is not an event log, or was written by a newer ftft.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    *lines, rest = content.split(b"\n")
    parsed = [_parse(line) for line in lines]
    if rest:
        parsed.append(_parse(rest))
    events = []
    for number, event in enumerate(parsed):
        if event is None:
            following = parsed[number + 1] if number + 1 < len(parsed) else None
            repaired = following is not None and following["event"] == "repaired"
            if not repaired and number < len(lines):
                warn(f"line {number + 1} of {path} is damaged and passed over")
        elif FORMAT in event:
            _check_format(event, path)
        else:
            events.append(event)
    return events


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _check_format(event: Mapping[str, Any], path: Path) -> None:
    version = event.get(VERSION)
    if event.get(FORMAT) != KIND:
        raise UserError(f"{path} is not a file of the kind {KIND}")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and this ftft reads up to {FORMAT_VERSION}; upgrade ftft to read it"
        )
