"""``ftft score``: every score of every example, from recorded dynamics or from saved checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    dynamics: Annotated[
        Path | None, typer.Argument(help="A run's folder, a dynamics Parquet, a cartography folder or a long table.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the scores go: .parquet, .csv or .jsonl.")] = Path("scores.parquet"),
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoints", help="Checkpoints of a Trainer, peft or TRL run.")
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(help="Further checkpoints (as a shell expands checkpoint-*).")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data the checkpoints were trained on.")] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="Its text column, or twice for a pair.")] = None,
    label: Annotated[str, typer.Option("--label", help="Its label column.")] = "label",
    id_column: Annotated[str | None, typer.Option("--id", help="Its id column.")] = None,
    dynamics_out: Annotated[
        Path | None, typer.Option("--dynamics-out", help="Where the dynamics themselves go (Parquet).")
    ] = None,
    ddof: Annotated[int, typer.Option("--ddof", help="0: population variability (cartography); 1: sample (FTFT).")] = 0,
    drop_first: Annotated[int, typer.Option("--drop-first", help="Leave the first epochs out.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="For the score `random`.")] = 0,
) -> None:
    """Every score of every example, from recorded dynamics or from checkpoints one already has."""
    from ftft.errors import UserError

    if checkpoints:
        # A shell turns `--checkpoints run/checkpoint-*` into one option value and further arguments.
        folders = [*checkpoints, *([dynamics] if dynamics else []), *(more or [])]
        if data is None:
            raise UserError("--checkpoints needs --data: the file the checkpoints were trained on")
        from ftft.cli.from_checkpoints import read_checkpoints

        table = read_checkpoints(folders, data, text or ["text"], label, id_column)
        if dynamics_out is not None:
            from ftft.dynamics.parquet import write_dynamics

            write_dynamics(table, dynamics_out)
    elif dynamics is not None and not more:
        from ftft.dynamics.parquet import open_dynamics

        table = open_dynamics(dynamics)
    else:
        raise UserError("name one source of dynamics, or --checkpoints with --data")
    from ftft.dynamics.scores import choose_epochs, compute_available_scores
    from ftft.dynamics.writing import write_scores

    scores = compute_available_scores(choose_epochs(table, drop_first=drop_first), ddof=ddof, seed=seed)
    write_scores(table.ids, scores, out)
    typer.echo(f"wrote {len(scores)} scores of {len(table):,} examples to {out}: {', '.join(scores)}")
