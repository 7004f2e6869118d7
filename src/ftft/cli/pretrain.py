"""``ftft pretrain``: a tiny model from plain text, in minutes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ftft.cli.progress import RunProgress, escape
from ftft.pretraining.kinds import KINDS, MINUTES, VOCABULARY

NAMES = ", ".join(KINDS)


def command(
    texts: Annotated[list[Path], typer.Argument(help="Plain text (.txt) or JSONL, gzip'd or not, in UTF-8.")],
    kind: Annotated[str, typer.Option("--kind", help=f"What to pretrain: {NAMES}.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that gets the model.")],
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help=f"Plan the steps that take at most so long on two idle cores (default {MINUTES:g})."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps, instead of minutes.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Determines the weights, the order and the masks.")] = 0,
    vocab: Annotated[int, typer.Option("--vocab", help="The most tokens the tokenizer gets.")] = VOCABULARY,
    column: Annotated[str, typer.Option("--column", help="The column of a JSONL file that holds the text.")] = "text",
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="Text to measure on; otherwise the last 2 % of the blocks are held out.")
    ] = None,
) -> None:
    """Pretrain a tiny decoder or encoder from plain text. Run it again to resume after an interruption."""
    from ftft.cli.outputs import check_output_folder
    from ftft.cli.run import resumable
    from ftft.errors import UserError
    from ftft.pretraining.kinds import kind_named

    shape = kind_named(kind)
    if minutes is not None and steps is not None:
        raise UserError("--minutes and --steps both say how long to train; give one of them")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise UserError(f"--minutes is {minutes:g}; it must be a number above 0")
    out = Path(out.absolute())
    check_output_folder(out, "--out", inputs=texts)
    from ftft.pretraining.running import Settings, pretrain

    settings = Settings(
        texts=tuple(texts),
        kind=kind,
        out=out,
        steps=steps if minutes is None else shape.steps_for(minutes),
        seed=seed,
        vocabulary=vocab,
        column=column,
        held_out=held_out,
    )
    with resumable(), PretrainingProgress() as progress:
        report = pretrain(settings, notify=progress)
    if report.get("was_finished"):
        typer.echo(f"{out} is finished already, with these settings; nothing was done")
    typer.echo(f"held-out bits per byte: {_change(report, 'bits_per_byte')}")
    if "discriminator_loss" in report["held_out"]["end"]:
        typer.echo(f"held-out discriminator loss: {_change(report, 'discriminator_loss')}")
    typer.echo(f"model: {out}")


def _change(report: dict[str, Any], name: str) -> str:
    start, end = (report["held_out"][when][name] for when in ("start", "end"))
    return f"{start:.3f} untrained, {end:.3f} trained"


class PretrainingProgress(RunProgress):
    """Shows the events of pretraining."""

    def _on_pretraining(self, event: dict[str, Any]) -> None:
        self._stage = event["kind"]
        self._say(
            f"[bold]{escape(event['kind'])}[/bold]: {event['parameters']:,} parameters, {event['tokens']:,} tokens in "
            f"{event['blocks']:,} blocks, {event['held_out']:,} blocks held out, {event['precision']}"
        )

    def _on_measured(self, event: dict[str, Any]) -> None:
        found = event["figures"]
        shown = [f"{found['bits_per_byte']:.3f} bits per byte"]
        if "discriminator_loss" in found:
            shown.append(f"discriminator loss {found['discriminator_loss']:.3f}")
        self._say(f"  held out {event['when']}: {', '.join(shown)}")
