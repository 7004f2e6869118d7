"""The tables of a comparison, the same for Markdown and for the page: a heading, columns, and cells of one or more lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.comparison.suite import OF_SEQUENCES
from ftft.report.comparison_figures import (
    PRIOR_SENSITIVE,
    RANKING,
    ComparedSet,
    Difference,
    Row,
    Task,
    caution,
    confidence,
    probability,
    rate,
    sequence,
    shown,
    shown_gap,
    times,
    times_interval,
)
from ftft.report.figures import Interval, count, decimals, dig, interval, memory, number, percent, scientific, whole
from ftft.report.measures import CORRECTED, measure_of

Lines = tuple[str, ...]
NOTHING: Lines = ("-",)
TableColumn = tuple[Lines, list[Lines]]  # a heading and one cell per row


@dataclass(frozen=True)
class Grid:
    """``heads``: one per column, ``rows``: a cell per column; each a tuple of lines, the first the most important."""

    title: str
    heads: Sequence[Lines]
    rows: Sequence[Sequence[Lines]]
    note: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing but the rows' names."""
        return not self.rows or len(self.heads) < 2


def _grid(title: str, columns: Sequence[TableColumn], note: str = "") -> Grid:
    """Columns of a heading and its cells; a column without any figure is left out, but not the first."""
    kept = [one for index, one in enumerate(columns) if index == 0 or any(cell not in (NOTHING, ()) for cell in one[1])]
    return Grid(title, [head for head, _ in kept], list(zip(*(cells for _, cells in kept))), note)


def _column(task: Task, head: Lines, cell: Callable[[Row], Lines]) -> TableColumn:
    return head, [cell(row) for row in task.rows]


def _names(task: Task) -> TableColumn:
    return _column(task, ("Row",), lambda row: (task.title(row),))


def figure(entry: Interval | None, difference: Difference, metric: str) -> Lines:
    """A figure, its interval, and its difference to the baseline with the sign."""
    gap = shown_gap(difference, metric)
    return (*shown(entry, metric), *([gap] if gap != "-" else []))


def heading(metric: str) -> str:
    """A metric at the head of a column, with what must be known to read it."""
    told = measure_of(metric)
    return f"{told.words[0].upper()}{told.words[1:]}{' (lower is better)' if told.lower else ''}"


def sensitivity(metric: str) -> Lines:
    """Whether a shifted class prior alone can change a metric."""
    if metric in PRIOR_SENSITIVE:
        return ("prior-sensitive",)
    return ("not prior-sensitive",) if metric == RANKING or metric.startswith(CORRECTED) else ()


def reading(table: Mapping[str, Any]) -> str:
    """How the figures of all tables are to be read."""
    if table.get("headline") in OF_SEQUENCES:
        unit, points = "", ""
        prior = (
            "Loss (nats per token) and perplexity stand as they are and are better when lower; the others are in per cent, "
            "their differences in points."
        )
    else:
        unit, points = " in per cent", " in points"
        prior = (
            "Accuracy and macro-F1 are prior-sensitive: a shifted class prior alone can change them. AUROC is not, and "
            "prior-corrected figures are taken after correction to each set's own class prior, which uses its labels."
        )
    said = [
        f"Metrics{unit} with {confidence(table)} intervals; below them the paired difference to {table.get('baseline')}"
        f"{points} with its interval and sign: (+) or (-) where the interval excludes zero, (0) where it holds it or there is "
        "none. Means are unweighted over the sets.",
        prior,
        "Cost is the whole cost as a multiple of ERM's: charged with reused stages in full, amortised with them shared among "
        "the rows that use them; the bill of the learning-rate searches stands beside it.",
    ]
    return " ".join(said)


