"""``ftft demo``: the whole job on data the package generates itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ftft.errors import UserError, did_you_mean

RECIPES = {"text_classification": "demo.yaml", "image_classification": "demo_images.yaml", "image_text": "demo_image_text.yaml"}


def command(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder that gets the data, the run and the report.")] = Path("runs"),
    task: Annotated[str, typer.Option("--task", help=f"What is demonstrated: {', '.join(RECIPES)}.")] = "text_classification",
) -> None:
    """Plain fine-tuning against FTFT on generated data with a planted shortcut; ends with a table and a report."""
    from importlib.resources import as_file, files

    from ftft.cli.run import execute
    from ftft.run.reading import check_files, load_recipe

    if task not in RECIPES:
        raise UserError(f'--task: there is no demo of "{task}"{did_you_mean(task, RECIPES)}')
    data = out / ("demo-data" if task == "text_classification" else f"demo-data-{task}")
    _write(task, data)
    os.environ["FTFT_DEMO_DATA"] = str(data.resolve())
    with as_file(files("ftft.recipes") / RECIPES[task]) as path:
        recipe = load_recipe(path, [*(overrides or []), f"output={out}"])
    check_files(recipe)
    execute(recipe)


def _write(task: str, folder: Path) -> None:
    """The demo's data and, where no pretrained model is small enough to come along, a model with random weights."""
    if task == "text_classification":
        from ftft.data.generated import write_demo

        write_demo(folder)
        return
    from ftft.data.digits import caption, write_digits
    from ftft.models.small import write_clip, write_vit

    write_digits(folder)
    if task == "image_text":
        write_clip(folder / "clip", sorted({word for label in range(10) for word in caption(label).split()}))
    else:
        write_vit(folder / "vit")
