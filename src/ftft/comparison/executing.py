"""Where cells are computed: each in a child process on this machine, several at once."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftft.comparison.planning import Work
from ftft.files import write_json
from ftft.run.reading import recipe_to_dict

USER_ERROR, INTERRUPTED = 2, 130
REQUEST_VERSION = 1


@dataclass(frozen=True)
class Ended:
    """A cell's process is over: ``why`` is None where the cell was kept, "" where it was interrupted, else a sentence."""

    work: Work
    why: str | None


@dataclass(frozen=True)
class Told:
    """An event of a cell that is being computed."""

    work: Work
    event: dict[str, Any]


News = Ended | Told


class Executor(Protocol):
    """What computes cells; the caller keeps at most ``slots`` started and not ended."""

    slots: int

    def start(self, work: Work, results: Path) -> None: ...

    def news(self, seconds: float) -> News | None:
        """The next news, or None where there is none for so many seconds."""

    def stop(self, *, now: bool) -> None:
        """Ask all cells to stop, with a checkpoint, or at once."""

    def close(self) -> None: ...


def request_of(work: Work, results: Path) -> dict[str, Any]:
    """What the worker is told."""
    return {
        "key": work.key,
        "task": work.task,
        "row": work.row,
        "seed": work.seed,
        "value": work.value,
        "trial": work.trial,
        "recipe": recipe_to_dict(work.recipe),
        "results": str(results),
    }


class LocalExecutor:
    """Child processes of this one; a second Ctrl-C kills them. They share the cores."""

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._news: queue.Queue[News] = queue.Queue()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._requests = tempfile.TemporaryDirectory(prefix="ftft-compare-")

    def start(self, work: Work, results: Path) -> None:
        path = Path(self._requests.name) / f"{work.key[:20]}.json"
        write_json(path, request_of(work, results), kind="cell_request", version=REQUEST_VERSION)
        environment = dict(os.environ)
        if self.slots > 1:
            # Two processes that both use every core slow each other down many times over.
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.slots)))
        process = subprocess.Popen(
            [sys.executable, "-m", "ftft.comparison.worker", str(path)],
            stdin=subprocess.PIPE,  # its end tells the child that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, and once
        )
        self._running[work.key] = process
        threading.Thread(target=self._follow, args=(work, process), daemon=True).start()

    def _follow(self, work: Work, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        said: list[str] = []
        reading = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)  # type: ignore[arg-type]
        reading.start()
        for line in process.stdout:
            try:
                self._news.put(Told(work, json.loads(line)))
            except ValueError:
                continue  # a library that prints
        code = process.wait()
        reading.join()
        self._news.put(Ended(work, sentence_of(code, said)))

    def news(self, seconds: float) -> News | None:
        try:
            found = self._news.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(found, Ended):
            self._running.pop(found.work.key, None)
        return found

    def stop(self, *, now: bool) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if now else signal.SIGTERM)

    def close(self) -> None:
        self.stop(now=True)
        self._requests.cleanup()


def sentence_of(code: int, said: list[str]) -> str | None:
    """What a worker's exit says: None where it kept its cell, "" where it was interrupted, else why it failed."""
    if code == 0:
        return None
    if code in (INTERRUPTED, -signal.SIGTERM):
        return ""
    lines = [line.strip() for line in said if line.strip()]
    last = lines[-1] if lines else ""
    if code == USER_ERROR and last:
        return last
    if code < 0:
        return f"its process was ended by the signal {signal.Signals(-code).name}" + (
            ", which is what happens when memory runs out" if -code == signal.SIGKILL else ""
        )
    return f"its process ended with code {code}" + (f": {last}" if last else "")


MakeExecutor = Callable[[], Executor]
