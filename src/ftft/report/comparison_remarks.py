"""What a reader of a comparison must not overlook, as plain sentences computed from its table.

A gain in accuracy or macro-F1 can come from a shifted class prior alone: the model ranks the examples no better (AUROC), it
only calls more of them positive. And a gain over the baseline says nothing where a cheaper row does as well. Both are said
of every row they hold for, whichever side they speak against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftft.report.comparison_figures import (
    EVEN,
    PRIOR_SENSITIVE,
    RANKING,
    Difference,
    Row,
    Task,
    label,
    rate,
    sequence,
    tasks,
    times,
)
from ftft.report.figures import dig, interval, points, whole
from ftft.report.measures import CORRECTED, measure_of

MOST_NAMED = 3  # other rows in one sentence


def remarks(table: Mapping[str, Any], task: Task) -> list[str]:
    """The sentences about a task's rows, in the order of the rows: gains that AUROC does not share, rows that a cheaper row
    equals or beats, learning rates at the edge of their grid."""
    said = []
    for row in task.rows:
        said += [line for line in (_not_in_ranking(task, row), _dominated(task, row), _edge(row)) if line]
    return [*said, *_contrasts_not_in_ranking(table, task), *_unequal_seeds(task), *_seen(task)]


def beware(table: Mapping[str, Any]) -> str:
    """The heading of the remarks, with how far the comparison may be trusted."""
    return f"What to beware of ({label(table)})" if label(table) else "What to beware of"


def notes(table: Mapping[str, Any]) -> list[str]:
    """The sentences about the whole comparison: what kind it is, how often the tests were opened, what is unfinished."""
    said = []
    if table.get("kind") == "explore":
        said.append(
            "Exploration: only validation sets and declared OOD development sets are used; a claim needs a confirm suite."
        )
    opened = whole(table.get("opened"))
    if opened is not None:
        often = {0: "have not been opened", 1: "were opened once"}.get(opened, f"were opened {opened} times")
        warning = "; a claim holds for the first opening only" if opened > 1 else ""
        said.append(f"The OOD tests {often}{warning}.")
    finished, pending, failed = (whole(dig(table, "cells", key)) or 0 for key in ("finished", "pending", "failed"))
    if pending or failed:
        left = " and ".join(f"{n} {word}" for n, word in ((pending, "pending"), (failed, "failed")) if n)
        said.append(f"Unfinished: {finished} of {finished + pending + failed} cells are finished, {left}; figures may change.")
    alone = [f"{row.name} ({task.name})" for task in tasks(table) for row in task.rows if len(row.seeds.finished) == 1]
    if alone:
        said.append(
            f"One finished seed, so that intervals are over examples only and do not hold what another seed would change: "
            f"{', '.join(alone)}."
        )
    return said


def dominators(task: Task, row: Row) -> list[Row]:
    """The rows that are at least as good as ``row`` in the OOD mean of the headline metric for at most its cost, and better
    in one of the two; the best of them first. Point values: a row none of these exist for is on the Pareto front."""
    mine = _place(task, row)
    if mine is None:
        return []
    cost, value = mine
    found = [
        (other, place)
        for other in task.rows
        if (place := _place(task, other)) is not None and place[0] <= cost and place[1] >= value and place != mine
    ]
    return [other for other, _ in sorted(found, key=lambda one: (-one[1][1], one[1][0]))]


def on_front(task: Task) -> list[Row]:
    """The rows that no other row dominates, cheapest first."""
    placed = [(place, row) for row in task.rows if (place := _place(task, row)) is not None and not dominators(task, row)]
    return [row for _, row in sorted(placed, key=lambda one: one[0])]


def _place(task: Task, row: Row) -> tuple[float, float] | None:
    """A row's charged cost and how good its OOD mean is (higher is better); None where either is not known."""
    cost, value = row.cost("charged"), row.mean("ood", task.headline)
    if cost is None or value is None:
        return None
    return cost.value, -value.value if measure_of(task.headline).lower else value.value


