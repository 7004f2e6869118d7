"""Why FTFT helped or did not, in words: the reference, its data map, and the class prior of what was selected.

Formulas: :mod:`ftft.dynamics.diagnostics`. Overlap o of the q most ambiguous and the q hardest examples: the easy part is
1 - 2q + q*o, so that it lies between 1 - 2q (o = 0; not below 0) and 1 - q (o = 1). FTFT gives the sign of a good reference
(the two overlap, and much is easy) and no threshold; the words change at the middle, o = 1/2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftft.report.figures import dig, mean_interval, number, percent, stage_names

SHIFTED = 0.05  # total variation of the class prior from which it is called a shift


def diagnoses(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stage -> what can be said of the dynamics and the rows that it learned from; stages without either are left out."""
    found = {name: [*_reference(result, name), *_map(result, name), *_prior(result, name)] for name in stage_names(result)}
    return {name: sentences for name, sentences in found.items() if sentences}


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
    return [f"The reference (stage {stage}) is right in {percent(own.value)} % of the ID examples{against}."]


def _map(result: Mapping[str, Any], name: str) -> list[str]:
    found = dig(result, "stages", name, "diagnosis")
    q, overlap, easy = (number(dig(found, key)) for key in ("fraction", "overlap", "easy"))
    if q is None or overlap is None or easy is None:
        return []
    share = f"{100 * q:.3g} %"
    least, most = percent(max(0.0, 1 - 2 * q), 0), percent(1 - q, 0)
    said = (
        f"Of the {share} most ambiguous training examples {percent(overlap)} % are also among the {share} hardest to learn, "
        f"and {percent(easy)} % of all are easy, that is neither (possible here: {least} to {most} %)."
    )
    if overlap < 0.5:
        reading = (
            f"So {percent(1 - overlap)} % of what the reference finds hard is not among what it wavers on: it never came to "
            "fit these, and easier examples take their place; a weak reference looks like this."
        )
    else:
        reading = "So most of what the reference finds hard is what it wavers on, as with a good reference."
    return [said, reading]


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
        "look like robustness; the prior-corrected figures tell the two apart."
    ]