def summary(table: Mapping[str, Any], task: Task) -> Grid:
    """The table that is read first: ID and OOD means of the headline metric, AUROC and prior-corrected beside it, cost."""
    metrics = [task.headline, *(name for name in PRIOR_SENSITIVE if name in task.metrics and name != task.headline)]
    metrics += [name for name in (RANKING, task.corrected) if name is not None and name not in metrics]

    def first(role: str, metric: str) -> TableColumn:
        over = task.mean_sets(role)
        where = f"{role_name(role)} mean of {len(over)} sets" if len(over) > 1 else role_name(role)
        return _mean(task, role, metric, (f"{where}: {measure_of(metric).words}", *sensitivity(metric)))

    columns = [
        _names(task),
        first("id", task.headline),
        *(first("ood", metric) for metric in metrics),
        first("forget", task.headline),
        _column(task, ("Cost", "of ERM's, charged"), _whole_cost),
        _column(task, ("Seeds", "and learning rate"), _run),
        _column(task, ("Effective robustness", "points above the ERM line"), _robustness),
    ]
    return _grid("Summary", columns, caution(table))


def _robustness(row: Row) -> Lines:
    entry = interval(dig(row.document, "effective_robustness"))
    if entry is None:
        return NOTHING
    limits = () if entry.low is None or entry.high is None else (f"[{100 * entry.low:+.1f}, {100 * entry.high:+.1f}]",)
    return (f"{100 * entry.value:+.1f}", *limits)


def _whole_cost(row: Row) -> Lines:
    """What is charged, and below it what is left of it where reused stages are shared, and the searches' bill."""
    amortised = row.cost("amortised")
    beside = [f"amortised {times(amortised.value)}"] if amortised is not None else []
    beside += [f"searches {times(row.searches)}"] if row.searches is not None else []
    return (*times_interval(row.cost("charged")), *beside)


def _run(row: Row) -> Lines:
    """What became of the seeds, and the chosen learning rate."""
    edge = " (edge)" if row.rate_at_edge else ""
    return (*row.seeds.lines, *([f"rate {rate(row.rate)}{edge}"] if row.rate is not None else []))


def _chosen(row: Row) -> Lines:
    if row.rate is None:
        return NOTHING
    return (rate(row.rate), *(["at the edge of its grid"] if row.rate_at_edge else []))


def overview(task: Task) -> Grid:
    """The headline metric on every set."""
    columns = [_names(task), *(_on_set(task, one, task.headline, (one.name, one.short)) for one in task.sets)]
    return _grid(f"{heading(task.headline)} on every set", columns)


def one_set(task: Task, one: ComparedSet) -> Grid:
    """All metrics on one set."""
    columns = [_names(task), *(_on_set(task, one, name, (heading(name), *sensitivity(name))) for name in task.metrics)]
    return _grid(one.name, columns, one.described)


def one_mean(task: Task, role: str) -> Grid:
    """All metrics as the mean over a role's sets."""
    columns = [_names(task), *(_mean(task, role, name, (heading(name), *sensitivity(name))) for name in task.metrics)]
    over = task.mean_sets(role)
    return _grid(f"{role_name(role)} mean", columns, f"Unweighted over {', '.join(over)}" if over else "")


def _on_set(task: Task, one: ComparedSet, metric: str, head: Lines) -> TableColumn:
    return _column(task, head, lambda row: figure(row.on(one.name, metric), row.gap_on(one.name, metric), metric))


def _mean(task: Task, role: str, metric: str, head: Lines) -> TableColumn:
    return _column(task, head, lambda row: figure(row.mean(role, metric), row.mean_gap(role, metric), metric))


def role_name(role: str) -> str:
    """ "ID", "OOD", "Forget"."""
    return role.upper() if role in ("id", "ood") else role.capitalize()


