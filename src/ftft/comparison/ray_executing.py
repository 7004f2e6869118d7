"""Cells on a Ray cluster: each is the same child process as on this machine, started by a Ray task wherever there is room.

The nodes need this package and the data under the same paths (environment variables in paths are passed on). A cell comes
back as its document and is written here, so the nodes need not share a file system; where they do, they share the store.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftft.comparison.cells import CellFolder
from ftft.comparison.executing import REQUEST_VERSION, Ended, News, request_of, sentence_of
from ftft.comparison.planning import Work
from ftft.errors import UserError
from ftft.files import read_json, write_json

LOCAL = "local"
PASSED_ON = ("FTFT_", "HF_", "TOKENIZERS_")  # environment variables that recipes and libraries read

Answer = tuple[dict[str, Any] | None, dict[str, Any], str | None]  # the cell, its sets' content, why it failed


def compute_there(request: dict[str, Any], environment: dict[str, str], place: str, threads: int) -> Answer:
    """Compute a cell in a child process of a Ray worker. Cancelled, it lets the child save a checkpoint."""
    with tempfile.TemporaryDirectory(prefix="ftft-cell-") as scratch:
        results = Path(scratch) / "results"
        path = Path(scratch) / "request.json"
        write_json(path, {**request, "results": str(results)}, kind="cell_request", version=REQUEST_VERSION)
        process = subprocess.Popen(
            [sys.executable, "-m", "ftft.comparison.worker", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "OMP_NUM_THREADS": str(threads)},
            cwd=place if Path(place).is_dir() else None,
        )
        try:
            assert process.stderr is not None
            said = process.stderr.readlines()
            why = sentence_of(process.wait(), said)
        except KeyboardInterrupt:  # how Ray cancels a task
            process.send_signal(signal.SIGTERM)
            process.wait()
            return None, {}, ""
        if why is not None:
            return None, {}, why
        folder = CellFolder(results)
        document = read_json(folder.path(request["key"]), kind="cell")
        names = {one["set"] for one in document["sets"].values()}
        return document, {name: read_json(folder.set_path(name), kind="evaluation_set") for name in names}, None


class RayExecutor:
    """Ray tasks, each with as many processors as the cluster has for every one of ``jobs`` at once."""

    def __init__(self, address: str, jobs: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
        try:
            import ray
        except ImportError:
            raise UserError('--ray needs the package ray; install it with pip install "ftft[ray]"') from None
        self._ray = ray
        try:
            where = {} if address == LOCAL else {"address": address}
            ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--ray: no cluster answers at {address}: {' '.join(str(error).split())[:200]}") from None
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.slots = min(jobs, processors)
        self._threads = max(1, processors // self.slots)
        self._compute = ray.remote(num_cpus=self._threads, max_retries=0)(compute_there)
        self._running: dict[Any, tuple[Work, CellFolder]] = {}

    def start(self, work: Work, results: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        request = request_of(work, results)
        reference = self._compute.remote(request, environment, str(Path.cwd()), self._threads)
        self._running[reference] = (work, CellFolder(results))

    def news(self, seconds: float) -> News | None:
        done, _ = self._ray.wait(list(self._running), timeout=seconds) if self._running else ([], [])
        if not done:
            return None
        work, folder = self._running.pop(done[0])
        try:
            document, sets, why = self._ray.get(done[0])
        except self._ray.exceptions.TaskCancelledError:
            return Ended(work, "")
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            return Ended(work, f"its Ray task failed: {lines[-1].strip() if lines else type(error).__name__}")
        if document is not None:
            folder.write(document, sets)
        return Ended(work, why)

    def stop(self, *, now: bool) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=now)

    def close(self) -> None:
        self.stop(now=True)
        self._ray.shutdown()
