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
    points,
    seen_sets,
    set_difference,
    stage_figures,
    stage_names,
)
from ftft.report.guessing import collapse, role_standing

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
    chosen = mean_sets(sets, role)
    value = mean_interval(result, main, role)
    if value is None:
        return ""
    what = f"mean accuracy of {len(chosen)} sets" if len(chosen) > 1 else "accuracy"
    seen = seen_sets(sets) if role == "ood" else []
    what += f" (without {', '.join(one.name for one in seen)}, seen)" if seen else ""
    if baseline is None:
        return f"{with_interval(value)} {what} {ROLE_NAMES[role]}"
    other, gap = mean_interval(result, baseline, role), mean_difference(result, main, role)
    if other is None or gap is None:
        return ""
    pair = f"{with_interval(value)} against {with_interval(other)} {what}"
    if abs(gap.value) < EVEN:
        return f"{ROLE_NAMES[role]}, {_even(gap, f'{main} and plain fine-tuning ({baseline})')}: {pair}"
    word = "better" if gap.value > 0 else "worse"
    said = f"{ROLE_NAMES[role]}, {main} is {100 * abs(gap.value):.1f} points {word} than plain fine-tuning ({baseline})"
    return f"{said}{_certainty(gap)}: {pair}"


def _even(gap: Interval, between: str) -> str:
    """What a difference that prints as zero says: with a wide interval, only that it is not known."""
    if gap.low is None or gap.high is None:
        return f"{between} differ by less than a tenth of a point"
    limits = points(gap).partition(" ")[2]
    if max(abs(gap.low), abs(gap.high)) < EVEN:
        return f"{between} do not differ: 0.0 {limits}"
    return f"no difference between {between} can be told: 0.0 {limits}"


def _certainty(gap: Interval) -> str:
    """What a paired interval says of its difference; "" without one."""
    if gap.low is None or gap.high is None:
        return ""
    limits = points(gap).partition(" ")[2]
    return f", {'beyond' if gap.low > 0 or gap.high < 0 else 'within'} sampling chance {limits}"


def _details(result: Mapping[str, Any], sets: Sequence[SetFigures], main: str, baseline: str) -> tuple[str, ...]:
    lines = []
    for one in sets:
        mine, theirs = (metric(result, stage, one.name, "metrics", "accuracy") for stage in (main, baseline))
        if mine is not None and theirs is not None:
            seen = f" (seen by the model of {', '.join(one.seen_by)})" if one.seen_by else ""
            said = verdict(mine, theirs, set_difference(result, main, one.name))
            lines.append(f"{one.name}{seen}: {with_interval(mine)} against {with_interval(theirs)}, {said}")
    return tuple(lines)


def verdict(mine: Interval, theirs: Interval, gap: Interval | None = None) -> str:
    """ "better" or "worse", and how sure: by the paired interval of the difference, else by whether the two overlap."""
    if abs(mine.value - theirs.value) < EVEN:
        return _even(gap or Interval(0.0), "the two").replace(" between the two", "")
    word = "better" if mine.value > theirs.value else "worse"
    if gap is not None and gap.low is not None:
        return f"{word} by {100 * abs(gap.value):.1f} points{_certainty(gap)}"
    apart = mine.apart_from(theirs)
    return word if apart is None else f"{word}, the intervals {'do not overlap' if apart else 'overlap'}"


def with_interval(entry: Interval) -> str:
    """ "71.2 % [67.5, 74.8]"."""
    if entry.low is None or entry.high is None:
        return f"{percent(entry.value)} %"
    return f"{percent(entry.value)} % [{percent(entry.low)}, {percent(entry.high)}]"
