"""The figures of a result as the table, the page and the model card show them. Anything may be missing: None then.

The mean over ID (or OOD) sets is unweighted, over the sets with the split ``test``; where a role has none, over its
validation sets. No rounding here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from ftft.run.comparing import SetRole, averaged

SEARCHED = "are searched on the evaluation set"  # what those results say
ROLES = ("id", "ood", "forget")
ROLE_NAMES = {"id": "in distribution", "ood": "out of distribution", "forget": "earlier knowledge"}


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval; ``low`` and ``high`` are None where none was computed."""

    value: float
    low: float | None = None
    high: float | None = None

    def apart_from(self, other: Interval) -> bool | None:
        """Whether the two intervals do not overlap; None where either is missing."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True)
class SetFigures:
    """An evaluation set: ``n`` examples. ``seen_by``: the stages whose model was trained on it, so that it is not OOD.
    ``searched_by``: the stages whose settings were searched on it, so that it is no measure of them out of distribution."""

    name: str
    role: str
    split: str
    n: int | None
    seen_by: tuple[str, ...] = ()
    searched_by: tuple[str, ...] = ()

    @property
    def marks(self) -> list[str]:
        """What sets it apart, in a word or two each."""
        return ["seen"] * bool(self.seen_by) + ["searched on"] * bool(self.searched_by)

    @property
    def facts(self) -> list[str]:
        """The same with the stages' names."""
        seen = [f"seen by the model of {', '.join(self.seen_by)}"] if self.seen_by else []
        return seen + ([f"searched on for {', '.join(self.searched_by)}"] if self.searched_by else [])


@dataclass(frozen=True)
class StageFigures:
    """A stage's row: ``steps`` of those ``planned``, and ``fraction``, its whole cost as a share of plain fine-tuning's
    (``cost_kind``: "measured" or "estimated"; None where it is not known)."""

    name: str
    title: str
    steps: int | None
    planned: int | None
    stopped_early: bool
    fraction: float | None
    cost_kind: str | None
    seconds: float | None
    reused: bool


def dig(document: Any, *keys: str | int) -> Any:
    """``document[key][key]...``, or None where a key is missing or what should hold it is no mapping."""
    for key in keys:
        if not isinstance(document, Mapping) or key not in document:
            return None
        document = document[key]
    return document


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def whole(value: Any) -> int | None:
    """A finite number as an integer, or None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = number(value)
    return None if found is None else int(found)


def interval(entry: Any) -> Interval | None:
    """{"value", "low", "high"} as an Interval; None where it has no value."""
    value = number(dig(entry, "value"))
    return None if value is None else Interval(value, number(dig(entry, "low")), number(dig(entry, "high")))


def stage_names(result: Mapping[str, Any]) -> list[str]:
    """The stages in the recipe's order."""
    stages = result.get("stages")
    return list(stages) if isinstance(stages, Mapping) else []


def measured(result: Mapping[str, Any]) -> list[str]:
    """What the evaluators say that look at a model as a whole: "main, intruder dimensions: 3 intruder dimensions among ..."."""
    return [
        f"{name}, {str(evaluator).replace('_', ' ')}: {sentence}."
        for name in stage_names(result)
        for evaluator, found in (dig(result, "stages", name, "measured") or {}).items()
        if isinstance(sentence := dig(found, "sentence"), str)
    ]


def metric(result: Mapping[str, Any], stage: str, name: str, *path: str) -> Interval | None:
    """A figure of a stage on the set ``name``: ``metric(result, "main", "test", "metrics", "accuracy")``."""
    return interval(dig(result, "stages", stage, "evaluation", name, *path))


def evaluation_sets(result: Mapping[str, Any]) -> list[SetFigures]:
    """All sets that any stage was measured on: ID, OOD, earlier knowledge; test before validation, else as in the recipe."""
    found: dict[str, SetFigures] = {}
    for stage in stage_names(result):
        for name, one in (dig(result, "stages", stage, "evaluation") or {}).items():
            if name not in found:
                role, split = str(dig(one, "role") or "ood"), str(dig(one, "split") or "test")
                seen_by, searched_by = _seen_and_searched(result, name)
                found[name] = SetFigures(name, role, split, whole(dig(one, "n")), seen_by, searched_by)
    ranks = {role: rank for rank, role in enumerate(ROLES)}
    return sorted(found.values(), key=lambda one: (ranks.get(one.role, len(ROLES)), one.split != "test"))


