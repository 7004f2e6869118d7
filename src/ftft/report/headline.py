"""The sentence a report begins with, computed from the figures: for FTFT or against it, with how sure one can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.report.figures import (
    ROLE_NAMES,
    Interval,
    SetFigures,
    evaluation_sets,
    level,
    mean_metric,
    mean_sets,
    metric,
    percent,
    stage_figures,
    stage_names,
)

EVEN = 0.0005  # accuracies that print as the same tenth of a per cent


@dataclass(frozen=True)
class Headline:
    """``sentence``: what came out; ``details``: one line per evaluation set; ``caution``: how far it can be trusted."""

    sentence: str
    details: tuple[str, ...]
    caution: str


def headline(result: Mapping[str, Any]) -> Headline:
    """The headline of a result, whatever it lacks."""
    main, baseline = result.get("main"), result.get("baseline")
    sets, names = evaluation_sets(result), stage_names(result)
    if main not in names:
        return Headline("This run left no result to report.", (), "")
    cost = _cost(result, main)
    compared = baseline if baseline in names and baseline != main else None
    if not sets:
        return Headline(
            f"Stage {main} was trained but not measured: the recipe names no evaluation set. {cost}".strip(), (), ""
        )
    parts = [part for role in ("ood", "id") if (part := _role(result, sets, role, main, compared))]
    if compared is None:
        plain = "which is plain fine-tuning (ERM)" if main == baseline else "without an ERM stage to compare it with"
        sentence = f"Stage {main}, {plain}, reaches {' and '.join(parts)}." if parts else f"Stage {main} has no accuracy."
    elif parts:
        sentence = f"{'; '.join(parts)}."
        sentence = sentence[0].upper() + sentence[1:]
    else:
        sentence = f"Stages {main} and {compared} have no evaluation set in common to be compared on."
    details = _details(result, sets, main, compared) if compared is not None else ()
    return Headline(f"{sentence} {cost}".strip(), details, _caution(result))


def _caution(result: Mapping[str, Any]) -> str:
    return (
        f"One seed: direction only. The {level(result)} intervals are those of the evaluation sets' sampling; "
        "how much another seed would change the figures is not in them."
    )


def _cost(result: Mapping[str, Any], main: str) -> str:
    row = stage_figures(result, main)
    if row.fraction is None or main == result.get("baseline"):
        return ""
    return f"Its whole cost, reference included, is {percent(row.fraction)} % of ERM's ({row.cost_kind})."


def _role(result: Mapping[str, Any], sets: Sequence[SetFigures], role: str, main: str, baseline: str | None) -> str:
    """One clause: how ``main`` does in one role, against the baseline where there is one."""
    chosen = mean_sets(sets, role)
    value = mean_metric(result, main, chosen)
    if value is None:
        return ""
    what = f"mean accuracy of {len(chosen)} sets" if len(chosen) > 1 else "accuracy"
    if baseline is None:
        return f"{_shown(result, main, chosen, value)} {what} {ROLE_NAMES[role]}"
    other = mean_metric(result, baseline, chosen)
    if other is None:
        return ""
    pair = f"{_shown(result, main, chosen, value)} against {_shown(result, baseline, chosen, other)} {what}"
    points = f"{100 * abs(value - other):.1f} points"
    if abs(value - other) < EVEN:
        return f"{ROLE_NAMES[role]}, {main} equals plain fine-tuning ({baseline}): {pair}"
    word = "better" if value > other else "worse"
    return f"{ROLE_NAMES[role]}, {main} is {points} {word} than plain fine-tuning ({baseline}): {pair}"


def _shown(result: Mapping[str, Any], stage: str, chosen: Sequence[SetFigures], value: float) -> str:
    """The mean; of a single set with its interval."""
    only = metric(result, stage, chosen[0].name, "metrics", "accuracy") if len(chosen) == 1 else None
    return with_interval(only) if only is not None else f"{percent(value)} %"


def _details(result: Mapping[str, Any], sets: Sequence[SetFigures], main: str, baseline: str) -> tuple[str, ...]:
    lines = []
    for one in sets:
        mine, theirs = (metric(result, stage, one.name, "metrics", "accuracy") for stage in (main, baseline))
        if mine is not None and theirs is not None:
            lines.append(f"{one.name}: {with_interval(mine)} against {with_interval(theirs)}, {verdict(mine, theirs)}")
    return tuple(lines)


def verdict(mine: Interval, theirs: Interval) -> str:
    """ "better" or "worse", and whether the intervals overlap."""
    if abs(mine.value - theirs.value) < EVEN:
        return "equal"
    word = "better" if mine.value > theirs.value else "worse"
    apart = mine.apart_from(theirs)
    return word if apart is None else f"{word}, the intervals {'do not overlap' if apart else 'overlap'}"


def with_interval(entry: Interval) -> str:
    """ "71.2 % [67.5, 74.8]"."""
    if entry.low is None or entry.high is None:
        return f"{percent(entry.value)} %"
    return f"{percent(entry.value)} % [{percent(entry.low)}, {percent(entry.high)}]"
