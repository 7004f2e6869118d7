"""``ftft bundle``: recorded training dynamics as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.cli.outputs import check_output_folder


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[
        Path, typer.Option("--out", help="The folder to write; it must not exist, or be such a bundle of this run.")
    ],
    stage: Annotated[
        str | None, typer.Option("--stage", help="Whose dynamics; by default those of the one stage that recorded any.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="The licence for the card, such as cc-by-4.0.")] = None,
) -> None:
    """Make a folder of a run's training dynamics that can be given to others: no row text, no path of this machine."""
    check_output_folder(out, "--out", inputs=[run])
    from ftft.report.bundling import write_bundle

    document = write_bundle(run, out, stage=stage, licence=licence)
    epochs = len(document["epochs"])
    typer.echo(f"bundled {epochs} epochs of {document['examples']:,} examples (stage {document['stage']}) in {out}")
