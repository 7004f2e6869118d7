"""Which metrics the cells of a suite have: their tasks say it, not the suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ftft.comparison.making import cell_recipe
from ftft.comparison.robustness import METRIC as LINE_METRIC
from ftft.comparison.suite import METRICS, Suite
from ftft.errors import UserError
from ftft.methods.registry import build_task
from ftft.tasks.contract import Task, quantities_of

RANKED = ("macro_f1", "accuracy", "auroc")  # what rows of classifiers may be searched and ranked by, the chief one first


def metrics_of(suite: Suite) -> dict[str, tuple[str, ...]]:
    """Task -> the metrics that the cells of all its rows have. Raises UserError for a recipe that is wrong, and where the
    tasks, or the rows of one, have none in common that rows could be ranked by."""
    found: dict[str, tuple[str, ...]] = {}
    names: dict[str, str] = {}
    for task in suite.tasks:
        built = {row: build_task(cell_recipe(suite, task, row, suite.seeds[0]).task) for row in suite.rows}
        names[task] = built[suite.baseline].name
        found[task] = _common(map(_measured, built.values()))
        if not found[task]:
            raise UserError(f"task {task}: its rows have no metric in common; a row may not make another kind of task of it")
    ranked = {task: _ranked(known) for task, known in found.items()}
    if not _common(ranked.values()):
        first = next(iter(ranked))
        other = next(task for task in ranked if not _common([ranked[first], ranked[task]]))
        raise UserError(
            f"tasks: {first} is {names[first]} and {other} is {names[other]}, which have no metric in common; "
            "compare them in two suites"
        )
    return found


def shown_metrics(suite: Suite) -> list[str]:
    """The metrics that a suite's tables show: those of any of its tasks."""
    return list(dict.fromkeys(metric for known in metrics_of(suite).values() for metric in known))


def with_metrics(suite: Suite) -> Suite:
    """The suite with the chief metric of its tasks wherever it names none. Raises UserError as :func:`metrics_of`, and for a
    metric that a cell would not have."""
    known = metrics_of(suite)
    ranked = {task: _ranked(of_task) for task, of_task in known.items()}
    chief = next(iter(_common(ranked.values())))
    named = replace(
        suite,
        headline=suite.headline or chief,
        search=suite.search and replace(suite.search, metric=suite.search.metric or chief),
        contrasts=[replace(one, metric=one.metric or chief) for one in suite.contrasts],
    )
    _require(named.headline, "headline", ranked)
    if named.search is not None:
        _require(named.search.metric, "search.metric", ranked)
    for number, contrast in enumerate(named.contrasts):
        asked = {task: known[task] for task in contrast.tasks or known}
        _require(contrast.metric, f"contrasts.{number}.metric", asked)
    if named.line:
        _require(LINE_METRIC, "line", known)
    return named


def _measured(task: Task) -> tuple[str, ...]:
    quantities = quantities_of(task)
    return quantities.compared if quantities.predictions else METRICS


def _ranked(known: Sequence[str]) -> tuple[str, ...]:
    return RANKED if set(RANKED) <= set(known) else tuple(known)


def _common(known: Iterable[Sequence[str]]) -> tuple[str, ...]:
    first, *others = known
    return tuple(metric for metric in first if all(metric in other for other in others))


def _require(metric: str, where: str, known: Mapping[str, Sequence[str]]) -> None:
    for task, metrics in known.items():
        if metric not in metrics:
            raise UserError(f'{where}: there is no metric "{metric}" of task {task}; it has {", ".join(metrics)}')
