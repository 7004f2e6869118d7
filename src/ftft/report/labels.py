"""Names beside the points of a drawing, placed so that they cover neither one another nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LETTER = 8.4  # SVG units that a character takes at the most: the style sheet's larger type on narrow screens
LINE = 17
MOST_LETTERS = 22
SIDEWAYS = (9, 30, 60, 100, 150)  # from a point to where its name begins or ends
FARTHEST = 270  # above or below a point
NEAR = 24  # up to here a name needs no line that leads to it


@dataclass(frozen=True)
class Box:
    """A rectangle in SVG units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, across) * max(0.0, down)


@dataclass(frozen=True)
class Spot:
    """Where a name stands: its text's ``x``, ``y`` and anchor. ``led``: so far from its point that a line leads there, which
    ends at ``foot``."""

    x: float
    y: float
    anchor: str
    led: bool
    foot: tuple[float, float]


def shortened(names: Sequence[str]) -> list[str]:
    """Names short enough for a drawing: long ones lose their middle, and get their number where that makes them the same."""
    short = [name if len(name) <= MOST_LETTERS else f"{name[:10]}…{name[-10:]}" for name in names]
    return [f"{index} {name}" if short.count(name) > 1 else name for index, name in enumerate(short, start=1)]


def place_labels(names: Sequence[str], points: Sequence[tuple[float, float]], area: Box) -> list[Spot]:
    """A spot for every name, greedily from the highest point down: the nearest one inside ``area`` that covers nothing, or
    where all do the one that covers least. ``points``: in SVG units."""
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    spots: dict[int, Spot] = {}
    for index in sorted(range(len(points)), key=lambda one: points[one][1]):
        width = LETTER * len(names[index])
        best: tuple[float, Spot, Box] | None = None
        for spot, box in _candidates(*points[index], width):
            outside = (box.right - box.left) * LINE - box.overlap(area)
            covered = sum(box.overlap(other) for other in taken) + 4 * outside
            if best is None or covered < best[0] - 1e-9:
                best = covered, spot, box
            if covered <= 1e-9:
                break
        assert best is not None
        spots[index] = best[1]
        taken.append(best[2])
    return [spots[index] for index in range(len(points))]


def _candidates(x: float, y: float, width: float) -> list[tuple[Spot, Box]]:
    """Spots around a point, near ones first; those along the directions of its intervals come a little later."""
    steps = [
        (across, down) for across in (*SIDEWAYS, *(-one for one in SIDEWAYS)) for down in range(-FARTHEST, FARTHEST + 1, 9)
    ]
    steps += [(0, down) for down in range(-FARTHEST, FARTHEST + 1, 9) if down]
    steps.sort(key=lambda step: math.hypot(*step) + (6 if 0 in step else 0))
    found = []
    for across, down in steps:
        at_x, at_y = x + across, y + down
        anchor = "start" if across > 0 else "end" if across < 0 else "middle"
        left = at_x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
        box = Box(left, at_y - LINE / 2, left + width, at_y + LINE / 2)
        led = math.hypot(across, down) > NEAR
        found.append((Spot(at_x, at_y + 4.5, anchor, led, (at_x, at_y)), box))
    return found
