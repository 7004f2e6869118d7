"""What a stage learned from and by whose dynamics, in words: the reference, the selection, the data map, the class prior.

Said is what the figures show. Of the data map only a stage hears that learned from its most ambiguous examples. With the
overlap o of the q most ambiguous and the q hardest examples the easy part is 1 - 2q + q*o, between 1 - 2q (o = 0; not below
0) and 1 - q (o = 1); two unrelated parts would have o = q (:mod:`ftft.dynamics.diagnostics`). FTFT gives the sign of a good
reference (the two overlap, and much is easy) without a threshold, so none is set here; and of a reference that guesses
nothing is read at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftft.report.figures import dig, mean_interval, number, percent, stage_names
from ftft.report.guessing import collapse, ranks, role_standing
from ftft.report.learning import creation_sentence, selection_sentence
from ftft.run.diagnosing import by_variability

SHIFTED = 0.05  # total variation of the class prior from which it is called a shift


def diagnoses(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stage -> what can be said of the dynamics and the rows that it learned from; stages without either are left out."""
    found = {
        name: [
            creation_sentence(result, name),
            *_reference(result, name),
            selection_sentence(result, name),
            *_map(result, name),
            *_prior(result, name),
        ]
        for name in stage_names(result)
    }
    kept = {name: [sentence for sentence in sentences if sentence] for name, sentences in found.items()}
    return {name: sentences for name, sentences in kept.items() if sentences}


def _reference(result: Mapping[str, Any], name: str) -> list[str]:
    used = dig(result, "stages", name, "dynamics_used")
    if used is None:
        return []
    stage = dig(used, "stage")
    if not isinstance(stage, str):
        return [f"It selects by the dynamics in {dig(used, 'source')}; how accurate their model is, is not known here."]
    own = mean_interval(result, stage, "id")
    if own is None:
        return []
    others = [other for other in dict.fromkeys((name, result.get("baseline"))) if other in stage_names(result)]
    means = {other: mean_interval(result, other, "id") for other in others if other != stage}
    beside = [f"{other}: {percent(mean.value)} %" for other, mean in means.items() if mean is not None]
    against = f" ({', '.join(beside)})" if beside else ""
    right = f"right in {percent(own.value)} % of the ID examples"
    stood = role_standing(result, stage, "id")
    if stood is None or stood[0] == "better":
        return [f"The reference (stage {stage}) is {right}{against}."]
    how, guess = stood
    if how == "not clearly better":
        return [f"The reference (stage {stage}) is {right}{against}, not clearly better than {guess.words}."]
    auroc = ranks(result, stage, "id")
    found = [
        f"{'The' if auroc is None else 'By accuracy the'} reference (stage {stage}) is no better than guessing: it is "
        f"{right}{against}, against {guess.words}."
    ]
    if auroc is not None:
        found.append(f"It does rank the ID examples better than chance (AUROC {auroc:.2f}).")
    fallen = collapse(result, stage)
    return [*found, *([f"{fallen[0].upper()}{fallen[1:]}."] if fallen else [])]


def _may_guess(result: Mapping[str, Any], name: str) -> bool:
    """Whether nothing shows that the reference of a stage does better than a constant answer, its ranking neither."""
    stage = dig(result, "stages", name, "dynamics_used", "stage")
    stood = role_standing(result, stage, "id") if isinstance(stage, str) else None
    return stood is not None and stood[0] != "better" and ranks(result, str(stage), "id") is None


def _map(result: Mapping[str, Any], name: str) -> list[str]:
    found, rule = dig(result, "stages", name, "diagnosis"), dig(result, "stages", name, "selection", "rule")
    q, overlap, easy = (number(dig(found, key)) for key in ("fraction", "overlap", "easy"))
    if q is None or overlap is None or easy is None or not isinstance(rule, Mapping) or not by_variability(rule):
        return []
    share = f"{100 * q:.3g} %"
    least, most = percent(max(0.0, 1 - 2 * q), 0), percent(1 - q, 0)
    said = (
        f"Of the {share} most ambiguous training examples {percent(overlap)} % are also among the {share} hardest to learn "
        f"(of unrelated ones {share} would be), and {percent(easy)} % of all are easy, that is neither (possible here: {least} "
        f"to {most} %)."
    )
    if _may_guess(result, name):
        return [said, "Nothing is read into the map of a reference that may be guessing."]
    return [said, "By FTFT's account a good reference shows a large overlap and a large easy part; it names no threshold."]


def _prior(result: Mapping[str, Any], name: str) -> list[str]:
    prior = dig(result, "stages", name, "class_prior")
    shift = number(dig(prior, "total_variation"))
    whole, chosen = dig(prior, "training"), dig(prior, "selected")
    if shift is None or not isinstance(whole, Mapping) or not isinstance(chosen, Mapping):
        return []
    changes = {label: (number(chosen.get(label)), number(share)) for label, share in whole.items()}
    known = {label: (mine, all_) for label, (mine, all_) in changes.items() if mine is not None and all_ is not None}
    if not known:
        return []
    label = max(known, key=lambda one: abs(known[one][0] - known[one][1]))
    mine, all_ = known[label]
    said = f"Of what it learns from {percent(mine)} % is {label}, of the training set {percent(all_)} %"
    if shift < SHIFTED:
        return [f"{said}: the class prior is about the same (total variation {percent(shift)} %)."]
    return [
        f"{said}: the class prior is shifted (total variation {percent(shift)} %), which on a differently balanced set can "
        "look like robustness; the prior-corrected figures help to tell the two apart."
    ]
