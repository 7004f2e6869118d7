"""``ftft export``: dynamics in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.cli.outputs import check_output_file, check_output_folder


def command(
    dynamics: Annotated[Path, typer.Argument(help="A run's folder, a dynamics Parquet, a cartography folder or a long table.")],
    cartography: Annotated[
        Path | None, typer.Option("--cartography", help="Write allenai/cartography's files into this folder.")
    ] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write our own Parquet.")] = None,
) -> None:
    """Write dynamics in the formats of other tools."""
    from ftft.errors import UserError

    if cartography is None and parquet is None:
        raise UserError("say where to write: --cartography FOLDER or --parquet FILE")
    if cartography is not None:
        check_output_folder(cartography, "--cartography", inputs=[dynamics])
    if parquet is not None:
        check_output_file(parquet, "--parquet", endings=[".parquet"], inputs=[dynamics])
    from ftft.dynamics.parquet import open_dynamics, write_dynamics

    table = open_dynamics(dynamics)
    if cartography is not None:
        from ftft.dynamics.cartography import write_cartography

        write_cartography(table, cartography)
        typer.echo(f"wrote {len(table.epochs)} epochs of {len(table):,} examples to {cartography}")
    if parquet is not None:
        write_dynamics(table, parquet)
        typer.echo(f"wrote {parquet}")
