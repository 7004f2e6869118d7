"""Does a model do better than a constant answer? Models that give one, and accuracies that a constant one reaches.

The measure is always answering a set's most frequent class, which is right as often as that class is. Sets of one class
alone are left out: there a constant answer is no fault, and no model can be told from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ftft.report.figures import (
    Interval,
    dig,
    evaluation_sets,
    interval,
    mean_interval,
    mean_sets,
    metric,
    number,
    percent,
    stage_names,
)

Standing = Literal["better", "not clearly better", "no better"]
ROUNDING = 1e-9  # of shares that are equal


@dataclass(frozen=True)
class Guess:
    """Always answering the most frequent class: which (None: not the same one on all sets), and how often it is right."""

    label: str | None
    accuracy: float

    @property
    def words(self) -> str:
        """ "always answering toxic (46.5 %)"."""
        label = "the most frequent class of each set" if self.label is None else self.label
        return f"always answering {label} ({percent(self.accuracy)} %)"


def set_guess(result: Mapping[str, Any], set_name: str) -> Guess | None:
    """The most frequent class of a set, the first of equals; None where it is not known or the set has one class alone."""
    for stage in stage_names(result):
        found = dig(result, "stages", stage, "majority_class", set_name)
        label, accuracy = dig(found, "label"), number(dig(found, "accuracy"))
        prior = dig(result, "stages", stage, "evaluation", set_name, "class_prior")
        if accuracy is None and isinstance(prior, Mapping):
            shares = {str(name): share for name, value in prior.items() if (share := number(value)) is not None}
            label = max(shares, key=lambda name: shares[name]) if shares else None
            accuracy = None if label is None else shares[label]
        if accuracy is not None:
            return Guess(str(label), accuracy) if accuracy < 1 - ROUNDING else None
    return None


def role_guess(result: Mapping[str, Any], role: str) -> Guess | None:
    """The mean of :func:`set_guess` over the sets of a role's mean; None where one of them has none."""
    guesses = [set_guess(result, one.name) for one in mean_sets(evaluation_sets(result), role)]
    known = [guess for guess in guesses if guess is not None]
    if not known or len(known) < len(guesses):
        return None
    labels = {guess.label for guess in known}
    return Guess(known[0].label if len(labels) == 1 else None, sum(guess.accuracy for guess in known) / len(known))


def standing(accuracy: Interval, guess: Guess) -> Standing:
    """How an accuracy stands to a constant answer's: "not clearly better" where its interval reaches down to that."""
    if accuracy.value <= guess.accuracy + ROUNDING:
        return "no better"
    return "not clearly better" if accuracy.low is not None and accuracy.low <= guess.accuracy + ROUNDING else "better"


def role_standing(result: Mapping[str, Any], stage: str, role: str) -> tuple[Standing, Guess] | None:
    """How a stage's mean accuracy stands to constant answers; None where either is not known."""
    accuracy, guess = mean_interval(result, stage, role), role_guess(result, role)
    return None if accuracy is None or guess is None else (standing(accuracy, guess), guess)


def ranks(result: Mapping[str, Any], stage: str, role: str) -> float | None:
    """The mean AUROC over a role's sets where on each its interval lies above chance (1/2); None where it does not."""
    entries = [metric(result, stage, one.name, "metrics", "auroc") for one in mean_sets(evaluation_sets(result), role)]
    above = [entry.value for entry in entries if entry is not None and entry.low is not None and entry.low > 0.5]
    return sum(above) / len(above) if above and len(above) == len(entries) else None


def constant_answer(result: Mapping[str, Any], stage: str, set_name: str) -> str | None:
    """The class that a stage predicts for every example of a set; None where there is none, or it is the only one there."""
    shares = dig(result, "stages", stage, "predicted_classes", set_name)
    if not isinstance(shares, Mapping) or set_guess(result, set_name) is None:
        return None
    return next((str(label) for label, share in shares.items() if (number(share) or 0.0) >= 1 - ROUNDING), None)


def collapse(result: Mapping[str, Any], stage: str) -> str | None:
    """What a stage predicts for every example of every set on which that is a fault, as a sentence without its end."""
    sets = [one.name for one in evaluation_sets(result) if set_guess(result, one.name) is not None]
    answers = [constant_answer(result, stage, name) for name in sets]
    found = list(dict.fromkeys(answer for answer in answers if answer is not None))
    if not answers or None in answers:
        return None
    if len(found) > 1:  # sets with labels of their own
        return f"stage {stage} predicts one class for every example of each evaluation set"
    return f"stage {stage} predicts {found[0]} for every example of {'every evaluation set' if len(sets) > 1 else sets[0]}"


def guessing(result: Mapping[str, Any]) -> list[str]:
    """The warnings: stages that give one answer on a set, and stages that are no (or not clearly) more accurate than one."""
    return [sentence for stage in stage_names(result) for sentence in _of_stage(result, stage)]


def _of_stage(result: Mapping[str, Any], stage: str) -> list[str]:
    constant: dict[str, list[str]] = {}
    standings: dict[Standing, dict[str, list[str]]] = {}
    for one in evaluation_sets(result):
        accuracy, guess = metric(result, stage, one.name, "metrics", "accuracy"), set_guess(result, one.name)
        if accuracy is None or guess is None:
            continue
        answer = constant_answer(result, stage, one.name)
        if answer is not None:
            constant.setdefault(answer, []).append(f"{one.name} (right for {percent(accuracy.value)} %)")
        else:
            by_label = standings.setdefault(standing(accuracy, guess), {})
            by_label.setdefault(str(guess.label), []).append(f"{one.name} ({percent(guess.accuracy)} %)")
    sentences = [f"Stage {stage} predicts {label} for every example of {', '.join(sets)}." for label, sets in constant.items()]
    if "no better" in standings:
        sentences.append(f"By accuracy, stage {stage} is no better than always answering {_on(standings['no better'])}.")
    if "not clearly better" in standings:
        sentences.append(
            f"By accuracy, stage {stage} is not clearly better than always answering {_on(standings['not clearly better'])}: "
            "the interval reaches down to it."
        )
    return sentences


def _on(by_label: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{label} on {', '.join(sets)}" for label, sets in by_label.items())


def no_better(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For ``ftft eval``, whose figures are of one model: the sets on which it is no more accurate than a constant answer."""
    lines = []
    for name in figures:
        result = {"stages": {"": {"evaluation": figures}}}
        accuracy, guess = interval(dig(figures, name, "metrics", "accuracy")), set_guess(result, name)
        if accuracy is not None and guess is not None and standing(accuracy, guess) == "no better":
            lines.append(f"By accuracy, it is no better on {name} than {guess.words}.")
    return lines
