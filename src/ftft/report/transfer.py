"""Do training dynamics transfer? Two maps of the same examples compared: rank correlation, overlap of regions, what moved.

Spearman's rho is Pearson's correlation of the ranks, equal values sharing their mean rank, over the examples that both maps
score. Overlap: the share of the k most ambiguous (hardest) examples of one map, k = 33 % of the shared ones, that are so in
the other too; 33 % is chance. An example's move is the distance between its two places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftft.dynamics.choosing import rank, subset_size
from ftft.report.figures import count, percent
from ftft.report.map_values import REGION_SHARE, REGIONS, MapValues
from ftft.report.markup import Markup, join, table, tag
from ftft.report.parts import positions

MOST_MOVERS = 10
Cell = Markup | str


@dataclass(frozen=True)
class Transfer:
    """``shared``: examples that both maps score. ``correlation``: by score, Spearman's rho (NaN where one is constant).
    ``ambiguous``, ``hard``: the overlaps, shares. ``regions``: int [3, 3], from the first map's region (rows) to the second's.
    ``movers``: (id, its places in both maps as (variability, confidence)), farthest first."""

    first: str
    second: str
    shared: int
    correlation: dict[str, float]
    ambiguous: float
    hard: float
    regions: np.ndarray
    movers: Sequence[tuple[str, tuple[float, float], tuple[float, float]]]


def transfer(one: MapValues, other: MapValues) -> Transfer | None:
    """The comparison; None where fewer than two examples are scored by both."""
    at = positions(one.ids, other.ids)
    known = at >= 0
    for values, rows in ((one, np.arange(len(at))), (other, at)):
        for score in (values.confidence, values.variability):
            known &= ~np.isnan(score[rows])
    mine = np.flatnonzero(known)
    theirs = at[mine]
    if len(mine) < 2:
        return None
    ids = one.ids.take(pa.array(mine))
    places = [
        np.stack([values.variability[rows], values.confidence[rows]], axis=1) for values, rows in ((one, mine), (other, theirs))
    ]
    moved = np.hypot(*(places[1] - places[0]).T)
    regions = np.zeros((len(REGIONS), len(REGIONS)), dtype=np.int64)
    np.add.at(regions, (one.region[mine], other.region[theirs]), 1)
    return Transfer(
        first=one.name,
        second=other.name,
        shared=len(mine),
        correlation={
            name: spearman(values[mine], other.scores[name][theirs])
            for name, values in one.scores.items()
            if name in other.scores
        },
        ambiguous=_overlap(places[0][:, 0], places[1][:, 0], ids),
        hard=_overlap(-places[0][:, 1], -places[1][:, 1], ids),
        regions=regions,
        movers=[
            (ids[int(row)].as_py(), tuple(places[0][row].tolist()), tuple(places[1][row].tolist()))
            for row in rank(moved, ids, None, MOST_MOVERS)
            if moved[row] > 0
        ],
    )


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rho of two columns, float [N], over the rows where neither is NaN; NaN where one of them is constant."""
    both = ~np.isnan(one) & ~np.isnan(other)
    ranks = [_mean_ranks(values[both]) for values in (one, other)]
    if both.sum() < 2 or min(np.ptp(one) for one in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, block, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[block]


def _overlap(one: np.ndarray, other: np.ndarray, ids: pa.Array) -> float:
    k = subset_size(REGION_SHARE, len(ids))
    return len(np.intersect1d(rank(one, ids, None, k), rank(other, ids, None, k))) / k


def transfer_tables(found: Transfer, *, show_ids: bool = False) -> Markup:
    """The comparison in words and tables; ids of what moved only with ``show_ids``."""
    rho = {name: f"{value:+.2f}" for name, value in found.correlation.items() if not np.isnan(value)}
    said = (
        f"{count(found.shared)} examples are in both maps. Of the {100 * REGION_SHARE:.0f} % most ambiguous "
        f"{found.first} {percent(found.ambiguous)} % are so {found.second} too, of the hardest {percent(found.hard)} % "
        f"(by chance: {100 * REGION_SHARE:.0f} %)."
    )
    parts = [tag("p", said)]
    if rho:
        caption = "Rank correlation (Spearman) of the scores: 1 is the same order, 0 no relation"
        parts.append(table(["Score", "Rank correlation"], [[name, value] for name, value in rho.items()], caption=caption))
    rows: list[list[Cell]] = [
        [f"{REGIONS[index]} {found.first}", *(count(int(cell)) for cell in line)] for index, line in enumerate(found.regions)
    ]
    heads = ["Examples", *(f"{name} {found.second}" for name in REGIONS)]
    parts.append(table(heads, rows, caption="What moved from one region to another"))
    if show_ids and found.movers:
        moved: list[list[Cell]] = [
            [id_, *(f"{value:.3f}" for place in (first, second) for value in (place[1], place[0]))]
            for id_, first, second in found.movers
        ]
        heads = ["Id", *(f"{what} {where}" for where in (found.first, found.second) for what in ("Confidence", "Variability"))]
        parts.append(table(heads, moved, caption="What moved farthest"))
    return join(parts)
