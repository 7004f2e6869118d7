"""``ftft eval``: any saved model on a recipe's evaluation sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.cli.outputs import check_output_folder


def command(
    model: Annotated[Path, typer.Argument(help="A model's folder: config, safetensors weights and tokenizer.")],
    recipe: Annotated[Path, typer.Argument(help="The recipe whose evaluation sets are used.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change, as key=value.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures and the predictions into this folder.")] = None,
) -> None:
    """Evaluate any saved model on a recipe's evaluation sets."""
    from ftft.run.reading import check_files, load_recipe

    if out is not None:
        check_output_folder(out, "--out", inputs=[model])
    loaded = load_recipe(recipe, overrides or [])
    check_files(loaded, stages=False)  # nothing is trained: what the stages begin with may be gone
    from ftft.cli.consoles import output_console
    from ftft.cli.progress import RunProgress
    from ftft.report.evaluation_table import print_evaluation
    from ftft.run.evaluating_saved import evaluate_saved

    with RunProgress() as progress:
        figures = evaluate_saved(model, loaded, out=out, notify=progress)
    print_evaluation(figures, output_console())
    if out is not None:
        typer.echo(f"wrote {out / 'evaluation.json'}")
