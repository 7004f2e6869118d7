"""``ftft check``: is the recipe sound, and do its data and models fit it? Nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    no_data: Annotated[bool, typer.Option("--no-data", help="Check the recipe only; do not read data and models.")] = False,
) -> None:
    """Check a recipe, then its data and models; nothing is trained."""
    from ftft.run.reading import check_files, load_recipe

    loaded = load_recipe(recipe, overrides or [])
    typer.echo(f"recipe {loaded.name}: {len(loaded.stages)} stages ({', '.join(loaded.stages)})")
    if no_data:
        return
    check_files(loaded)
    from ftft.run.checking import check_models_and_data

    for line in check_models_and_data(loaded, progress=lambda text: typer.echo(text, err=True)):
        typer.echo(line)
