"""``ftft select``: choose examples by a score of their training dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftft.cli.outputs import check_output_file
from ftft.errors import UserError

if TYPE_CHECKING:
    from ftft.dynamics.table import Dynamics


def command(
    dynamics: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, a bundle, a dynamics Parquet, a cartography folder or metrics file, or a long table."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the selection goes: .parquet, .csv or .jsonl.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="For a bundle: the data it is of, checked before anything is chosen; one for each file."),
    ] = None,
    score: Annotated[str, typer.Option("--score", help="The score to rank by; `ftft list scores`.")] = "variability",
    fraction: Annotated[float | None, typer.Option("--fraction", help="Share of the examples to select.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Number of examples to select, instead of a share.")] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="Select the lowest scores instead of the highest.")] = False,
    balance: Annotated[
        str, typer.Option("--balance", help="none, class (equal per class) or prior (keep the class shares).")
    ] = "none",
    drop_suspects: Annotated[
        float, typer.Option("--drop-suspects", help="Share of likely mislabelled examples dropped first.")
    ] = 0.0,
    compat: Annotated[str | None, typer.Option("--compat", help="ftft or cartography: the released rule, row for row.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="For the score `random`.")] = 0,
) -> None:
    """Choose examples by a score of their training dynamics, and write their ids."""
    from ftft.dynamics.cartography import is_metrics_file, read_metrics
    from ftft.dynamics.parquet import open_dynamics
    from ftft.methods.select.top import Top
    from ftft.methods.selection import SUFFIXES, ExamplesOfDynamics, select_by_metrics, write_selection

    check_output_file(out, "--out", endings=SUFFIXES, inputs=[dynamics, *(data or [])])
    # The settings are judged before the dynamics are read, which may take a while.
    method = Top(
        score=score,
        fraction=fraction,
        count=count,
        largest=not lowest,
        balance=balance,  # type: ignore[arg-type]
        drop_suspects=drop_suspects,
        compat=compat,  # type: ignore[arg-type]
    )
    if data:
        table = _of_data(dynamics, data)
        chosen = method.select(ExamplesOfDynamics.of(table), table, seed=seed)
    elif is_metrics_file(dynamics):
        chosen = select_by_metrics(read_metrics(dynamics), method, seed=seed)
    else:
        table = open_dynamics(dynamics)
        chosen = method.select(ExamplesOfDynamics.of(table), table, seed=seed)
    write_selection(chosen, out)
    typer.echo(f"selected {len(chosen):,} of {chosen.counts['pool']:,} examples by {score}; wrote {out}")


def _of_data(folder: Path, data: list[Path]) -> Dynamics:
    """The dynamics of a bundle, when the data is what they are of."""
    from ftft.run.bundles import check_data, is_bundle, read_bundle

    if not is_bundle(folder):
        raise UserError(f"--data is for a bundle, which says what data it is of, and {folder} is none; leave --data out")
    bundle = read_bundle(folder)
    left = check_data(bundle, data)
    more = f"; {left:,} rows more were held out or left out when it was recorded" if left else ""
    typer.echo(f"the data is that of the bundle: {len(bundle.dynamics):,} rows{more}")
    return bundle.dynamics
