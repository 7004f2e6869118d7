"""``ftft score``: every score of every example, from recorded dynamics or from saved checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftft.cli.outputs import check_output_file
from ftft.dynamics.score_names import MINIMUM_EPOCHS, SCORES
from ftft.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ftft.data.settings import Columns
    from ftft.dynamics.table import Dynamics


def command(
    dynamics: Annotated[
        Path | None,
        typer.Argument(help="A run's folder, a dynamics Parquet, a cartography folder or metrics file, or a long table."),
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
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            min=1,
            help="Tokens after which texts are cut: give what training used (default: as many as the model takes).",
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option("--score", help="Write this score only, or several times for several; `ftft list scores`."),
    ] = None,
    ddof: Annotated[int, typer.Option("--ddof", help="0: population variability (cartography); 1: sample (FTFT).")] = 0,
    drop_first: Annotated[int, typer.Option("--drop-first", help="Leave the first epochs out.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="For the score `random`.")] = 0,
) -> None:
    """Every score of every example, from recorded dynamics or from checkpoints one already has."""
    from ftft.data.settings import Columns
    from ftft.dynamics.cartography import is_metrics_file
    from ftft.dynamics.dynamics_file import open_file
    from ftft.dynamics.parquet import find_dynamics_file, open_dynamics, write_dynamics
    from ftft.dynamics.scores import choose_epochs, describe_left_out

    # A shell turns `--checkpoints run/checkpoint-*` into one option value and further arguments.
    sources = [*(checkpoints or []), *(path for path in (dynamics, *(more or [])) if path is not None)]
    _check_sources(sources, data, max_length, from_checkpoints=bool(checkpoints))
    if checkpoints and not 0 <= drop_first < len(sources):
        raise UserError(f"--drop-first is {drop_first}, and there are {len(sources)} checkpoints; leave at least one to score")
    if ddof not in (0, 1):
        raise UserError(f"--ddof is {ddof}; give 0 (population, as cartography) or 1 (sample, as FTFT)")
    _check_names(score or [], len(sources) - drop_first if checkpoints else None)
    _check_outputs(out, dynamics_out, [*sources, data])
    if not checkpoints and is_metrics_file(sources[0]):
        if ddof or drop_first or dynamics_out is not None:
            raise UserError(f"{sources[0]} holds metrics and no dynamics; leave --ddof, --drop-first and --dynamics-out out")
        _convert_metrics(sources[0], out, score)
        return
    source: Dynamics | Path
    if checkpoints and data is not None:
        source = _from_checkpoints(sources, data, Columns(text=text or ["text"], label=label, id=id_column), max_length)
    else:
        file = find_dynamics_file(sources[0])
        streamed = file is not None and dynamics_out is None and out.suffix.lower() == ".parquet"
        source = file if file is not None and streamed else open_dynamics(sources[0])
    some = next(open_file(source).batches(1)) if isinstance(source, Path) else source
    epochs = choose_epochs(some, drop_first=drop_first)
    if dynamics_out is not None and not isinstance(source, Path):
        write_dynamics(source, dynamics_out)
        typer.echo(f"wrote {dynamics_out}")
    names, examples = _write(source, out, score, ddof=ddof, seed=seed, epochs=epochs)
    typer.echo(f"wrote {len(names)} scores of {examples:,} examples to {out}: {', '.join(names)}")
    if not score and (left_out := describe_left_out(some, num_epochs=len(epochs))):
        typer.echo(f"left out: {left_out}", err=True)


def _check_sources(sources: list[Path], data: Path | None, max_length: int | None, *, from_checkpoints: bool) -> None:
    if from_checkpoints and data is None:
        raise UserError("--checkpoints needs --data: the file the checkpoints were trained on")
    if not from_checkpoints and (len(sources) != 1 or data is not None):
        raise UserError("name one source of dynamics, or --checkpoints with --data")
    if not from_checkpoints and max_length is not None:
        raise UserError("--max-length is for --checkpoints; recorded dynamics are of texts that training has cut already")


def _check_names(names: list[str], epochs: int | None) -> None:
    """Refuse a score that does not exist, or that the number of epochs (where it is known already) cannot give."""
    for name in names:
        if name not in SCORES:
            raise UserError(f'--score: there is no score "{name}"{did_you_mean(name, SCORES)}')
        least = MINIMUM_EPOCHS.get(name, 1)
        if epochs is not None and epochs < least:
            raise UserError(f"--score: {name} needs at least {least} epochs, and {epochs} of the checkpoints would be scored")


def _check_outputs(out: Path, dynamics_out: Path | None, inputs: list[Path | None]) -> None:
    from ftft.dynamics.score_file import ENDINGS

    check_output_file(out, "--out", endings=ENDINGS, inputs=inputs)
    if dynamics_out is not None:
        check_output_file(dynamics_out, "--dynamics-out", endings=[".parquet"], inputs=inputs)
        if dynamics_out.absolute() == out.absolute():
            raise UserError(f"--dynamics-out and --out are both {out}; give two different files")


def _write(
    source: Dynamics | Path, out: Path, names: list[str] | None, *, ddof: int, seed: int, epochs: list[int]
) -> tuple[tuple[str, ...], int]:
    """The names of the scores written and the number of examples; a file's rows go through memory batch by batch."""
    from ftft.dynamics.dynamics_file import open_file
    from ftft.dynamics.score_file import score_file, write_scores
    from ftft.dynamics.scores import compute_scores

    wanted = list(dict.fromkeys(names)) if names else None
    if out.suffix.lower() == ".parquet":
        written = score_file(source, out, wanted, ddof=ddof, seed=seed, epochs=epochs)
        return written, len(open_file(source) if isinstance(source, Path) else source)
    assert not isinstance(source, Path)
    scores = compute_scores(source, wanted, epochs=epochs, ddof=ddof, seed=seed)
    write_scores(source.ids, scores, out, settings={"ddof": ddof, "epochs": epochs, "seed": seed})
    return tuple(scores), len(source)


