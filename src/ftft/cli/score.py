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
        from ftft.bridges.checkpoints import dynamics_from_checkpoints
        from ftft.data.loading import load_examples
        from ftft.data.settings import Columns, DataFile

        columns = Columns(text=text or ["text"], label=label, id=id_column)
        examples = load_examples(DataFile(path=str(data)), columns)
        table = dynamics_from_checkpoints(folders, examples, progress=_progress)
        cost = table.metadata["cost"]
        typer.echo(f"{len(table.epochs)} checkpoints: {cost['seconds']:.1f} s, {cost['flops']:.3g} floating-point operations")
        if dynamics_out is not None:
            from ftft.dynamics.parquet import write_dynamics

            write_dynamics(table, dynamics_out)
    elif dynamics is not None and not more:
        from ftft.dynamics.parquet import open_dynamics

        table = open_dynamics(dynamics)
    else:
        raise UserError("name one source of dynamics, or --checkpoints with --data")
    from ftft.dynamics.score_file import write_scores
    from ftft.dynamics.scores import choose_epochs, compute_scores

    epochs = choose_epochs(table, drop_first=drop_first)
    scores = compute_scores(table, epochs=epochs, ddof=ddof, seed=seed)
    write_scores(table.ids, scores, out, settings={"ddof": ddof, "epochs": epochs, "seed": seed})
    typer.echo(f"wrote {len(scores)} scores of {len(table):,} examples to {out}: {', '.join(scores)}")


def _progress(done: int, total: int) -> None:
    """One line on a terminal, nothing elsewhere."""
    import sys

    if sys.stderr.isatty():
        print(f"\rforward passes: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
