"""``ftft init``: look at a data file and write a commented recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.cli.outputs import check_output_file


def command(
    train: Annotated[Path, typer.Argument(help="The training data: JSONL, CSV, TSV or Parquet, gzip'd or not.")],
    ood: Annotated[list[Path] | None, typer.Option("--ood", help="Data from elsewhere, to measure robustness on.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model's folder, or its name on the hub.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the recipe goes.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
) -> None:
    """Look at a data file and write a commented recipe for it."""
    from ftft.errors import UserError

    check_output_file(out, "--out", endings=[".yaml", ".yml"], inputs=[train, *(ood or [])])
    if out.exists() and not force:
        raise UserError(f"{out} exists already; choose another name with --out, or overwrite it with --force")
    from ftft.data.sniffing import propose_recipe
    from ftft.files import write_text

    write_text(out, propose_recipe(train, ood or [], model, folder=out.parent))
    typer.echo(f"wrote {out}; look it over, then: ftft check {out}")
