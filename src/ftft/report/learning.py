"""What a stage learned from, in words: how many rows, and by which rule some of them were chosen.

A selection takes a subset, or it takes everything with extra copies of the chosen, or with the chosen weighted; "60 of 240"
is true of the first alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftft.report.figures import count, dig, number, whole

SCORE_NAMES = {"aum": "AUM", "el2n": "EL2N", "dual": "DUAL", "dyn_unc": "Dyn-Unc"}
PICKED = {"copies": "copied for", "weights": "weighted for"}
BALANCES = {
    "class": "equally many of each class, as far as it has rows",
    "prior": "in the class shares of the whole set",
    "pool": "in the class shares of the whole set",
}


@dataclass(frozen=True)
class Learned:
    """``rows`` of an epoch, copies counted, over ``examples`` different ones of a ``pool`` (None: not known), of which
    ``selected`` were chosen; ``apply``: "subset", "copies" (``factor`` extra ones of each), "weights" (``factor`` : 1) or
    "epochs" (chosen anew for every epoch: the means over them)."""

    rows: int
    examples: int
    pool: int | None
    selected: int
    apply: str
    factor: float

    @property
    def share(self) -> str:
        """ "79 of 240", or "240" where nothing is left out."""
        partly = self.pool is not None and self.examples != self.pool
        return f"{count(self.examples)} of {count(self.pool)}" if partly else count(self.examples)

    @property
    def addition(self) -> str:
        """What is done to the chosen of the whole: "2 extra copies of 60", "50 of them weighted 5:1"; "" for a subset."""
        if self.apply == "copies":
            return f"{self.factor:g} extra {'copy' if self.factor == 1 else 'copies'} of {count(self.selected)}"
        return f"{count(self.selected)} of them weighted {self.factor:g}:1" if self.apply == "weights" else ""

    def words(self, noun: str = "") -> str:
        """ "79 of 240", "360 rows: 240 and 2 extra copies of 60", "all 240, 50 of them weighted 5:1", each with the
        ``noun`` behind what it counts."""
        counted = f"{self.share} {noun}".rstrip()
        if self.apply == "copies":
            return f"{count(self.rows)} rows: {counted} and {self.addition}"
        if self.apply == "epochs":
            return f"{counted} an epoch, on average"
        everything = f"all {counted}" if self.examples == self.pool else counted
        return f"{everything}, {self.addition}" if self.addition else everything


def learned(result: Mapping[str, Any], name: str) -> Learned | None:
    """What stage ``name`` learned from; None where the result does not say."""
    selection = dig(result, "stages", name, "selection")
    counts, rule = dig(selection, "counts"), dig(selection, "rule")
    selected = whole(dig(counts, "selected")) or whole(dig(selection, "examples"))
    if selected is None:
        return None
    rows = whole(dig(counts, "rows")) or whole(dig(selection, "examples")) or selected
    pool = whole(dig(result, "data", "train", "n")) or whole(dig(counts, "pool"))
    epochs = [whole(dig(one, "examples")) for one in dig(result, "stages", name, "training", "epochs") or ()]
    sizes = [size for size in epochs if size is not None]
    if sizes:
        mean = round(sum(sizes) / len(sizes))
        return Learned(mean, mean, pool, mean, "epochs", 1.0)
    apply, factor = dig(rule, "apply"), None
    if apply == "copies" and (factor := number(dig(rule, "copies"))) is not None:
        return Learned(rows, rows - int(factor) * selected, pool, selected, "copies", factor)
    if apply == "weights" and (factor := number(dig(rule, "weight"))) is not None:
        return Learned(rows, rows, pool, selected, "weights", factor)
    return Learned(selected, selected, pool, selected, "subset", 1.0)


def selection_sentence(result: Mapping[str, Any], name: str) -> str:
    """ "It learns from 60 of 240 training examples (those with the highest variability)."; "" for a stage that learns from
    all alike, and where the result does not say."""
    found, rule = learned(result, name), dig(result, "stages", name, "selection", "rule")
    counts = dig(result, "stages", name, "selection", "counts")
    if found is None or (found.apply == "subset" and found.selected == found.pool) or dig(rule, "name") in (None, "all"):
        return ""
    return f"It learns from {found.words('training examples')} ({_chosen(rule, counts)})."


def creation_sentence(result: Mapping[str, Any], name: str) -> str:
    """ "Its examples were made by s3ft: parents 12, self 4, gold 8."; "" for a stage that learns from those given."""
    made = dig(result, "stages", name, "creation")
    if made is None:
        return ""
    counts = dig(made, "counts")
    shown = [f"{key} {count(size)}" for key, value in counts.items() if (size := whole(value)) is not None] if counts else []
    return f"Its examples were made by {dig(made, 'rule', 'name')}{': ' * bool(shown)}{', '.join(shown)}."


def picked_words(rule: Any) -> str:
    """What becomes of the chosen, before the name of the stage: "selected by", "copied for", "weighted for"."""
    return PICKED.get(str(dig(rule, "apply")), "selected by")


def _chosen(rule: Any, counts: Any) -> str:
    """The rule that chose, without brackets."""
    name, score, parts = str(dig(rule, "name")), dig(rule, "score"), dig(counts, "parts")
    suspects = whole(dig(counts, "suspects_dropped")) or 0
    suspected = f"the {count(suspects)} with the lowest {_score(dig(rule, 'suspect_score'))}"
    if name == "without_suspects":
        return f"all but {suspected}, suspected to be mislabelled"
    if isinstance(parts, (list, tuple)) and parts:
        found = " and ".join(f"{count(whole(dig(part, 'selected')))} {_end(part)}" for part in parts)
    elif name == "random" or score == "random":
        found = "drawn at random"
    elif isinstance(score, str):
        found = f"those {_end(rule)}"
    else:
        found = f"chosen by {name}"
    balance = dig(rule, "prior") if name == "random" else dig(rule, "balance")
    if balance not in (None, "none"):
        found += f", {BALANCES.get(balance, balance) if isinstance(balance, str) else 'in class shares that were given'}"
    return f"{found}, after {suspected} were dropped as suspects" if suspects else found


def _end(ranking: Any) -> str:
    score = dig(ranking, "score")
    if score == "random":
        return "drawn at random"
    return f"with the {'lowest' if dig(ranking, 'largest') is False else 'highest'} {_score(score)}"


def _score(name: Any) -> str:
    return SCORE_NAMES.get(str(name), str(name).replace("_", " "))
