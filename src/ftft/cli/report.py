"""``ftft report``: write a finished run's page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    text: Annotated[bool, typer.Option("--text", help="Show the training rows' texts, which a run's page leaves out.")] = False,
) -> None:
    """Write the page of a finished run anew, with the texts of its training rows if asked."""
    from ftft.report.writing import write_report

    typer.echo(f"wrote {write_report(run, texts=text)}")
