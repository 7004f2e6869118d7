"""The data map (Swayamdipta et al. 2020) as inline SVG: one point per training example, confidence over variability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftft.dynamics.idhash import uniform_of_ids
from ftft.report.charts import BOTTOM, LEFT, RIGHT, TOP, Frame
from ftft.report.learning import picked_words
from ftft.report.markup import Attributes, Markup, short, tag
from ftft.report.parts import DataMap, Parts, chosen, mass, positions

MOST_POINTS = 5000
MOST_GROUPS = 8
DENSE = 1500  # points from which they are drawn smaller
SIZE = 560
CROWDED = (0.9, 0.1)  # confidence above, variability below: the corner where points hide each other

# One path each, around the point, of about the area of a circle of radius 1; small groups get the conspicuous ones.
SHAPES = ("circle", "M0-1.35L1.2.7H-1.2Z", "M-.9-.9H.9V.9H-.9Z", "M0-1.25L1.25 0 0 1.25-1.25 0Z")


@dataclass(frozen=True)
class Kind:
    """A class of points: its words in the legend, its colour's variable, its shape, and which points it has."""

    name: str
    colour: str
    shape: str
    members: np.ndarray


def draw_map(data_map: DataMap, parts: Parts) -> Markup:
    """The figure: points by group where groups are known, else by correctness; those that the first user of the dynamics
    selected are outlined."""
    scored = np.flatnonzero(~np.isnan(data_map.confidence) & ~np.isnan(data_map.variability))
    shown = _subsample(data_map, scored)
    kinds, by = _kinds(data_map, parts, shown)
    taken, words = _chosen(data_map, parts)
    frame = Frame((0.0, 0.5), (0.0, 1.0), SIZE, SIZE)
    clipped = np.clip(data_map.variability[shown], 0.0, 0.5)
    points = np.array([frame.at(float(x), float(y)) for x, y in zip(clipped, data_map.confidence[shown])]).reshape(-1, 2)
    dense = len(shown) > DENSE
    radii = (1.7, 2.3) if dense else (2.2, 3.0)  # not selected, selected
    groups = []
    for kind in kinds:
        for picked in (False, True):
            inside = kind.members & (taken[shown] == picked)
            if inside.any():
                look = {"class": "chosen" if picked else "rest", "style": f"fill:var({kind.colour})"}
                groups.append(tag("g", _dots(points[inside], kind.shape, radii[picked]), attributes=look))
    area: Attributes = {"class": "axis", "x": LEFT, "y": TOP, "width": SIZE - LEFT - RIGHT, "height": SIZE - TOP - BOTTOM}
    named = f"Data map {data_map.of}"
    drawing = tag(
        "svg",
        frame.axes("variability (population standard deviation over epochs)", f"confidence (mean {data_map.quantity})"),
        tag("rect", attributes=area),
        *groups,
        attributes={"viewBox": f"0 0 {SIZE} {SIZE}", "role": "img", "aria-label": named, "class": "dense" if dense else None},
    )
    caption = f"{named}, coloured by {by}. {_density(data_map, scored, shown)}"
    key = _legend(kinds, words)
    return tag("figure", drawing, key, tag("figcaption", caption), attributes={"class": "map"})


def _subsample(data_map: DataMap, scored: np.ndarray) -> np.ndarray:
    """At most ``MOST_POINTS`` rows, uniform over the pool and the same for every order of it."""
    if len(scored) <= MOST_POINTS:
        return scored
    ranks = uniform_of_ids(data_map.ids, 0)[scored]
    return np.sort(scored[np.argsort(ranks, kind="stable")[:MOST_POINTS]])


def _density(data_map: DataMap, scored: np.ndarray, shown: np.ndarray) -> str:
    confidence, variability = CROWDED
    corner = (data_map.confidence[scored] > confidence) & (data_map.variability[scored] < variability)
    how_many = (
        f"All {len(scored):,} scored examples are shown"
        if len(shown) == len(scored)
        else f"{len(shown):,} of {len(scored):,} scored examples are shown, a uniform subsample by a hash of the id"
    )
    share = 100 * float(corner.mean()) if len(scored) else 0.0
    crowd = f"{share:.1f} % lie above confidence {confidence} and below variability {variability}"
    return f"{how_many}; points hide each other: {crowd}."


