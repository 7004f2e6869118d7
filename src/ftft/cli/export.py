"""``ftft export``: dynamics in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftft.cli.outputs import check_output_file, check_output_folder

if TYPE_CHECKING:
    from ftft.dynamics.table import Dynamics


def command(
    dynamics: Annotated[Path, typer.Argument(help="A run's folder, a dynamics Parquet, a cartography folder or a long table.")],
    cartography: Annotated[
        Path | None,
        typer.Option("--cartography", help="Write allenai/cartography's files, dynamics and metrics, into this folder."),
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
        _write_cartography(table, cartography)
    if parquet is not None:
        write_dynamics(table, parquet)
        typer.echo(f"wrote {parquet}")


def _write_cartography(table: Dynamics, folder: Path) -> None:
    """``training_dynamics/`` and, beside it, the metrics computed from it, as allenai/cartography lays them out."""
    from ftft.dynamics.cartography import METRICS_FILE, write_cartography, write_metrics
    from ftft.errors import UserError

    metrics = folder / METRICS_FILE
    if len(table.epochs) < 2 and metrics.exists():
        raise UserError(f"{metrics} is of other dynamics, and variability needs 2 epochs to write it anew; name another folder")
    write_cartography(table, folder)
    typer.echo(f"wrote {len(table.epochs)} epoch{'s' * (len(table.epochs) > 1)} of {len(table):,} examples to {folder}")
    if len(table.epochs) < 2:
        typer.echo(f"left out: {METRICS_FILE}, as variability needs at least 2 epochs, and there is 1", err=True)
        return
    count = write_metrics(table, metrics)
    few = f", without {len(table) - count:,} that were seen in fewer than 2 epochs" if count < len(table) else ""
    typer.echo(f"wrote the metrics of {count:,} examples to {metrics}{few}")
