"""A data map as a figure for a paper: one SVG or PNG file, drawn by matplotlib, on a light ground.

The same points give the same SVG bytes under the same version of matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ftft.dynamics.idhash import uniform_of_ids
from ftft.errors import UserError
from ftft.files import atomic_path
from ftft.report.map_points import MapPoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png")
MOST_VECTORS = 5000  # points above which an SVG holds them as an image, its words still as outlines
INCHES, DOTS_PER_INCH = (5.4, 5.2), 300
WIDEST_LABEL = 48  # characters of a line beside the vertical axis
# By correctness from never to always right, and by class: distinct to colour-blind eyes, in print and on a light ground.
CORRECTNESS = ("#b2182b", "#ef8a62", "#8f8f8f", "#67a9cf", "#2166ac")
CLASSES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7a5195", "#8c6d31")
ONE_COLOUR, INK, OTHERS = "#2166ac", "#1a1a1a", "#9a9a9a"
# Beside their regions, where no point can be: variability is at most the square root of confidence times one minus it.
REGIONS = (
    ("\u2190 easy to learn", 0.205, 1.0, "left"),
    ("ambiguous \u2193", 0.5, 0.93, "right"),
    ("\u2190 hard to learn", 0.205, 0.0, "left"),
)
SETTINGS = {
    "svg.hashsalt": "ftft",  # else the names of clip paths are drawn by chance
    "svg.fonttype": "path",
    "text.parse_math": False,  # a dollar sign in a name is one
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
}


def write_static_map(points: MapPoints, path: Path) -> None:
    """Draw the points (confidence over variability) into ``path``, by its ending an SVG or a PNG, atomically.

    Colour is the correctness where the dynamics say it, else the class; what was selected is outlined, or among many
    points not faint. Points that were not
    seen often enough are left out and counted in the caption. UserError for another ending, where no point can be drawn,
    where matplotlib is missing, and where the file cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f'{path} has the ending "{path.suffix}", and a figure is drawn as {" or ".join(ENDINGS)}')
    scored = np.flatnonzero(np.isfinite(points.confidence) & np.isfinite(points.variability))
    if not len(scored):
        raise UserError(f"no example {points.name} was seen in two epochs, so there is no data map to draw")
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            'figures are drawn by matplotlib, which is not installed; pip install "ftft[figures]" brings it'
        ) from None
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS, "backend": "agg"}):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        left = 0.11 + 0.035 * (len(_confidence(points)) - 1)
        axes = figure.add_axes((left, 0.215, 0.975 - left, 0.735))
        entries = _draw_points(axes, points, scored)
        _dress(figure, axes, points, scored, entries)
        kind = path.suffix.lower()[1:]
        # Neither date nor version, so that the same points give the same file.
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata, facecolor="white")


def _draw_points(axes: Axes, points: MapPoints, scored: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
    """Draw the points, in an order by a hash of their ids so that no class lies on top; gives the legend's entries."""
    order = scored[np.argsort(uniform_of_ids(points.ids, 0)[scored], kind="stable")]
    colours, entries = _colours(points, order)
    # The area of a point in square points: smaller where there are more, so that crowds keep their shape.
    area = float(np.clip(16_000 / len(order), 0.8, 13.0))
    picked = np.ones(len(order), dtype=bool) if points.selected is None else points.selected[order]
    few = len(order) <= MOST_VECTORS
    outline = {"linewidths": 0.45, "edgecolors": INK} if few and points.selected is not None else {"linewidths": 0}
    looks: tuple[tuple[np.ndarray, dict[str, Any]], ...] = (
        (~picked, {"alpha": 0.45 if few else 0.25, "linewidths": 0, "zorder": 2}),
        (picked, {"alpha": 0.9, "zorder": 3, **outline}),
    )
    for inside, look in looks:
        if inside.any():
            axes.scatter(
                np.clip(points.variability[order[inside]], 0.0, 0.5),
                points.confidence[order[inside]],
                s=area,
                c=colours[inside],
                rasterized=not few,
                **look,
            )
    if points.selected is not None and few:
        entries.append(("selected", {"markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 0.8}))
    elif points.selected is not None:
        entries.append(("faint: not selected", {**_filled(INK), "alpha": 0.25}))
    return entries


def _colours(points: MapPoints, order: np.ndarray) -> tuple[np.ndarray, list[tuple[str, dict[str, Any]]]]:
    """Every drawn point's colour, and what the colours mean."""
    if np.isfinite(points.correctness[order]).any():
        share = np.nan_to_num(points.correctness[order])
        # Of 3 epochs one is a third, whatever its last digit; never and always are said of nothing else.
        between = 2 - (share < 1 / 3 + 1e-6) + (share > 2 / 3 - 1e-6)
        step = np.where(share <= 0, 0, np.where(share >= 1, len(CORRECTNESS) - 1, between))
        words = [
            "right in no epoch",
            "in 1/3 of them or fewer",
            "in about half",
            "in 2/3 of them or more",
            "right in all epochs",
        ]
        present = [index for index in reversed(range(len(words))) if (step == index).any()]
        return np.asarray(CORRECTNESS)[step], [(words[index], _filled(CORRECTNESS[index])) for index in present]
    if points.labels is None or not points.label_names:
        return np.full(len(order), ONE_COLOUR), []
    labels = points.labels[order]
    many = len(points.label_names) > len(CLASSES)
    shown = list(np.argsort(-np.bincount(labels[labels >= 0], minlength=len(points.label_names)), kind="stable"))[
        : len(CLASSES)
    ]
    colours, entries = np.full(len(order), OTHERS), []
    for index, code in enumerate(sorted(int(code) for code in shown)):
        colours[labels == code] = CLASSES[index]
        entries.append((points.label_names[code], _filled(CLASSES[index])))
    if many or (labels < 0).any():
        entries.append(("other", _filled(OTHERS)))
    return colours, entries


def _filled(colour: str) -> dict[str, Any]:
    return {"markerfacecolor": colour, "markeredgewidth": 0}


def _dress(
    figure: Figure, axes: Axes, points: MapPoints, scored: np.ndarray, entries: list[tuple[str, dict[str, Any]]]
) -> None:
    """Axes, the names of the regions, legend and caption."""
    from matplotlib.lines import Line2D

    axes.set_xlim(-0.008, 0.508)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("variability (standard deviation over epochs)")
    axes.set_ylabel("\n".join(_confidence(points)))
    axes.set_title(f"Data map {points.name}", loc="left", fontsize=10, fontweight="bold")
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for words, x, y, across in REGIONS:
        axes.text(x, y, words, ha=across, va="center", style="italic", color="#444444")
    if entries:
        marks = [Line2D([], [], linestyle="none", marker="o", markersize=5, **look) for _, look in entries]
        names = [words if len(words) <= 28 else f"{words[:27]}…" for words, _ in entries]
        figure.legend(
            marks, names, loc="lower left", bbox_to_anchor=(0.1, 0.045), ncols=3, frameon=False, handletextpad=0.2, fontsize=8
        )
    figure.text(0.11, 0.022, _caption(points, scored), fontsize=7.5, color="#444444")


def _confidence(points: MapPoints) -> list[str]:
    """What the vertical axis is, in lines."""
    return wrap(f"confidence (mean {points.quantity})", WIDEST_LABEL)


def _caption(points: MapPoints, scored: np.ndarray) -> str:
    said = f"{len(scored):,} training examples"
    if points.selected is not None:
        said += f", {int(points.selected[scored].sum()):,} of them selected"
    left = len(points) - len(scored)
    return said + (f"; {left:,} more were not seen often enough" if left else "") + "."