def costs(task: Task) -> Grid:
    """What every row cost and in which phases."""
    columns = [
        _names(task),
        _column(task, ("Charged", "reused stages in full"), lambda row: times_interval(row.cost("charged"))),
        _column(task, ("Amortised", "reused stages shared"), lambda row: times_interval(row.cost("amortised"))),
        _column(task, ("Searches", "of the learning rate"), lambda row: (times(row.searches),)),
        _column(task, ("FLOPs",), lambda row: (scientific(number(dig(row.document, "cost", "flops"))),)),
        *(_phase(task, phase) for phase in phases_of(task)),
    ]
    searched = number(dig(task.document, "searches", "fraction"))
    bill = f"All searches of this task together cost {times(searched)} times ERM, which is in no row's cost."
    return _grid("Costs, as multiples of ERM's", columns, bill if searched is not None else "")


def _phase(task: Task, phase: str) -> TableColumn:
    return _column(task, (phase.capitalize(), "part of charged"), lambda row: (times(row.parts.get(phase)),))


def phases_of(task: Task) -> list[str]:
    """The phases that any row's cost has, in the ledger's order."""
    merged = Row("", {"cost": {"parts": {phase: part for row in task.rows for phase, part in row.parts.items()}}})
    return list(merged.parts)


def resources(task: Task) -> Grid:
    """Parameters, memory, steps, and the class prior of what was learned from."""

    def whole_number(key: str) -> Callable[[Row], Lines]:
        return lambda row: (count(whole(dig(row.document, key))),)

    def size(key: str) -> Callable[[Row], Lines]:
        return lambda row: (memory(number(dig(row.document, key))),)

    columns = [
        _names(task),
        _column(task, ("Trainable parameters",), whole_number("trainable_parameters")),
        _column(task, ("Parameters",), whole_number("parameters")),
        _column(task, ("Peak memory",), size("peak_memory_bytes")),
        _column(task, ("Adapter size",), size("adapter_bytes")),
        _column(task, ("Steps", "by seed"), lambda row: (", ".join(_steps(row)) or "-",)),
        _column(task, ("Class prior", "of what it learned from, %"), _prior),
    ]
    return _grid("Model and training", columns)


def _steps(row: Row) -> list[str]:
    return [count(whole(step)) for step in sequence(dig(row.document, "steps"))]


def _prior(row: Row) -> Lines:
    found = dig(row.document, "class_prior")
    if not isinstance(found, Mapping) or not found:
        return NOTHING
    return tuple(f"{name} {percent(number(share))}" for name, share in found.items())


def curves(task: Task) -> Grid:
    """The learning-rate searches: every rate tried, its score, and those of its seeds."""
    rows: list[Sequence[Lines]] = []
    scored_by = [str(dig(row.document, "learning_rate", "metric") or task.headline) for row in task.rows]
    shares = all(measure_of(by).share for row, by in zip(task.rows, scored_by) if row.curve)
    for row, by in zip(task.rows, scored_by):
        on = ", ".join(map(str, sequence(dig(row.document, "learning_rate", "on"))))
        tried = tuple(
            f"{rate(one)}: {measure_of(by).figure(value)}{_by_seed(scores, by)}{' (chosen)' if one == row.rate else ''}"
            for one, value, scores in row.curve
        )
        if tried:
            told = measure_of(by)
            scored = (told.words if shares or not told.share else f"{told.words}, %", *([f"on {on}"] if on else []))
            rows.append([(task.title(row),), _chosen(row), scored, tried])
    note = "Chosen on ID validation only. In brackets the scores of the search's seeds where there are several."
    return Grid(
        "Learning-rate curves",
        [("Row",), ("Chosen",), ("Scored by",), (f"Rate: score{', %' if shares else ''}",)],
        rows,
        note,
    )


def _by_seed(scores: Sequence[float], metric: str) -> str:
    return f" [{', '.join(measure_of(metric).figure(score) for score in scores)}]" if len(scores) > 1 else ""


def verdict(contrast: Any) -> str:
    """What a contrast came to, after the correction: "higher", "lower", "no difference shown", "no worse", ..."""
    gap, holds = interval(dig(contrast, "difference")), dig(contrast, "holds")
    if gap is None or holds is None:
        return "not yet known"
    if dig(contrast, "kind") == "no worse":
        return "no worse" if holds else "not shown to be no worse"
    if not holds:
        return "no difference shown"
    return "higher" if gap.value > 0 else "lower"


