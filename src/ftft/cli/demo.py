"""``ftft demo``: the whole job on data the package generates itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ftft.errors import UserError, did_you_mean


def _write_texts(folder: Path) -> None:
    from ftft.data.generated import write_demo

    write_demo(folder)


def _write_digits_and_vit(folder: Path) -> None:
    """No pretrained model is small enough to come along: it gets random weights."""
    from ftft.data.digits import write_digits
    from ftft.models.small import write_vit

    write_digits(folder)
    write_vit(folder / "vit")


def _write_digits_and_clip(folder: Path) -> None:
    """As above, with the words of the captions."""
    from ftft.data.digits import caption, write_digits
    from ftft.models.small import write_clip

    write_digits(folder)
    write_clip(folder / "clip", sorted({word for label in range(10) for word in caption(label).split()}))


@dataclass(frozen=True)
class Demo:
    """``recipe``: in ftft.recipes. ``folder``: where ``write`` puts the data, and a model where none comes along."""

    recipe: str
    folder: str
    write: Callable[[Path], None]


DEMOS = {
    "text_classification": Demo("demo.yaml", "demo-data", _write_texts),
    "image_classification": Demo("demo_images.yaml", "demo-data-image_classification", _write_digits_and_vit),
    "image_text": Demo("demo_image_text.yaml", "demo-data-image_text", _write_digits_and_clip),
}


def command(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder that gets the data, the run and the report.")] = Path("runs"),
    task: Annotated[str, typer.Option("--task", help=f"What is demonstrated: {', '.join(DEMOS)}.")] = "text_classification",
) -> None:
    """Plain fine-tuning against FTFT on generated data with a planted shortcut; ends with a table and a report."""
    from importlib.resources import as_file, files

    from ftft.cli.run import execute
    from ftft.run.reading import check_files, load_recipe

    if task not in DEMOS:
        raise UserError(f'--task: there is no demo of "{task}"{did_you_mean(task, DEMOS)}')
    demo = DEMOS[task]
    data = out / demo.folder
    demo.write(data)
    os.environ["FTFT_DEMO_DATA"] = str(data.resolve())
    with as_file(files("ftft.recipes") / demo.recipe) as path:
        recipe = load_recipe(path, [*(overrides or []), f"output={out}"])
    check_files(recipe)
    execute(recipe)
