"""Compute one cell in a process of its own: ``python -m ftft.comparison.worker REQUEST``.

A process of its own, because peak memory is a process's, and because a cell that dies takes no other with it. The request
is a JSON file; what happens is told on standard output, one JSON event a line; what the user can mend is one sentence on
standard error and exit code 2, an interruption is exit code 130, as in `ftft run`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftft.comparison.cells import CellFolder
from ftft.comparison.finishing import finished_cell
from ftft.errors import Interrupted, UserError
from ftft.files import read_json
from ftft.run.reading import recipe_from_dict
from ftft.run.runner import FinishedRun, run_recipe

REQUEST_VERSION = 1
OF_CELL = ("key", "task", "row", "seed", "value", "trial")
TOLD = ("stage", "reused", "selected", "resumed", "step", "evaluation", "evaluated", "warning", "waiting")


def compute(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Run the request's recipe and keep its cell. Raises as :func:`ftft.run.runner.run_recipe` does."""
    recipe = recipe_from_dict(request["recipe"])
    folder = CellFolder(Path(request["results"]))

    def keep(run: FinishedRun) -> None:
        folder.write(*finished_cell(run, {key: request[key] for key in OF_CELL}, recipe))

    run_recipe(recipe, notify=lambda event: tell(event) if event["event"] in TOLD else None, keep=keep)


def _print(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _stop_with_parent() -> None:
    """Stop, saving a checkpoint, when the process that holds the other end of standard input is gone."""
    # Not through sys.stdin: a thread that waits in it would keep its lock when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Compute the cell of the request named on the command line and exit."""
    signal.signal(signal.SIGTERM, _interrupted)  # while a stage trains, the loop answers it with a checkpoint
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        compute(read_json(Path(sys.argv[1]), kind="cell_request", version=REQUEST_VERSION), _print)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)


if __name__ == "__main__":
    main()
