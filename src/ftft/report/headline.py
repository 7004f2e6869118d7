"""The sentence a report begins with, computed from the figures: for FTFT or against it, with how sure one can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftft.report.figures import (
    ROLE_NAMES,
    Interval,
    SetFigures,
    dig,
    evaluation_sets,
    left_out,
    level,
    mean_difference,
    mean_interval,
    mean_sets,
    metric,
    percent,
    set_difference,
    sets_left_out,
    stage_figures,
    stage_names,
)
from ftft.report.guessing import collapse, role_standing
from ftft.report.measures import MEASURES, Measure, chief


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
        sentence = (
            f"Stage {main}, {plain}, reaches {' and '.join(parts)}."
            if parts
            else f"Stage {main} has no {chief(result)[1].words}."
        )
    elif parts:
        sentence = f"{'; '.join(parts)}."
        sentence = sentence[0].upper() + sentence[1:]
    else:
        sentence = f"Stages {main} and {compared} have no evaluation set in common to be compared on."
    details = _details(result, sets, main, compared) if compared is not None else ()
    first = _collapsed(result, [stage for stage in (main, compared) if stage is not None])
    said = [part for part in (*first, sentence, *_no_better(result, main), cost) if part]
    return Headline(" ".join(said), details, _caution(result))


def _collapsed(result: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    """First of all, stages that give one answer to everything: what else the headline says is said of that answer."""
    found = [fallen for stage in stages if (fallen := collapse(result, stage)) is not None]
    return [f"{fallen[0].upper()}{fallen[1:]}." for fallen in found]


def _no_better(result: Mapping[str, Any], main: str) -> list[str]:
    """Where the result's stage is no more accurate than a constant answer."""
    if collapse(result, main) is not None:
        return []
    found = {role: role_standing(result, main, role) for role in ("ood", "id")}
    said = [f"{stood[1].words} {ROLE_NAMES[role]}" for role, stood in found.items() if stood and stood[0] == "no better"]
    return [f"By accuracy, {main} is no better than {' and than '.join(said)}."] if said else []


def _caution(result: Mapping[str, Any]) -> str:
    sets = evaluation_sets(result)
    without = left_out(sets)
    return (
        f"One seed: direction only. The {level(result)} intervals are those of the evaluation sets' sampling (differences are "
        "paired: both models on the same resamples); how much another seed would change the figures is not in them."
        + (f" {without[0].upper()}{without[1:]}." if without and not mean_sets(sets, "ood") else "")
    )


def _cost(result: Mapping[str, Any], main: str) -> str:
    row = stage_figures(result, main)
    if row.fraction is None or main == result.get("baseline"):
        return ""
    missing = dig(result, "stages", main, "cost", "not_counted")
    included = "without that of the dynamics it was given" if missing else "reference included"
    return f"Its whole cost, {included}, is {percent(row.fraction)} % of ERM's ({row.cost_kind})."


def _role(result: Mapping[str, Any], sets: Sequence[SetFigures], role: str, main: str, baseline: str | None) -> str:
    """One clause: how ``main`` does in one role, against the baseline where there is one."""
    chosen, (name, told) = mean_sets(sets, role), chief(result)
    value = mean_interval(result, main, role, name)
    if value is None:
        return ""
    what = f"mean {told.words} of {len(chosen)} sets" if len(chosen) > 1 else told.words
    out = sets_left_out(sets) if role == "ood" else []
    marks = dict.fromkeys(mark for one in out for mark in one.marks)
    what += f" (without {', '.join(one.name for one in out)}, {' or '.join(marks)})" if out else ""
    if baseline is None:
        return f"{told.with_interval(value)} {what} {ROLE_NAMES[role]}"
    other, gap = mean_interval(result, baseline, role, name), mean_difference(result, main, role, name)
    if other is None or gap is None:
        return ""
    pair = f"{told.with_interval(value)} against {told.with_interval(other)} {what}"
    if abs(gap.value) < told.even:
        return f"{ROLE_NAMES[role]}, {_even(gap, f'{main} and plain fine-tuning ({baseline})', told)}: {pair}"
    apart = f"{told.amount(gap.value)} {told.better(gap.value)}"
    said = f"{ROLE_NAMES[role]}, {main} is {apart} than plain fine-tuning ({baseline})"
    return f"{said}{_certainty(gap, told)}: {pair}"


def _even(gap: Interval, between: str, told: Measure) -> str:
    """What a difference that prints as zero says: with a wide interval, only that it is not known."""
    if gap.low is None or gap.high is None:
        return f"{between} differ by less than {'a tenth of a point' if told.share else told.amount(2 * told.even)}"
    limits, zero = told.difference(gap).partition(" ")[2], told.figure(0.0)
    if max(abs(gap.low), abs(gap.high)) < told.even:
        return f"{between} do not differ: {zero} {limits}"
    return f"no difference between {between} can be told: {zero} {limits}"


def _certainty(gap: Interval, told: Measure) -> str:
    """What a paired interval says of its difference; "" without one."""
    if gap.low is None or gap.high is None:
        return ""
    limits = told.difference(gap).partition(" ")[2]
    return f", {'beyond' if gap.low > 0 or gap.high < 0 else 'within'} sampling chance {limits}"


def _details(result: Mapping[str, Any], sets: Sequence[SetFigures], main: str, baseline: str) -> tuple[str, ...]:
    lines, (name, told) = [], chief(result)
    for one in sets:
        mine, theirs = (metric(result, stage, one.name, "metrics", name) for stage in (main, baseline))
        if mine is not None and theirs is not None:
            seen = f" ({', '.join(one.facts)})" if one.facts else ""
            said = verdict(mine, theirs, set_difference(result, main, one.name, name), told)
            lines.append(f"{one.name}{seen}: {told.with_interval(mine)} against {told.with_interval(theirs)}, {said}")
    return tuple(lines)


def verdict(mine: Interval, theirs: Interval, gap: Interval | None = None, told: Measure = MEASURES["accuracy"]) -> str:
    """ "better" or "worse", and how sure: by the paired interval of the difference, else by whether the two overlap."""
    if abs(mine.value - theirs.value) < told.even:
        return _even(gap or Interval(0.0), "the two", told).replace(" between the two", "")
    word = told.better(mine.value - theirs.value)
    if gap is not None and gap.low is not None:
        return f"{word} by {told.amount(gap.value)}{_certainty(gap, told)}"
    apart = mine.apart_from(theirs)
    return word if apart is None else f"{word}, the intervals {'do not overlap' if apart else 'overlap'}"
