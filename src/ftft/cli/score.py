"""``ftft score``: every score of every example, from recorded dynamics or from saved checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftft.cli.outputs import check_output_file

if TYPE_CHECKING:
    from ftft.data.settings import Columns
    from ftft.dynamics.table import Dynamics


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
    from ftft.data.settings import Columns
    from ftft.dynamics.dynamics_file import open_file
    from ftft.dynamics.parquet import find_dynamics_file, open_dynamics, write_dynamics
    from ftft.dynamics.score_file import ENDINGS, score_file, write_scores
    from ftft.dynamics.scores import choose_epochs, compute_scores
    from ftft.errors import UserError

    # A shell turns `--checkpoints run/checkpoint-*` into one option value and further arguments.
    sources = [*(checkpoints or []), *(path for path in (dynamics, *(more or [])) if path is not None)]
    if not checkpoints and (len(sources) != 1 or data is not None):
        raise UserError("name one source of dynamics, or --checkpoints with --data")
    if checkpoints and data is None:
        raise UserError("--checkpoints needs --data: the file the checkpoints were trained on")
    if checkpoints and not 0 <= drop_first < len(sources):
        raise UserError(f"--drop-first is {drop_first}, and there are {len(sources)} checkpoints; leave at least one to score")
    if ddof not in (0, 1):
        raise UserError(f"--ddof is {ddof}; give 0 (population, as cartography) or 1 (sample, as FTFT)")
    check_output_file(out, "--out", endings=ENDINGS, inputs=[*sources, data])
    if dynamics_out is not None:
        check_output_file(dynamics_out, "--dynamics-out", endings=[".parquet"], inputs=[*sources, data])
        if dynamics_out.absolute() == out.absolute():
            raise UserError(f"--dynamics-out and --out are both {out}; give two different files")
    if checkpoints and data is not None:
        table = _from_checkpoints(sources, data, Columns(text=text or ["text"], label=label, id=id_column))
    else:
        file = find_dynamics_file(sources[0])
        if file is not None and dynamics_out is None and out.suffix.lower() == ".parquet":
            # Batch by batch, so that the dynamics need not fit into memory.
            names = score_file(file, out, ddof=ddof, seed=seed, drop_first=drop_first)
            typer.echo(f"wrote {len(names)} scores of {len(open_file(file)):,} examples to {out}: {', '.join(names)}")
            return
        table = open_dynamics(sources[0])
    epochs = choose_epochs(table, drop_first=drop_first)
    if dynamics_out is not None:
        write_dynamics(table, dynamics_out)
        typer.echo(f"wrote {dynamics_out}")
    if out.suffix.lower() == ".parquet":
        names = score_file(table, out, ddof=ddof, seed=seed, epochs=epochs)
    else:
        scores = compute_scores(table, epochs=epochs, ddof=ddof, seed=seed)
        write_scores(table.ids, scores, out, settings={"ddof": ddof, "epochs": epochs, "seed": seed})
        names = tuple(scores)
    typer.echo(f"wrote {len(names)} scores of {len(table):,} examples to {out}: {', '.join(names)}")


def _from_checkpoints(folders: list[Path], data: Path, columns: Columns) -> Dynamics:
    from ftft.bridges.checkpoints import dynamics_from_checkpoints
    from ftft.data.loading import load_examples
    from ftft.data.settings import DataFile

    table = dynamics_from_checkpoints(folders, load_examples(DataFile(path=str(data)), columns), progress=_progress)
    cost = table.metadata["cost"]
    typer.echo(f"{len(table.epochs)} checkpoints: {cost['seconds']:.1f} s, {cost['flops']:.3g} floating-point operations")
    return table


def _progress(done: int, total: int) -> None:
    """One line on a terminal, nothing elsewhere."""
    import sys

    if sys.stderr.isatty():
        print(f"\rforward passes: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
