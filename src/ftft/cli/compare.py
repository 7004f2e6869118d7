"""``ftft compare``: run what a suite lacks, and show the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ftft.errors import UserError

FAILED = 1  # exit code where the table is complete but for cells that failed


def command(
    suite: Annotated[Path, typer.Argument(help="The suite, a YAML file.")],
    table: Annotated[bool, typer.Option("--table", help="Show the finished cells; nothing is run.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells computed at once.")] = 1,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Compute on a Ray cluster: its address, auto, or local for one on this machine.")
    ] = None,
    freeze: Annotated[
        Path | None, typer.Option(help="Write a confirm suite with the chosen rows to this file; nothing is run.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="With --freeze: its fresh seeds, such as 10,11,12.")] = None,
) -> None:
    """Compare recipes fairly: run the missing cells of a suite, then show its table. Run it again to resume.

    Exit code 1 says that cells failed; the table tells which and why.
    """
    from ftft.comparison.cells import CellFolder
    from ftft.comparison.reading import read_suite
    from ftft.comparison.running import results_folder, stand

    read = read_suite(suite)
    folder = results_folder(read)
    if (freeze is None) != (seeds is None):
        raise UserError("--freeze and --seeds belong together: the file to write, and the fresh seeds of the confirmation")
    if freeze is not None:
        from ftft.comparison.protocol import freeze as write_frozen

        write_frozen(read, stand(read, CellFolder(folder)), _seeds(seeds or ""), freeze)
        print(f"frozen: {freeze}")
        return
    if not table:
        _run(read, jobs, ray)
    shown = _show(read, folder)
    if not table and shown["cells"]["failed"]:
        raise typer.Exit(FAILED)


def _seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f'--seeds: "{text}" is no list of whole numbers, such as 10,11,12') from None
    return found


def _run(suite: Any, jobs: int, ray: str | None) -> None:
    from ftft.cli.comparing import ComparisonProgress
    from ftft.comparison.executing import Executor, LocalExecutor
    from ftft.comparison.protocol import begin
    from ftft.comparison.running import results_folder, run_suite
    from ftft.run.reading import check_files

    folder = results_folder(suite)
    with ComparisonProgress(suite, jobs) as progress:
        for recipe in _first_recipes(suite):
            check_files(recipe)
        begin(suite, folder)
        if ray is None:
            executor: Executor = LocalExecutor(jobs)
        else:
            from ftft.comparison.ray_executing import RayExecutor

            executor = RayExecutor(ray, jobs)
        run_suite(suite, executor, notify=progress)


def _first_recipes(suite: Any) -> list[Any]:
    """One recipe of every row and task, so that what is wrong in any is said before the first is trained."""
    from ftft.comparison.making import cell_recipe, searched_value

    recipes = []
    for task in suite.tasks:
        for row, settings in suite.rows.items():
            recipes.append(cell_recipe(suite, task, row, suite.seeds[0]))
            if suite.search is not None and settings.search:
                searched_value(suite, task, row)
    return recipes


def _show(suite: Any, folder: Path) -> dict[str, Any]:
    from rich.console import Console

    from ftft.comparison.cells import CellFolder
    from ftft.comparison.protocol import explorations, openings
    from ftft.comparison.running import stand
    from ftft.comparison.table import VERSION, make_table
    from ftft.files import write_json
    from ftft.report.comparison_terminal import print_comparison
    from ftft.report.comparison_writing import write_comparison

    console = Console()
    notes = Console(stderr=True)
    cells = CellFolder(folder, lambda text: notes.print(f"warning: {text}", highlight=False, markup=False))
    table = make_table(suite, stand(suite, cells), cells)
    if suite.kind == "confirm":
        table |= {"explorations": explorations(suite, folder), "opened": len(openings(folder))}
    write_json(folder / "table.json", table, kind="comparison", version=VERSION)
    write_comparison(folder, table)
    print_comparison(table, console)
    console.print(f"page: {folder / 'table.html'}", highlight=False, soft_wrap=True)
    return table
