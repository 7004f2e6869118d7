"""A server of processes of the command line, for the tests that kill, crowd and starve them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 240.0  # seconds for anything a process is waited for; on an idle core all of it takes a few


@dataclass(frozen=True)
class CommandProcess:
    """A started process of `ftft`: its number, the file of what it prints and the file its exit code will be in."""

    pid: int
    output: Path
    code: Path

    def over(self) -> bool:
        return self.code.exists()

    def wait(self) -> tuple[int, str]:
        """(exit code, minus the signal's number where one ended it; what it printed) after its end."""
        until = time.monotonic() + DEADLINE
        while not self.over():
            assert time.monotonic() < until, f"no end in {DEADLINE} s: {self.output.read_text()}"
            time.sleep(0.002)
        return int(self.code.read_text()), self.output.read_text()


class CommandServer:
    """Starts processes of `ftft` from one that has imported everything (command_server.py)."""

    deadline = DEADLINE
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "300"}

    def __init__(self, logs: Path) -> None:
        self.logs, self.started = logs, 0
        command = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=self.environment)

    def start(
        self, folder: Path, *arguments: str, largest_file: int | None = None, trouble: dict[str, Any] | None = None
    ) -> CommandProcess:
        """Start `ftft` with those arguments in ``folder``; no file may grow beyond ``largest_file`` bytes; ``trouble``: what
        trouble.py's class is given besides the root, which is the folder's ``runs``, and its log, beside the output."""
        self.started += 1
        output = self.logs / f"{self.started}.txt"
        output.touch()
        code = output.with_suffix(".code")
        request = {"folder": str(folder), "arguments": arguments, "largest_file": largest_file}
        if trouble is not None:
            request["trouble"] = {"root": str(folder / "runs"), "log": str(output.with_suffix(".moments")), **trouble}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({**request, "output": str(output), "code": str(code)}) + "\n")
        self.process.stdin.flush()
        return CommandProcess(int(self.process.stdout.readline()), output, code)

    def close(self) -> None:
        """Kill what still runs."""
        self.process.communicate()


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()
