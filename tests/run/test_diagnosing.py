"""The data map is the reference's: at FTFT's q, and at a selection's own only where that took the most ambiguous."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.diagnostics import reference_diagnostics
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.run.diagnosing import by_variability, diagnose_map, diagnosed_fraction

VARIABILITY = {"name": "top", "score": "variability", "largest": True, "fraction": None, "count": None}


def dynamics(epochs: int = 4, rows: int = 40) -> Dynamics:
    logits = np.random.default_rng(3).normal(size=(epochs, rows, 2)).astype(np.float32)
    ids = pa.array([f"r{row:02d}" for row in range(rows)])
    seen = np.ones((epochs, rows), dtype=bool)
    return Dynamics(ids, tuple(range(epochs)), seen, np.arange(rows, dtype=np.int32) % 2, logits=logits)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fraction": 0.25}, 0.25),
        ({"count": 10}, 0.25),
        ({"fraction": 0.25, "score": "aum"}, 0.33),
        ({"count": 10, "score": "dual"}, 0.33),
        ({"fraction": 0.25, "largest": False}, 0.33),
        ({"fraction": 0.25, "name": "both_ends"}, 0.33),
        ({"fraction": 0.25, "name": "random"}, 0.33),
    ],
)
def test_only_a_selection_of_the_most_ambiguous_sets_the_fraction(changes: dict[str, Any], expected: float) -> None:
    rule = {**VARIABILITY, **changes}
    assert diagnosed_fraction(rule, 40) == expected
    found = diagnose_map(dynamics(), rule, dynamics().ids)
    assert found is not None and found["fraction"] == expected
    assert by_variability(rule) == (expected == 0.25)


def test_only_a_selection_of_the_most_ambiguous_sets_the_epochs() -> None:
    whole = dynamics()
    for score, epochs in (("variability", [1, 2, 3]), ("aum", [0, 1, 2, 3])):
        rule = {**VARIABILITY, "score": score, "fraction": 0.33, "drop_first_epochs": 1, "epochs": None}
        found = diagnose_map(whole, rule, whole.ids)
        assert found is not None and found["epochs"] == epochs
        scores = compute_scores(whole.only_epochs(epochs), ["confidence", "variability"], ddof=0)
        expected = reference_diagnostics(scores["confidence"], scores["variability"], whole.ids, fraction=0.33)
        assert found["overlap"] == expected.overlap and found["mean_confidence"] == expected.mean_confidence


def test_dynamics_of_one_epoch_have_no_map() -> None:
    assert diagnose_map(dynamics(epochs=1), VARIABILITY, dynamics().ids) is None
