"""``ftft map``: the data map of any training dynamics as a page to explore, or as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftft.cli.outputs import check_output_file
from ftft.errors import UserError

if TYPE_CHECKING:
    from ftft.report.map_payload import Texts
    from ftft.report.map_values import MapValues

PICTURES = (".svg", ".png")


def command(
    dynamics: Annotated[
        Path, typer.Argument(help="A run's or stage's folder, a dynamics Parquet, a cartography folder, or a long table.")
    ],
    other: Annotated[Path | None, typer.Argument(help="Other dynamics of the same examples, to compare with.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the map goes: .html, or .svg or .png for a picture.")] = Path(
        "map.html"
    ),
    data: Annotated[
        Path | None, typer.Option("--data", help="The training file, whose texts (and class names) are shown.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="Its text column, or twice for a pair.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Its label column.")] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Its id column.")] = None,
    selection: Annotated[
        Path | None, typer.Option("--selection", help="A selection to compare with, as `ftft select` writes it.")
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave the texts out, for sharing; ids stay.")] = False,
) -> None:
    """Draw the data map of training dynamics: one page to explore, select and correct in, that needs no network."""
    from ftft.dynamics.parquet import open_dynamics
    from ftft.files import write_text
    from ftft.report.map_values import map_values
    from ftft.report.parts import MOST_EXPLORED
    from ftft.run.portable import portable_path

    inputs = [path for path in (dynamics, other, data, selection) if path is not None]
    check_output_file(out, "--out", endings=[".html", *PICTURES], inputs=inputs)
    picture = out.suffix.lower() in PICTURES
    if data is None and (text or label or id_column):
        raise UserError("--text, --label and --id name columns of the file that --data gives; give it too")
    if picture and other is not None:
        raise UserError(f"{out} is a picture of one map; leave {other} out, or give --out a name that ends in .html")
    sources = [dynamics, *([] if other is None else [other])]
    maps = []
    for path, name in zip(sources, _names(sources)):
        found = open_dynamics(path)
        if not picture and len(found) > MOST_EXPLORED:
            raise UserError(
                f"{path} holds {len(found):,} examples, and a page to explore takes up to {MOST_EXPLORED:,}; give --out a name "
                "that ends in .png or .svg for a picture"
            )
        maps.append(map_values(found, name, portable_path(str(path)), to_draw=picture))
    if selection is not None:
        maps[0] = _with_selection(maps[0], selection)
    texts = None
    if data is not None:
        maps, texts = _with_data(maps, data, text or [], label, id_column)
    if picture:
        from ftft.report.static_map import write_static_map

        write_static_map(maps[0].points(), out)
    else:
        from ftft.report.map_page import map_page

        write_text(out, map_page(maps, None if no_text else texts))
    typer.echo(f"wrote the map of {len(maps[0].ids):,} examples over {len(maps[0].epochs)} epochs to {out}")


def _names(sources: list[Path]) -> list[str]:
    """What the maps are called: by as many last parts of their paths as tell them apart, for a page may be shared."""
    parts = [Path(os.path.abspath(path)).parts[1:] for path in sources]
    enough = next((count for count in range(1, max(map(len, parts))) if len({one[-count:] for one in parts}) == len(parts)), 1)
    names = [f"in {Path(*one[-enough:])}" for one in parts]
    return [name.encode("utf-8", "replace").decode("utf-8") for name in names]  # the current folder's may be no UTF-8


def _with_selection(values: MapValues, path: Path) -> MapValues:
    from ftft.methods.selection import read_selection
    from ftft.report.map_values import with_selection
    from ftft.report.parts import chosen, mass

    found = read_selection(path)
    taken = chosen(mass(found, values.ids), found.rule)
    if not taken.any():
        raise UserError(f"none of the ids of {path} is among the examples of the dynamics; it is a selection of other data")
    return with_selection(values, f"selected in {path.name}", taken)


def _with_data(
    maps: list[MapValues], data: Path, text: list[str], label: str | None, id_column: str | None
) -> tuple[list[MapValues], Texts]:
    """The texts, and the maps with the classes' names where the dynamics do not know them."""
    from ftft.data.row_texts import read_row_texts
    from ftft.report.map_payload import Texts, all_ids
    from ftft.report.map_values import with_class_names

    found = read_row_texts(data, all_ids(maps), text=text, id_column=id_column, label=label)
    return [with_class_names(one, found.labels) for one in maps], Texts(found.columns, found.texts)
