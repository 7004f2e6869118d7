"""``ftft run``: run a recipe, or resume it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ftft.engine.processes import launched
from ftft.errors import Interrupted


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
) -> None:
    """Run a recipe: train its stages, evaluate, and write the result. Run it again to resume after an interruption."""
    from ftft.run.reading import check_files, load_recipe

    loaded = load_recipe(recipe, overrides or [])
    check_files(loaded)
    execute(loaded)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM, wherever they arrive, into an Interrupted that says how to go on.

    While a stage trains, the loop answers them itself, with a checkpoint (:mod:`ftft.engine.interrupting`).
    """

    def terminate(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, terminate) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to resume") from None
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


@resumable()
def execute(loaded: object) -> Path:
    """Run a checked recipe with progress, print the table, write the report; returns the run's folder."""
    if launched()[0] > 0:
        from ftft.run.runner import run_recipe

        return run_recipe(loaded)  # type: ignore[arg-type]  # the first process shows and reports for all
    from rich.console import Console

    from ftft.cli.progress import RunProgress
    from ftft.report.parts import load_parts
    from ftft.report.terminal import print_result
    from ftft.report.writing import write_report
    from ftft.run.runner import read_result, run_recipe

    with RunProgress() as progress:
        folder = run_recipe(loaded, notify=progress)  # type: ignore[arg-type]
    result = read_result(folder)
    parts = load_parts(folder, result)
    page = write_report(folder, parts=parts)
    console = Console()
    print_result(result, console, parts=parts)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    console.print(f"model:  {folder / 'model'}", highlight=False, soft_wrap=True)
    return folder
