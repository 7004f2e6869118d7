"""The figures of a comparison's table document (``ftft/comparison``), read so that any of them may be missing.

Shares are shown in per cent, their differences in percentage points, costs as multiples of the baseline's (ERM's) of the
same seed. No rounding before the formats below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.engine.ledger import PHASES
from ftft.report.figures import ROLE_NAMES, Interval, count, decimals, dig, interval, number, whole
from ftft.report.measures import CORRECTED, MEASURES, measure_of

PRIOR_SENSITIVE = ("accuracy", "macro_f1")  # a shifted class prior or decision threshold alone can change these
RANKING = "auroc"  # no threshold and no class prior can change this
EVEN = MEASURES["accuracy"].even


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline; ``sign``: "+" or "-" where the interval excludes zero, "0" where it holds it or where there
    is none, "?" where the difference is not known (``gap`` is None)."""

    gap: Interval | None
    sign: str

    @property
    def rises(self) -> bool:
        """Above zero beyond chance; without an interval, above zero at all."""
        return self.sign == "+" or (self._bare and self.gap is not None and self.gap.value > EVEN)

    @property
    def falls(self) -> bool:
        """Below zero beyond chance; without an interval, below zero at all."""
        return self.sign == "-" or (self._bare and self.gap is not None and self.gap.value < -EVEN)

    @property
    def _bare(self) -> bool:
        return self.gap is not None and (self.gap.low is None or self.gap.high is None)


@dataclass(frozen=True)
class ComparedSet:
    """An evaluation set of a task."""

    name: str
    role: str
    split: str
    seen: bool
    n: int | None
    uncertain_over: str

    @property
    def short(self) -> str:
        """ "OOD", "ID validation", "OOD (seen)"."""
        marks = [self.role.upper(), *([self.split] if self.split != "test" else []), *(["(seen)"] if self.seen else [])]
        return " ".join(marks)

    @property
    def described(self) -> str:
        """What it is, as a reader's sentence part."""
        facts = [ROLE_NAMES.get(self.role, self.role), self.split]
        facts += [f"n = {count(self.n)}"] if self.n is not None else []
        facts += ["seen by a model, so in no OOD mean"] if self.seen else []
        facts += [f"intervals over {self.uncertain_over}"] if self.uncertain_over else []
        return ", ".join(facts)


@dataclass(frozen=True)
class Seeds:
    """What became of a row's seeds."""

    finished: tuple[str, ...]
    pending: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def planned(self) -> int:
        return len(self.finished) + len(self.pending) + len(self.failed)

    @property
    def lines(self) -> tuple[str, ...]:
        """ "3 of 5", "1 pending", "1 failed"."""
        short = [f"{len(self.finished)} of {self.planned}" if len(self.finished) < self.planned else str(self.planned)]
        short += [f"{len(some)} {word}" for some, word in ((self.pending, "pending"), (self.failed, "failed")) if some]
        return tuple(short)


@dataclass(frozen=True)
class Row:
    """One row of a task, with its figures."""

    name: str
    document: Mapping[str, Any]

    def mean(self, role: str, metric: str) -> Interval | None:
        """The mean over a role's sets."""
        return interval(dig(self.document, "means", role, metric))

    def mean_gap(self, role: str, metric: str) -> Difference:
        """The row minus the baseline on the mean of a role."""
        return _difference(dig(self.document, "versus", "means", role, metric))

    def on(self, name: str, metric: str) -> Interval | None:
        """A metric on one set."""
        return interval(dig(self.document, "sets", name, metric))

    def gap_on(self, name: str, metric: str) -> Difference:
        """The row minus the baseline on one set."""
        return _difference(dig(self.document, "versus", "sets", name, metric))

    def cost(self, kind: str) -> Interval | None:
        """ "charged" or "amortised", as a multiple of ERM's."""
        return interval(dig(self.document, "cost", kind))

    @property
    def about(self) -> str:
        return str(dig(self.document, "about") or "")

    @property
    def searches(self) -> float | None:
        return number(dig(self.document, "cost", "searches"))

    @property
    def parts(self) -> dict[str, float]:
        """The charged cost by phase, in the ledger's order, unknown names last."""
        found = dig(self.document, "cost", "parts")
        items = found.items() if _is_map(found) else ()
        known = {str(name): part for name, value in items if (part := number(value)) is not None}
        order = {name: rank for rank, name in enumerate(PHASES)}
        return {name: known[name] for name in sorted(known, key=lambda name: order.get(name, len(PHASES)))}

    @property
    def seeds(self) -> Seeds:
        failed = tuple((str(dig(one, "seed")), str(dig(one, "why") or "")) for one in sequence(dig(self.document, "failed")))
        finished, pending = (tuple(map(str, sequence(dig(self.document, key)))) for key in ("seeds", "pending"))
        return Seeds(finished, pending, failed)

    @property
    def compared(self) -> bool:
        """Whether there are differences against the baseline."""
        return _is_map(dig(self.document, "versus"))

    @property
    def rate(self) -> float | None:
        """The chosen learning rate; None where none was searched."""
        return number(dig(self.document, "learning_rate", "chosen"))

    @property
    def rate_at_edge(self) -> bool:
        return self.rate is not None and dig(self.document, "learning_rate", "interior") is False

    @property
    def curve(self) -> list[tuple[float, float | None, list[float]]]:
        """The searched rates, ascending: (learning rate, mean score, scores by seed)."""
        found = []
        for one in sequence(dig(self.document, "learning_rate", "curve")):
            rate = number(dig(one, "learning_rate"))
            scores = [score for value in sequence(dig(one, "scores")) if (score := number(value)) is not None]
            if rate is not None and rate > 0:
                found.append((rate, number(dig(one, "value")), scores))
        return sorted(found, key=lambda one: one[0])


