"""``ftft report``: the pages, cards and tables of finished runs and comparisons, made again from what they stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.errors import UserError

RUN, COMPARISON = "result.json", "table.json"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs or of comparisons.")],
    text: Annotated[bool, typer.Option("--text", help="Show the training rows' texts, which a run's page leaves out.")] = False,
) -> None:
    """Write the page and card of each run anew, and show its table, from its stored JSON and Parquet alone.

    A comparison's folder gets its page and Markdown. Models and the store are not looked at, and data files
    only for the texts.
    """
    kinds = [_kind(folder) for folder in runs]  # all are judged before the first is written
    from rich.console import Console

    console = Console()
    for folder, kind in zip(runs, kinds):
        if folder != runs[0]:
            console.print()
        if len(runs) > 1:
            console.print(f"{folder}", style="bold underline", highlight=False, markup=False, soft_wrap=True)
        page = _run(folder, console, texts=text) if kind == RUN else _comparison(folder, console)
        console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


def _kind(folder: Path) -> str:
    """Which of the two files a folder holds; UserError for anything else, with the runs that lie below it."""
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give the folder of a run, such as runs/recipe")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give the run's folder, which holds {RUN}")
    for name in (RUN, COMPARISON):
        if (folder / name).exists():
            return name
    if (folder / "cells").is_dir():
        raise UserError(f"{folder} holds cells and no {COMPARISON}; `ftft compare SUITE --table` makes it of them")
    if (folder / "recipe.yaml").exists():
        raise UserError(f"the run in {folder} is not finished, as it has no {RUN}; run its recipe again to resume it")
    below = sorted(str(path.parent) for name in (RUN, COMPARISON) for path in folder.glob(f"*/{name}"))
    hint = f"; did you mean {' '.join(below[:5])}{' ...' if len(below) > 5 else ''}?" if below else ""
    raise UserError(f"{folder} holds neither a run's {RUN} nor a comparison's {COMPARISON}{hint}")


def _run(folder: Path, console: object, *, texts: bool) -> Path:
    from ftft.files import FolderLock
    from ftft.report.parts import load_parts
    from ftft.report.terminal import print_result
    from ftft.report.writing import write_report
    from ftft.run.runner import read_result

    with FolderLock(folder):  # a run that works here is about to write the same files
        result = read_result(folder)
        parts = load_parts(folder, result)
        page = write_report(folder, texts=texts, parts=parts)
    print_result(result, console, parts=parts)  # type: ignore[arg-type]
    return page


def _comparison(folder: Path, console: object) -> Path:
    from ftft.comparison.table import VERSION
    from ftft.files import read_json
    from ftft.report.comparison_terminal import print_comparison
    from ftft.report.comparison_writing import write_comparison

    table = read_json(folder / COMPARISON, kind="comparison", version=VERSION)
    page = write_comparison(folder, table)
    print_comparison(table, console)  # type: ignore[arg-type]
    return page
