"""What the reference's dynamics and the selection made of the training set, in figures.

Two things are told. The reference's data map: overlap of the ambiguous and the hard-to-learn examples, and the easy rest
(:mod:`ftft.dynamics.diagnostics`). It is a property of the reference, so that it is taken at FTFT's q over all epochs; only
for a selection of the most ambiguous is it taken at that selection's own q and epochs. And the class prior of what the
stage learns from against that of the whole set: on a differently balanced set a shift of it alone can look like robustness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.examples import Examples
from ftft.dynamics.diagnostics import reference_diagnostics
from ftft.dynamics.scores import available_scores, choose_epochs, compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection

FTFT_FRACTION = 0.33


def by_variability(rule: Mapping[str, Any]) -> bool:
    """Whether a selection's rule chooses the most ambiguous examples and no others, as FTFT does."""
    return rule.get("name") == "top" and rule.get("score") == "variability" and rule.get("largest") is True


def diagnosed_fraction(rule: Mapping[str, Any], examples: int) -> float:
    """The q of the data map over ``examples``: what a rule that is :func:`by_variability` chooses; FTFT's for any other."""
    fraction, count = rule.get("fraction"), rule.get("count")
    if by_variability(rule) and isinstance(fraction, (int, float)) and 0 < fraction <= 1:
        return float(fraction)
    if by_variability(rule) and isinstance(count, int) and examples:
        return min(1.0, count / examples)
    return FTFT_FRACTION


def diagnose_map(dynamics: Dynamics, rule: Mapping[str, Any], train_ids: pa.Array) -> dict[str, Any] | None:
    """The reference diagnostics of the training examples, at the q and over the epochs that suit the selection's ``rule``;
    None where the dynamics have no probabilities in two epochs."""
    try:
        own = rule if by_variability(rule) else {}
        epochs = choose_epochs(dynamics, drop_first=int(own.get("drop_first_epochs") or 0), only=own.get("epochs"))
        chosen = dynamics.only_epochs(epochs)
        if not {"confidence", "variability"} <= set(available_scores(chosen)):
            return None
        scores = compute_scores(chosen, ["confidence", "variability"], ddof=0)
        rows = pc.index_in(train_ids.cast(pa.large_string()), value_set=chosen.ids.cast(pa.large_string()))
        kept = np.asarray(rows.drop_null()).astype(np.int64)
        confidence, variability = (scores[name][kept] for name in ("confidence", "variability"))
        q = diagnosed_fraction(rule, len(kept))
        found = reference_diagnostics(confidence, variability, chosen.ids.take(pa.array(kept)), fraction=q)
    except UserError:  # dynamics without a map still select; the report then goes without a diagnosis
        return None
    return {**asdict(found), "epochs": list(chosen.epochs)}


def class_prior(selection: Selection, train: Examples) -> dict[str, Any] | None:
    """The class shares of the training set and of what is learned from (copies and weights counted), and their total
    variation: half the sum of the absolute differences. None where every example counts the same, or
    rows have no classes."""
    rows = pc.index_in(selection.ids.cast(pa.large_string()), value_set=train.ids.cast(pa.large_string()))
    weights = np.asarray(selection.weights, dtype=np.float64)
    amount = np.bincount(np.asarray(rows.fill_null(0)).astype(np.int64), weights=weights, minlength=len(train))
    if len(train) == 0 or not train.label_names or np.ptp(amount) == 0:
        return None
    classes = len(train.label_names)
    whole = np.bincount(train.labels, minlength=classes) / len(train)
    learned = np.bincount(train.labels, weights=amount, minlength=classes) / amount.sum()
    return {
        "training": dict(zip(train.label_names, whole.tolist())),
        "selected": dict(zip(train.label_names, learned.tolist())),
        "total_variation": float(np.abs(whole - learned).sum() / 2),
    }
