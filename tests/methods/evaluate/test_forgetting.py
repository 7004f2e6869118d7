"""Forgetting: the difference to the base's own figure, paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.data.examples import EvaluationSet, Examples
from ftft.methods.evaluate.forgetting import Forgetting

N = 200


def one_set(name: str, role: Any, clusters: bool = False) -> EvaluationSet:
    labels = np.random.default_rng(0).integers(0, 2, N)
    ids = pa.array([f"{name}{i}" for i in range(N)])
    groups = pa.array([str(i // 20) for i in range(N)]) if clusters else None
    return EvaluationSet(name, Examples(ids, {}, labels, ("a", "b"), name, clusters=groups), role, "test")


def right_on(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilities [N, 2] that are right where ``right`` says so."""
    predicted = np.where(right, labels, 1 - labels)
    return np.eye(2)[predicted] * 0.8 + 0.1


@dataclass
class Measured:
    sets: dict[str, EvaluationSet]
    now: np.ndarray
    before: np.ndarray

    def probabilities(self, name: str) -> np.ndarray:
        return right_on(self.sets[name].examples.labels, self.now)

    def base_probabilities(self, name: str) -> np.ndarray:
        return right_on(self.sets[name].examples.labels, self.before)


def found(now: np.ndarray, before: np.ndarray, *sets: EvaluationSet, **settings: Any) -> dict[str, Any]:
    measured = Measured({one.name: one for one in sets or (one_set("old", "forget"),)}, now, before)
    return dict(Forgetting(**settings).evaluate(measured, seed=3))  # type: ignore[arg-type]


FIRST = np.arange(N) < 120
MORE = np.arange(N) < 160


def test_the_difference_is_now_minus_before() -> None:
    accuracy = found(FIRST, MORE)["sets"]["old"]["accuracy"]
    assert (accuracy["now"]["value"], accuracy["before"]["value"]) == (0.6, 0.8)
    difference = accuracy["difference"]
    assert difference["value"] == pytest.approx(-0.2)
    # 40 of 200 examples changed, all for the worse: a binomial share of 0.2.
    error = np.sqrt(0.2 * 0.8 / N)
    assert difference["low"] == pytest.approx(-0.2 - 1.96 * error, abs=0.012)
    assert difference["high"] == pytest.approx(-0.2 + 1.96 * error, abs=0.012)
    assert found(MORE, FIRST)["sets"]["old"]["accuracy"]["difference"]["value"] == pytest.approx(0.2)


def test_what_both_get_wrong_drops_out() -> None:
    same = found(FIRST, FIRST)["sets"]["old"]["accuracy"]
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert same["now"]["high"] - same["now"]["low"] > 0.1


def test_clusters_are_drawn_whole() -> None:
    def width(one: EvaluationSet) -> float:
        difference = found(FIRST, MORE, one)["mean"]["accuracy"]["difference"]
        return difference["high"] - difference["low"]

    # The 40 examples that changed are two whole clusters of ten.
    assert width(one_set("old", "forget", clusters=True)) > 2.5 * width(one_set("old", "forget"))


def test_only_forget_sets_count_and_the_mean_is_over_sets() -> None:
    figures = found(FIRST, MORE, one_set("old", "forget"), one_set("older", "forget"), one_set("test", "id"))
    assert list(figures["sets"]) == ["old", "older"] and figures["sets"]["old"]["n"] == N
    mean, one = figures["mean"]["accuracy"]["difference"], figures["sets"]["old"]["accuracy"]["difference"]
    assert mean["value"] == pytest.approx(-0.2) and mean["high"] - mean["low"] < 0.8 * (one["high"] - one["low"])
    assert figures["sentence"].startswith(
        "on 2 sets of earlier knowledge accuracy 60.0 % after 80.0 % before: -20.0 points [-2"
    )


def test_without_resamples_there_is_no_interval() -> None:
    figures = found(FIRST, MORE, resamples=0)
    assert figures["sentence"] == "on old accuracy 60.0 % after 80.0 % before: -20.0 points"
    assert np.isnan(figures["mean"]["accuracy"]["difference"]["low"])