def _chosen(data_map: DataMap, parts: Parts) -> tuple[np.ndarray, str | None]:
    """Which examples are selected, bool [N], and by which stage ("selected by stage main", "copied for stage main"); none
    where no stage selected by these dynamics."""
    for user in data_map.users:
        if user in parts.selections:
            rule = parts.rules.get(user, {})
            return chosen(mass(parts.selections[user], data_map.ids), rule), f"{picked_words(rule)} stage {user}"
    return np.zeros(len(data_map.ids), dtype=bool), None


def _kinds(data_map: DataMap, parts: Parts, shown: np.ndarray) -> tuple[list[Kind], str]:
    if parts.groups is not None:
        return _by_group(data_map, parts.groups, shown), "group"
    if data_map.correctness is None:
        return [Kind("an example", "--c4", SHAPES[0], np.ones(len(shown), dtype=bool))], "nothing"
    return _by_correctness(data_map.correctness[shown], data_map.epochs), "how often the gold label was predicted"


def _by_group(data_map: DataMap, groups: tuple[pa.Array, pa.Array], shown: np.ndarray) -> list[Kind]:
    rows = positions(data_map.ids, groups[0])[shown]
    encoded = groups[1].dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), np.asarray(encoded.indices).astype(np.int64)
    mine = np.where(rows >= 0, codes[rows], -1)
    sizes = {code: int((codes == code).sum()) for code in range(len(names))}
    order = sorted(sizes, key=lambda code: (-sizes[code], names[code]))
    kinds = [
        Kind(names[code], f"--g{index}", SHAPES[index % len(SHAPES)], mine == code)
        for index, code in enumerate(order[: MOST_GROUPS - (len(order) > MOST_GROUPS)])
    ]
    others = order[len(kinds) :]
    left = np.isin(mine, others) | (mine < 0)
    if left.any():
        kinds.append(Kind(f"{len(others)} other groups" if others else "no group", f"--g{MOST_GROUPS - 1}", SHAPES[0], left))
    return kinds


def _by_correctness(correctness: np.ndarray, epochs: int) -> list[Kind]:
    """One class per count up to 4 epochs, fifths of the epochs beyond."""
    if epochs <= 4:
        colours = np.round(np.linspace(0, 4, epochs + 1)).astype(int)
        return [
            Kind(f"right in {right} of {epochs} epochs", f"--c{colour}", SHAPES[0], correctness == right)
            for right, colour in reversed(list(enumerate(colours)))
        ]
    fifth = np.clip(np.floor(np.nan_to_num(correctness) / epochs * 5), 0, 4).astype(int)
    names = [f"right in {20 * i} to under {20 * i + 20} % of epochs" for i in range(4)] + ["right in 80 to 100 % of epochs"]
    return [Kind(names[index], f"--c{index}", SHAPES[0], fifth == index) for index in range(4, -1, -1)]


def _dots(points: np.ndarray, shape: str, radius: float) -> Markup:
    if shape == "circle":
        return Markup("".join(f'<circle cx="{short(x)}" cy="{short(y)}" r="{radius}"/>' for x, y in points.tolist()))
    path = f'd="{shape}" vector-effect="non-scaling-stroke"'
    return Markup(
        "".join(f'<path transform="translate({short(x)} {short(y)})scale({radius})" {path}/>' for x, y in points.tolist())
    )


def _legend(kinds: Sequence[Kind], words: str | None) -> Markup:
    entries: list[Mapping[str, Markup | str]] = []
    at = np.array([[9.0, 7.0]])
    for kind in kinds:
        dot = tag("g", _dots(at, kind.shape, 4.0), attributes={"style": f"fill:var({kind.colour})"})
        entries.append({"dot": dot, "name": kind.name})
    if words is not None:
        ring = {"class": "chosen", "style": "fill:none"}
        entries.append(
            {
                "dot": tag("g", _dots(at, SHAPES[0], 4.0), attributes=ring),
                "name": f"outlined: {words}; smaller: not {words.split()[0]}",
            }
        )
    view = {"viewBox": "0 0 18 14", "aria-hidden": "true"}
    items = [tag("li", tag("svg", entry["dot"], attributes=view), entry["name"]) for entry in entries]
    return tag("ul", *items, attributes={"class": "key"})