def contrast_kind(contrast: Any) -> str:
    """ "different", "no worse (margin 1.0)"."""
    margin, metric = number(dig(contrast, "margin")), str(dig(contrast, "metric"))
    said = str(dig(contrast, "kind") or "different")
    return f"{said} (margin {measure_of(metric).figure(margin)})" if margin is not None else said


def place(contrast: Any) -> str:
    """What a contrast is measured on: "OOD mean", or the name of a set."""
    on = str(dig(contrast, "on") or "-")
    return {"id": "ID mean", "ood": "OOD mean", "forget": "forget mean"}.get(on, on)


def contrasts(table: Mapping[str, Any]) -> Grid:
    """The named contrasts with their corrected p values and verdicts."""
    rows: list[Sequence[Lines]] = []
    for one in sequence(table.get("contrasts")):
        metric = str(dig(one, "metric"))
        rows.append(
            [
                (f"{dig(one, 'row')} against {dig(one, 'against')}", str(dig(one, "task"))),
                (place(one),),
                (measure_of(metric).words, *sensitivity(metric)),
                (contrast_kind(one),),
                _limits(interval(dig(one, "difference")), metric),
                _limits(interval(dig(one, "ranking")), RANKING),
                (probability(number(dig(one, "p"))),),
                (probability(number(dig(one, "p_holm"))),),
                (verdict(one),),
            ]
        )
    shares = all(measure_of(str(dig(one, "metric"))).share for one in sequence(table.get("contrasts")))
    heads = [
        "Contrast",
        "On",
        "Metric",
        "Question",
        "Difference, points" if shares else "Difference",
        "The same in AUROC",
        "p",
        "p, Holm-corrected",
        "Verdict",
    ]
    note = "Holm's correction is for the number of contrasts; the verdict is by the corrected p."
    note += "" if shares else " Differences of shares are in points."
    return Grid("Contrasts", [(head,) for head in heads], rows, f"{note} {caution(table)}".rstrip())


def _limits(gap: Interval | None, metric: str) -> Lines:
    if gap is None:
        return NOTHING
    value, _, limits = measure_of(metric).difference(gap).partition(" ")
    return (value, limits) if limits else (value,)


def failures(task: Task) -> list[str]:
    """One line per failed cell: which it is, and why."""
    return [f"{row.name}, seed {seed}: {why}" for row in task.rows for seed, why in row.seeds.failed]


def explorations(table: Mapping[str, Any]) -> Grid:
    """The earlier explorations that a confirming suite lists."""
    rows = [
        [
            (str(dig(one, "suite")),),
            (str(dig(one, "created") or "-"),),
            (", ".join(map(str, sequence(dig(one, "rows")))) or "-",),
            (", ".join(map(str, sequence(dig(one, "seeds")))) or "-",),
            (str(dig(one, "hash") or "-")[:16],),
        ]
        for one in sequence(table.get("explorations"))
    ]
    heads = [("Exploration",), ("Created",), ("Rows",), ("Seeds",), ("Hash",)]
    return Grid("Earlier explorations", heads, rows)


def line_said(task: Task) -> str:
    """The ERM line as a sentence; "" where there is none."""
    slope, intercept = (number(dig(task.document, "line", key)) for key in ("slope", "intercept"))
    if slope is None or intercept is None:
        return ""
    named = measure_of(str(dig(task.document, "line", "metric") or task.headline)).words
    fitted = ", ".join(map(str, sequence(dig(task.document, "line", "rows"))))
    points = len(sequence(dig(task.document, "line", "points")))
    return (
        f"The ERM line: logit(OOD {named}) = {decimals(slope, 2)} x logit(ID {named}) {intercept:+.2f}, fitted to {points} "
        f"points of {fitted or 'no row'}. Effective robustness is how far a row lies above it, in points."
    )
