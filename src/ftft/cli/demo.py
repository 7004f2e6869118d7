"""``ftft demo``: the whole job on data the package generates itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def command(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder that gets the data, the run and the report.")] = Path("runs"),
) -> None:
    """Plain fine-tuning against FTFT on generated sentence pairs with a planted shortcut; ends with a table and a report."""
    from importlib.resources import as_file, files

    from ftft.cli.run import execute
    from ftft.data.generated import write_demo
    from ftft.run.reading import check_files, load_recipe

    data = out / "demo-data"
    write_demo(data)
    os.environ["FTFT_DEMO_DATA"] = str(data.resolve())
    with as_file(files("ftft.recipes") / "demo.yaml") as path:
        recipe = load_recipe(path, [*(overrides or []), f"output={out}"])
    check_files(recipe)
    execute(recipe)