def _dominated(task: Task, row: Row) -> str:
    better, mine = dominators(task, row), _place(task, row)
    theirs = _place(task, better[0]) if better else None
    if mine is None or theirs is None:
        return ""
    values = [measure_of(task.headline).figure(abs(place[1])) for place in (mine, theirs)]
    price = "costs less" if theirs[0] < mine[0] else "costs the same"
    also = f"; nor better than {_listed([other.name for other in better[1:]])}" if better[1:] else ""
    return (
        f"{row.name} is not better than {better[0].name}, which {price}: OOD mean {measure_of(task.headline).words} "
        f"{values[0]} against {values[1]}, cost {times(mine[0])} against {times(theirs[0])} of "
        f"ERM{also}."
    )


def _listed(names: Sequence[str]) -> str:
    """Names in a row; of many the first ones and the number of the others."""
    if len(names) <= MOST_NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} other rows"


def _not_in_ranking(task: Task, row: Row) -> str:
    """The sentence for a row whose OOD gain over the baseline is not one in AUROC; "" where there is none to say."""
    ranking = row.mean_gap("ood", RANKING)
    gaps = [(metric, row.mean_gap("ood", metric)) for metric in PRIOR_SENSITIVE]
    gains = [(metric, gap) for metric, gap in gaps if gap.rises]
    if gains and not ranking.rises:
        listed = " and ".join(f"{measure_of(metric).words} ({_written(gap)})" for metric, gap in gains)
        if ranking.gap is None:
            return f"{row.name}: whether its OOD gain over {task.baseline} in {listed} is one in AUROC too is not known."
        return (
            f"{row.name}: its OOD gain over {task.baseline} in {listed} is not one in AUROC ({_written(ranking)}); a shifted "
            f"class prior can give such a gain to a model that ranks no better{_corrected(row, gains)}."
        )
    apparent = [(metric, gap) for metric, gap in gaps if gap.gap is not None and gap.gap.value > EVEN and not gap.rises]
    if apparent and ranking.falls:
        listed = " and ".join(f"{measure_of(metric).words} ({_written(gap)})" for metric, gap in apparent)
        return (
            f"{row.name}: it only seems to gain on {task.baseline} in OOD {listed}: not beyond chance, and its AUROC is lower "
            f"({_written(ranking)})."
        )
    return ""


def _corrected(row: Row, gains: Sequence[tuple[str, Difference]]) -> str:
    """What the gains become at the sets' own class prior, as the end of a sentence."""
    left = [(metric, row.mean_gap("ood", f"{CORRECTED}{metric}")) for metric, _ in gains]
    known = [f"{measure_of(metric).words} {_written(gap)}" for metric, gap in left if gap.gap is not None]
    return f". After correction to each set's own class prior: {', '.join(known)}" if known else ""


def _contrasts_not_in_ranking(table: Mapping[str, Any], task: Task) -> list[str]:
    """The same for the named contrasts against rows other than the baseline."""
    said = []
    listed = [one for one in sequence(table.get("contrasts")) if dig(one, "task") == task.name]
    for one in listed:
        metric, row, against, on = (str(dig(one, key)) for key in ("metric", "row", "against", "on"))
        gain = interval(dig(one, "difference"))
        if metric not in PRIOR_SENSITIVE or gain is None or gain.low is None or gain.low <= 0 or against == task.baseline:
            continue
        ranking = interval(dig(one, "ranking"))
        if ranking is not None and (ranking.value <= EVEN if ranking.low is None else ranking.low <= 0):
            said.append(
                f"{row} against {against} on {on}: the gain in {measure_of(metric).words} ({points(gain)}) is not one in AUROC "
                f"({points(ranking)}); a shifted class prior can give such a gain to a model that ranks no better."
            )
    return said


def _edge(row: Row) -> str:
    if not row.rate_at_edge:
        return ""
    return f"{row.name}: its learning rate {rate(row.rate)} lies at the edge of the searched grid; a better one may lie beyond."


def _unequal_seeds(task: Task) -> list[str]:
    finished = {frozenset(row.seeds.finished) for row in task.rows if row.seeds.finished}
    if len(finished) < 2:
        return []
    return ["The rows rest on different seeds so far, so that their means cannot be compared with one another yet."]


def _seen(task: Task) -> list[str]:
    seen = [one.name for one in task.sets if one.role == "ood" and one.seen]
    return [f"The OOD mean leaves out {', '.join(seen)}: a model was trained on it."] if seen else []


def _written(difference: Difference) -> str:
    return points(difference.gap)
