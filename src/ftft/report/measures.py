"""How a score is told: its name in words, in per cent or as it stands, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftft.report.figures import Interval, decimals, dig, percent, points
from ftft.tasks.metrics import LOWER_IS_BETTER, UNBOUNDED

CLASSIFICATION = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Measure:
    """``words``: "token accuracy". ``short``: before a figure in a table. ``share``: a share, told in per cent and its
    differences in points. ``lower``: lower is better. ``unit``: behind a figure that is no share. ``digits``: its decimals."""

    words: str
    short: str
    share: bool = True
    lower: bool = False
    unit: str = ""
    digits: int = 3

    def figure(self, value: float | None) -> str:
        """ "71.2" of a share, "2.314" of another figure."""
        return percent(value) if self.share else decimals(value, self.digits)

    def difference(self, entry: Interval | None) -> str:
        """ "-1.2 [-2.5, +0.1]", in points of a share."""
        if entry is None or self.share:
            return points(entry)
        known = entry.low is not None and entry.high is not None
        limits = f" [{entry.low:+.{self.digits}f}, {entry.high:+.{self.digits}f}]" if known else ""
        return f"{entry.value:+.{self.digits}f}{limits}"

    def amount(self, value: float) -> str:
        """ "2.4 points", "0.120 nats per token": the size of a difference."""
        if self.share:
            return f"{100 * abs(value):.1f} points"
        return f"{abs(value):.{self.digits}f} {self.unit}".rstrip()

    def with_interval(self, entry: Interval) -> str:
        """ "71.2 % [67.5, 74.8]", "2.314 [2.201, 2.430]"."""
        said = f"{self.figure(entry.value)} %" if self.share else self.figure(entry.value)
        if entry.low is None or entry.high is None:
            return said
        return f"{said} [{self.figure(entry.low)}, {self.figure(entry.high)}]"

    @property
    def scale(self) -> str:
        """What its differences are in: "points of accuracy", "nats per token"."""
        return f"points of {self.words}" if self.share else self.unit or self.words

    @property
    def heading(self) -> str:
        """ "Accuracy, %", "Loss"."""
        words = self.words[0].upper() + self.words[1:]
        return f"{words}, %" if self.share else words

    @property
    def explained(self) -> str:
        """ "Accuracy in per cent", "Loss in nats per token (lower is better)"."""
        unit = " in per cent" if self.share else f" in {self.unit}" if self.unit else ""
        return f"{self.words[0].upper()}{self.words[1:]}{unit}{' (lower is better)' if self.lower else ''}"

    @property
    def even(self) -> float:
        """Differences below this print as zero."""
        return 0.0005 if self.share else 0.5 * 10.0**-self.digits

    def better(self, gap: float) -> str:
        """ "better" or "worse", of a difference that is not zero."""
        return "better" if (gap < 0) == self.lower else "worse"


def _measure(name: str, words: str, short: str, *, unit: str = "", digits: int = 3) -> Measure:
    return Measure(words, short, name not in UNBOUNDED, name in LOWER_IS_BETTER, unit, digits)


MEASURES: Mapping[str, Measure] = {
    "accuracy": _measure("accuracy", "accuracy", ""),
    "macro_f1": _measure("macro_f1", "macro-F1", "F1"),
    "auroc": _measure("auroc", "AUROC", "AUROC"),
    "average_precision": _measure("average_precision", "average precision", "AP"),
    "ece": _measure("ece", "ECE", "ECE"),
    "brier": _measure("brier", "Brier score", "Brier"),
    "log_loss": _measure("log_loss", "log loss", "log loss", unit="nats"),
    "loss": _measure("loss", "loss", "loss", unit="nats per token"),
    "perplexity": _measure("perplexity", "perplexity", "ppl", digits=2),
    "token_accuracy": _measure("token_accuracy", "token accuracy", "tokens"),
    "exact_match": _measure("exact_match", "exact match", "match"),
}
CORRECTED = "prior_corrected."  # before a score's name: after correction to a set's own class prior


def measure_of(name: str) -> Measure:
    """How the score of that name is told; one that is not known as it stands, more being better."""
    if name.startswith(CORRECTED):
        found = measure_of(name.removeprefix(CORRECTED))
        return replace(found, words=f"prior-corrected {found.words}", short=f"corrected {found.short}".rstrip())
    words = name.replace("_", " ")
    return MEASURES.get(name, Measure(words, words, share=False))


def compared(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The scores that the stages of a result are compared by, the chief one first."""
    named = dig(result, "compared")
    return tuple(map(str, named)) if isinstance(named, (list, tuple)) and named else CLASSIFICATION


def chief(result: Mapping[str, Any]) -> tuple[str, Measure]:
    """The score that comes first, and how it is told."""
    name = compared(result)[0]
    return name, measure_of(name)


def legend(result: Mapping[str, Any]) -> str:
    """ "Accuracy in per cent" and what else is shown, for below a table; the level of the intervals stands at {level}."""
    name, first = chief(result)
    others = [measure_of(other) for other in compared(result)[1:]]
    if compared(result) == CLASSIFICATION:
        return "Accuracy in per cent with {level} bootstrap intervals, and macro-F1"
    listed = ", ".join(_explained(one) for one in others)
    return f"{first.explained} with {{level}} bootstrap intervals" + (f", and {listed}" if listed else "")


def _explained(told: Measure) -> str:
    """ "perplexity (ppl)", "token accuracy (tokens, in per cent)", "loss"."""
    marks = [*([told.short] if told.short != told.words else []), *(["in per cent"] if told.share else [])]
    return f"{told.words} ({', '.join(marks)})" if marks else told.words
