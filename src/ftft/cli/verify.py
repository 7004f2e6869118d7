"""``ftft verify``: replay a run's first steps and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftft.engine.processes import launched
from ftft.errors import Interrupted, UserError

MISMATCH = 1


def command(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    steps: Annotated[int, typer.Option("--steps", help="How many steps of each stage are replayed.")] = 5,
) -> None:
    """Replay the first steps of every stage of a run and compare them with what it kept, bit for bit, and the saved model's
    weights with their SHA-256; nothing is written.

    Exit code 0: all match; 1: something differs; 2: it cannot be verified.
    """
    if steps < 1:
        raise UserError(f"--steps is {steps}; replay at least 1 step")
    if not (run / "result.json").exists():
        problem = "does not exist" if not run.exists() else "holds no result.json: it is no run, or one that is not finished"
        raise UserError(f"{run} {problem}; name the folder of a finished run (runs/<name>)")
    from ftft.cli.progress import RunProgress
    from ftft.run.verifying import damage_to_model, verify_run

    is_first, differ, count = launched()[0] == 0, False, 0
    damage = damage_to_model(run)
    if damage is not None and is_first:
        typer.echo(damage)
    try:
        with RunProgress() as progress:
            for found in verify_run(run, steps=steps, notify=progress if is_first else lambda event: None):
                differ, count = differ or found.mismatch is not None, count + (found.left_out is None)
                if not is_first:
                    continue
                if found.left_out is not None:
                    typer.echo(f"{found.stage}: not replayed, for {found.left_out}")
                    continue
                what = "losses and weights" if found.weights else "losses"
                compared = f"{found.steps} of {found.of} steps"
                said = f"match in {what}" if found.mismatch is None else f"DIFFER: {found.mismatch}"
                typer.echo(f"{found.stage}: {compared} {said}")
                for note in found.notes:
                    typer.echo(f"  different here: {note}")
    except Interrupted:
        raise Interrupted("interrupted; nothing was changed") from None
    if is_first and (differ or damage is None):
        typer.echo("the run does not replay" if differ else f"verified, bit for bit: {count} stage{'s' * (count != 1)}")
    if differ or damage is not None:
        raise typer.Exit(MISMATCH)
