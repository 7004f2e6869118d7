"""Columns of text on the terminal: as many side by side as the width allows, no figure cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GAP = 2


@dataclass(frozen=True)
class Column:
    """A heading and one cell per row; lines are separated by newlines."""

    heading: str
    cells: Sequence[str]
    left: bool = False

    @property
    def width(self) -> int:
        return max(Text(line).cell_len for text in (self.heading, *self.cells) for line in text.split("\n"))


def print_columns(columns: Sequence[Column], console: Console) -> None:
    """Print one table, or several below each other that all begin with the first column."""
    first, rest = columns[0], list(columns[1:])
    while rest:
        shown, room = [first], console.width - first.width - GAP
        while rest and (len(shown) == 1 or rest[0].width + GAP <= room):
            room -= rest[0].width + GAP
            shown.append(rest.pop(0))
        _print_table(shown, console)


def _print_table(columns: Sequence[Column], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(plain_text(column.heading, console)), justify="left" if column.left else "right", overflow="fold")
    height = len(columns[0].cells)
    for row in range(height):
        cells = [Text(plain_text(column.cells[row], console)) for column in columns]
        table.add_row(*cells, end_section=False)
        if row + 1 < height and any("\n" in column.cells[row] for column in columns):
            table.add_row()
    console.print(Padding(table, (1, 0, 0, 0)))


def say(text: str, console: Console, style: str = "") -> None:
    """Print a paragraph; nothing in it is markup."""
    console.print(Text(plain_text(text, console), style=style))


def plain_text(text: str, console: Console) -> str:
    """Text that cannot steer the terminal and that its encoding can hold."""
    shown = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
    encoding = console.encoding or "utf-8"
    return shown.encode(encoding, "replace").decode(encoding)
