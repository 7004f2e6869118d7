"""``ftft check``: is the recipe sound, do its data and models fit it, and what will it cost? Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ftft.run.checking import Checked
    from ftft.run.recipe import Recipe


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    no_data: Annotated[bool, typer.Option("--no-data", help="Check the recipe only; do not read data and models.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Predict what it will cost, from the shapes of models and data.")
    ] = False,
) -> None:
    """Check a recipe, then its data and models; nothing is trained."""
    from ftft.errors import UserError
    from ftft.run.reading import check_files, load_recipe

    if no_data and cost:
        raise UserError("--cost reads the data, and --no-data does not; leave one of them out")
    loaded = load_recipe(recipe, overrides or [])
    typer.echo(f"recipe {loaded.name}: {len(loaded.stages)} stages ({', '.join(loaded.stages)})")
    if no_data:
        return
    check_files(loaded)
    checked: list[Checked] = []
    for line in _checked(loaded, checked):
        typer.echo(line)
    if cost:
        _print_cost(loaded, checked[0])


def _checked(recipe: Recipe, found: list[Checked]) -> Iterator[str]:
    from ftft.run.checking import check_models_and_data

    found.append((yield from check_models_and_data(recipe, progress=_tell)))


def _print_cost(recipe: Recipe, checked: Checked) -> None:
    from ftft.cli.consoles import output_console
    from ftft.methods.registry import build_task
    from ftft.report.predicted_costs import print_predicted_costs
    from ftft.run.predicted_costs import predict_costs

    found = predict_costs(recipe, build_task(recipe.task), checked.data, checked.plans, progress=_tell)
    print_predicted_costs(found, output_console())


def _tell(text: str) -> None:
    typer.echo(text, err=True)
