"""A data map in characters, for the terminal: how many examples lie where, and where the selected ones are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.text import Text

from ftft.report.columns import say
from ftft.report.learning import picked_words
from ftft.report.parts import DataMap, Parts, chosen, mass

LEAST_WIDTH, MOST_WIDTH, ROWS = 36, 72, 15
LEFT = 6  # columns before the drawing: the axis and its figures
WIDEST = 0.5  # the largest standard deviation that probabilities can have
MOSTLY_SELECTED = "bright_cyan"


@dataclass(frozen=True)
class Strokes:
    """What the drawing is made of: shades from few examples to many, and the axes."""

    shades: str
    up: str
    tick: str
    corner: str
    across: str
    foot: str


BLOCKS = Strokes("·░▒▓█", "│", "┤", "└", "─", "┴")
ASCII = Strokes(".:+#@", "|", "+", "+", "-", "+")


def print_map(data_map: DataMap, parts: Parts, console: Console) -> None:
    """Print the map as wide as the terminal allows; nothing where no example was scored or the terminal is too narrow."""
    scored = np.flatnonzero(np.isfinite(data_map.confidence) & np.isfinite(data_map.variability))
    width = min(console.width, MOST_WIDTH + LEFT) - LEFT - 1
    if not len(scored) or console.width < LEAST_WIDTH:
        return
    strokes = BLOCKS if _holds(console, "".join(vars(BLOCKS).values())) else ASCII
    user = next((name for name in data_map.users if name in parts.selections), None)
    picked = None
    if user is not None:
        picked = chosen(mass(parts.selections[user], data_map.ids), parts.rules.get(user, {}))[scored]
    counts, selected = _cells(data_map.confidence[scored], data_map.variability[scored], picked, width)
    say("", console)
    say(f"Data map {data_map.of}, {len(scored):,} examples: confidence (up) over variability (across)", console, "bold")
    for row in range(ROWS):
        console.print(_line(row, counts, selected, strokes), no_wrap=True)
    for line in _axis(width, strokes):
        console.print(Text(line), no_wrap=True)
    say("Above left easy to learn, below left hard to learn, right ambiguous.", console, "dim")
    most = int(counts.max())
    key = f"{strokes.shades[0]} 1 example" + (f", {strokes.shades[-1]} up to {most:,} (logarithmic)" if most > 1 else "")
    if user is not None and console.color_system is not None:
        key += f"; coloured: most are {picked_words(parts.rules.get(user, {}))} {user}"
    say(key + ".", console, "dim")


def _holds(console: Console, characters: str) -> bool:
    """Whether the console's encoding has all the characters."""
    try:
        characters.encode(console.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cells(
    confidence: np.ndarray, variability: np.ndarray, picked: np.ndarray | None, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Examples and selected ones in every cell, int [ROWS, width], the highest confidence first."""
    column = np.clip((variability / WIDEST * width).astype(np.int64), 0, width - 1)
    row = ROWS - 1 - np.clip((confidence * ROWS).astype(np.int64), 0, ROWS - 1)
    place = row * width + column
    counts = np.bincount(place, minlength=ROWS * width).reshape(ROWS, width)
    weights = np.zeros(len(place)) if picked is None else picked.astype(np.float64)
    return counts, np.bincount(place, weights=weights, minlength=ROWS * width).reshape(ROWS, width).astype(np.int64)


def _line(row: int, counts: np.ndarray, selected: np.ndarray, strokes: Strokes) -> Text:
    """One row of the drawing with its part of the axis; the ticks stand at the row of their value."""
    ticks = {0: "1.0", ROWS // 2: "0.5", ROWS - 1: "0.0"}
    mark = strokes.tick if row in ticks else strokes.up
    line = Text(f"{ticks.get(row, ''):>{LEFT - 2}} {mark}")
    top = np.log(max(2, int(counts.max())))
    for count, of_these in zip(counts[row].tolist(), selected[row].tolist()):
        if not count:
            line.append(" ")
            continue
        shade = min(len(strokes.shades) - 1, int(np.ceil(np.log(count) / top * (len(strokes.shades) - 1))))
        line.append(strokes.shades[shade], MOSTLY_SELECTED if 2 * of_these > count else "")
    return line


def _axis(width: int, strokes: Strokes) -> tuple[str, str]:
    """The axis below, and its figures."""
    ticks = {0: "0", width // 2: f"{WIDEST / 2:g}", width - 1: f"{WIDEST:g}"}
    line = "".join(strokes.foot if column in ticks else strokes.across for column in range(width))
    figures = [" "] * (LEFT + width + 1)
    for column, words in ticks.items():
        start = min(LEFT + column - len(words) // 2, len(figures) - len(words))
        figures[start : start + len(words)] = words
    return " " * (LEFT - 1) + strokes.corner + line, "".join(figures).rstrip()