def _seen_and_searched(result: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages whose model was trained on the set, and those whose settings were searched on it. Of these the results of
    earlier versions say under ``seen_by`` that they were searched, in the place of anything else."""
    on = {stage: dig(result, "stages", stage, "search", "on") for stage in stage_names(result)}
    searched = tuple(stage for stage, sets in on.items() if isinstance(sets, (list, tuple)) and name in sets)
    said = dig(result, "data", "evaluation", name, "seen_by")
    seen = said.items() if isinstance(said, Mapping) else ()
    return tuple(str(one) for one, what in seen if not (one in searched and SEARCHED in str(what))), searched


def mean_sets(sets: Sequence[SetFigures], role: str) -> list[SetFigures]:
    """The sets that the mean of a role is over: its test sets, else its validation sets; of OOD sets only those that no
    model of the run has seen and that no settings were searched on (:func:`ftft.run.comparing.averaged`)."""
    names = averaged((SetRole(one.name, one.role, one.split, bool(one.marks)) for one in sets), role)
    return [one for one in sets if one.name in names]


def sets_left_out(sets: Sequence[SetFigures]) -> list[SetFigures]:
    """The OOD sets that are in no mean, because a model of the run was trained on them or settings were searched on them."""
    return [one for one in sets if one.role == "ood" and one.marks]


def left_out(sets: Sequence[SetFigures]) -> str:
    """Which sets the OOD mean leaves out and why, as a sentence without its end; "" where it leaves out none."""
    out = sets_left_out(sets)
    if not out:
        return ""
    has_mean, said = bool(mean_sets(sets, "ood")), []
    for own, why in (
        ([one for one in out if one.seen_by], "seen before by the models of {} (see the warnings)"),
        ([one for one in out if not one.seen_by], "searched on for the settings of {}"),
    ):
        if own:
            names = ", ".join(one.name for one in own)
            stages = ", ".join(dict.fromkeys(stage for one in own for stage in one.seen_by or one.searched_by))
            said.append(f"{names}{',' if has_mean else ' was' if len(own) == 1 else ' were'} {why.format(stages)}")
    return ("the OOD mean leaves out " if has_mean else "there is no OOD mean: ") + ", and ".join(said)


def mean_metric(result: Mapping[str, Any], stage: str, sets: Sequence[SetFigures], name: str = "accuracy") -> float | None:
    """The unweighted mean of a metric over ``sets``; None where there are none or one is missing."""
    values = [metric(result, stage, one.name, "metrics", name) for one in sets]
    known = [one.value for one in values if one is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def mean_interval(result: Mapping[str, Any], stage: str, role: str, name: str = "accuracy") -> Interval | None:
    """A stage's mean over a role's sets, with its interval where the result has it for these very sets, or it is of one."""
    over = mean_sets(evaluation_sets(result), role)
    value = mean_metric(result, stage, over, name)
    found = dig(result, "stages", stage, "means", role)
    known = interval(dig(found, name)) if _of_sets(found, over) else None
    if known is None and len(over) == 1:
        return metric(result, stage, over[0].name, "metrics", name)
    return known if known is not None or value is None else Interval(value)


def set_difference(result: Mapping[str, Any], stage: str, set_name: str, name: str = "accuracy") -> Interval | None:
    """A stage minus the baseline on a set: with the paired interval where the result has one, else the difference alone;
    None for the baseline itself and without one."""
    versus, values = _against(result, stage, lambda one: _value(metric(result, one, set_name, "metrics", name)))
    return interval(dig(versus, "sets", set_name, name)) or _minus(values)


def mean_difference(result: Mapping[str, Any], stage: str, role: str, name: str = "accuracy") -> Interval | None:
    """A stage minus the baseline on the mean of a role; as :func:`set_difference`."""
    over = mean_sets(evaluation_sets(result), role)
    versus, values = _against(result, stage, lambda one: mean_metric(result, one, over, name))
    found = dig(versus, "means", role)
    return (interval(dig(found, name)) if _of_sets(found, over) else None) or _minus(values)


def _against(
    result: Mapping[str, Any], stage: str, value: Callable[[str], float | None]
) -> tuple[Any, tuple[float | None, float | None]]:
    """The stage's comparison with the result's baseline, and the values of both; Nones where there is nothing to compare."""
    baseline = result.get("baseline")
    if baseline == stage or baseline not in stage_names(result):
        return None, (None, None)
    versus = dig(result, "stages", stage, "versus_baseline")
    return (versus if dig(versus, "baseline") == baseline else None), (value(stage), value(str(baseline)))


def _value(entry: Interval | None) -> float | None:
    return None if entry is None else entry.value


def _minus(values: tuple[float | None, float | None]) -> Interval | None:
    mine, theirs = values
    return None if mine is None or theirs is None else Interval(mine - theirs)


def _of_sets(found: Any, over: Sequence[SetFigures]) -> bool:
    names = dig(found, "sets")
    return isinstance(names, (list, tuple)) and sorted(map(str, names)) == sorted(one.name for one in over)


def set_labels(result: Mapping[str, Any], name: str) -> list[str]:
    """The labels of a set in their order: its own where it merges the model's; empty where the result does not say."""
    for stage in stage_names(result):
        prior = dig(result, "stages", stage, "evaluation", name, "class_prior")
        if isinstance(prior, Mapping):
            return [str(label) for label in prior]
    names = dig(result, "data", "label_names")
    return [str(label) for label in names] if isinstance(names, (list, tuple)) else []


def positive_note(result: Mapping[str, Any]) -> str:
    """Of which label average precision is, as sentences; "" where the result does not name the labels. Of two labels it is
    the second's (:func:`ftft.tasks.metrics.average_precision`)."""
    positives: dict[str, list[str]] = {}
    several = False
    for one in evaluation_sets(result):
        labels = set_labels(result, one.name)
        several = several or len(labels) > 2
        if len(labels) == 2:
            positives.setdefault(labels[1], []).append(one.name)
    said = []
    if positives:
        alone = len(positives) == 1 and not several
        of = " and ".join(label if alone else f"{label} on {', '.join(sets)}" for label, sets in positives.items())
        said.append(f"Average precision is that of {of}, the second of the two labels; AUROC is the same for both.")
    if several:
        said.append("Over more than two labels AUROC and average precision are means of each label against the rest.")
    return " ".join(said)


def level(result: Mapping[str, Any]) -> str:
    """The coverage of the intervals, "95 %" where the result does not say."""
    for stage in stage_names(result):
        for one in (dig(result, "stages", stage, "evaluation") or {}).values():
            found = number(dig(one, "bootstrap", "level"))
            if found is not None:
                return f"{100 * found:g} %"
    return "95 %"


def cost_kind(source: Any) -> str | None:
    """ "measured" or "estimated", by how the result says plain fine-tuning's cost is known."""
    if not isinstance(source, str) or source == "not yet":
        return None
    return "estimated" if source.startswith("estimated") else "measured"


def stage_figures(result: Mapping[str, Any], name: str) -> StageFigures:
    """The row of one stage."""
    stage = dig(result, "stages", name)
    fraction = number(dig(stage, "cost", "fraction_of_erm"))
    return StageFigures(
        name=name,
        title=title(result, name),
        steps=whole(dig(stage, "training", "steps")),
        planned=whole(dig(stage, "training", "planned")),
        stopped_early=bool(dig(stage, "training", "stopped_early")),
        fraction=fraction,
        cost_kind=None if fraction is None else cost_kind(dig(stage, "cost", "erm_source")),
        seconds=number(dig(stage, "cost", "seconds")),
        reused=bool(dig(stage, "reused")),
    )


def title(result: Mapping[str, Any], name: str) -> str:
    """The stage's name and what it is to the run: its result, or the ERM baseline."""
    roles = [word for key, word in (("baseline", "ERM"), ("main", "result")) if result.get(key) == name]
    return f"{name} ({', '.join(roles)})" if roles else name


def sentences(result: Mapping[str, Any], key: str) -> list[str]:
    """The warnings or stamps."""
    found = result.get(key)
    return [str(one) for one in found] if isinstance(found, (list, tuple)) else []


def without_folders(document: Any) -> Any:
    """A JSON-like document whose absolute paths are cut to their last part: folders of one machine help no reader."""
    if isinstance(document, Mapping):
        return {str(key): without_folders(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [without_folders(value) for value in document]
    if isinstance(document, str) and "\n" not in document:
        absolute = document.startswith(("/", "~/")) or PureWindowsPath(document).is_absolute()
        return last_part(document) if absolute else document
    return document


def last_part(path: str) -> str:
    """The last part of a path, whether its folders stand between slashes or backslashes."""
    return PureWindowsPath(path).name or path


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent without the sign; "-" for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def points(entry: Interval | None) -> str:
    """A difference in percentage points with its interval, "-1.2 [-2.5, +0.1]"; "-" for None."""
    if entry is None:
        return "-"
    limits = "" if entry.low is None or entry.high is None else f" [{100 * entry.low:+.1f}, {100 * entry.high:+.1f}]"
    return f"{100 * entry.value:+.1f}{limits}"


def count(value: int | None) -> str:
    """An integer with thousands separated; "-" for None."""
    return "-" if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def scientific(value: float | None) -> str:
    """A large count in three significant digits, "1.23e15"; "-" for None, "0" for none."""
    if value is None:
        return "-"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}"


def memory(value: float | None) -> str:
    """Bytes in MiB or GiB."""
    if value is None:
        return "-"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