@dataclass(frozen=True)
class Task:
    """One task of the comparison: its sets and rows in the suite's order."""

    name: str
    document: Mapping[str, Any]
    baseline: str
    headline: str
    metrics: tuple[str, ...]

    @property
    def rows(self) -> list[Row]:
        found = dig(self.document, "rows")
        return [Row(str(name), one if _is_map(one) else {}) for name, one in found.items()] if _is_map(found) else []

    @property
    def sets(self) -> list[ComparedSet]:
        return [
            ComparedSet(
                str(dig(one, "name")),
                str(dig(one, "role") or "ood"),
                str(dig(one, "split") or "test"),
                bool(dig(one, "seen")),
                whole(dig(one, "n")),
                str(dig(one, "uncertain_over") or ""),
            )
            for one in sequence(dig(self.document, "sets"))
        ]

    def sets_of(self, role: str) -> list[ComparedSet]:
        return [one for one in self.sets if one.role == role]

    def mean_sets(self, role: str) -> list[str]:
        """The sets that the mean of a role is over, by the first row that says so."""
        for row in self.rows:
            if names := sequence(dig(row.document, "means", role, "sets")):
                return [str(name) for name in names]
        return []

    @property
    def corrected(self) -> str | None:
        """The prior-corrected figure that stands beside the headline metric; None where the table has none."""
        wanted = f"{CORRECTED}{self.headline}"
        others = [name for name in self.metrics if name.startswith(CORRECTED)]
        return wanted if wanted in others else next(iter(others), None)

    def title(self, row: Row) -> str:
        return f"{row.name} (baseline)" if row.name == self.baseline else row.name


def tasks(table: Mapping[str, Any]) -> list[Task]:
    """The tasks in the document's order."""
    found = dig(table, "tasks")
    if not _is_map(found):
        return []
    metrics = tuple(map(str, sequence(table.get("metrics"))))
    headline = str(table.get("headline") or next(iter(metrics), "accuracy"))
    baseline = str(table.get("baseline") or "")
    return [Task(str(name), one if _is_map(one) else {}, baseline, headline, metrics) for name, one in found.items()]


def sequence(value: Any) -> Sequence[Any]:
    """A list of the document, or nothing."""
    return value if isinstance(value, (list, tuple)) else ()


def label(table: Mapping[str, Any]) -> str:
    """How far the comparison may be trusted, to stand wherever a claim could be read; "" where nothing restricts it."""
    found = table.get("label")
    return str(found) if found else ""


def caution(table: Mapping[str, Any]) -> str:
    """:func:`label` as a sentence; "" where there is none."""
    limited = label(table)
    return f"{limited[0].upper()}{limited[1:]}." if limited else ""


def confidence(table: Mapping[str, Any]) -> str:
    """The coverage of the intervals, "95 %"."""
    found = number(table.get("level"))
    return "95 %" if found is None else f"{100 * found:g} %"


def shown(entry: Interval | None, metric: str) -> tuple[str, ...]:
    """A figure and, where it has one, its interval: ("61.3", "[58.1, 64.5]"), shares in per cent."""
    if entry is None:
        return ("-",)
    told = measure_of(metric)
    limits = () if entry.low is None or entry.high is None else (f"[{told.figure(entry.low)}, {told.figure(entry.high)}]",)
    return (told.figure(entry.value), *limits)


def shown_gap(difference: Difference, metric: str) -> str:
    """A difference, its interval and its sign: "+1.5 [+0.3, +2.7] (+)", in points; "-" where it is not known."""
    return "-" if difference.gap is None else f"{measure_of(metric).difference(difference.gap)} ({difference.sign})"


def brief_gap(difference: Difference, metric: str) -> str:
    """A difference without its interval: "+1.5 (+)"."""
    if difference.gap is None:
        return "-"
    return f"{measure_of(metric).difference(Interval(difference.gap.value))} ({difference.sign})"


def times(value: float | None) -> str:
    """A cost as a multiple of ERM's, "0.58"; "-" for None."""
    return decimals(value, 2)


def times_interval(entry: Interval | None) -> tuple[str, ...]:
    """A cost and its interval."""
    if entry is None:
        return ("-",)
    limits = () if entry.low is None or entry.high is None else (f"[{times(entry.low)}, {times(entry.high)}]",)
    return (times(entry.value), *limits)


def rate(value: float | None) -> str:
    """A learning rate, "5e-5"."""
    if value is None:
        return "-"
    if value >= 0.01 or value <= 0:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def probability(value: float | None) -> str:
    """A p value, "0.031" or "<0.001"."""
    return "<0.001" if value is not None and value < 0.001 else decimals(value)


def _difference(entry: Any) -> Difference:
    gap = interval(entry)
    sign = dig(entry, "sign")
    return Difference(gap, "?" if gap is None else str(sign) if sign in ("+", "-", "0") else "0")


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)