def _convert_metrics(path: Path, out: Path, names: list[str] | None) -> None:
    """The scores that a metrics file of cartography holds, in our format."""
    from ftft.dynamics.cartography import read_metrics
    from ftft.dynamics.score_file import write_scores

    metrics = read_metrics(path)
    for name in names or []:
        if name not in metrics.scores:
            raise UserError(f"--score: {path} holds no {name}; it has {', '.join(metrics.scores)}")
    chosen = {name: values for name, values in metrics.scores.items() if not names or name in names}
    write_scores(metrics.ids, chosen, out, settings={"source": "metrics"})
    typer.echo(f"wrote {len(chosen)} scores of {len(metrics.ids):,} examples to {out}: {', '.join(chosen)}")


def _from_checkpoints(folders: list[Path], data: Path, columns: Columns, max_length: int | None) -> Dynamics:
    """Dynamics by forward passes; says what they cost, by what the rows are identified and where their texts were cut."""
    from ftft.bridges.checkpoints import dynamics_from_checkpoints
    from ftft.data.ids import id_column_of
    from ftft.data.loading import load_examples
    from ftft.data.settings import DataFile

    file = DataFile(path=str(data))
    if columns.id is None:
        columns = replace(columns, id=id_column_of(file, columns))
    noticed: list[str] = []
    examples = load_examples(file, columns, warnings=noticed)
    for sentence in noticed:
        typer.echo(f"warning: {sentence}", err=True)
    table = dynamics_from_checkpoints(folders, examples, max_length=max_length, progress=_progress)
    cost, cut = table.metadata["cost"], table.metadata["cut"]
    typer.echo(f"{len(table.epochs)} checkpoints: {cost['seconds']:.1f} s, {cost['flops']:.3g} floating-point operations")
    made = "made from the content, as no column holds a unique one (name yours with --id)"
    typer.echo(f"ids: {made if columns.id is None else f'the column {columns.id} of {data}'}")
    by_default = ", the most the model takes; give the length of the training with --max-length" if max_length is None else ""
    longer = f"{cut:,} of {len(table):,} were longer" if cut else "none was longer"
    typer.echo(f"texts: cut after {table.metadata['max_length']} tokens{by_default}; {longer}")
    return table


def _progress(done: int, total: int) -> None:
    """One line on a terminal, nothing elsewhere."""
    import sys

    if sys.stderr.isatty():
        print(f"\rforward passes: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
