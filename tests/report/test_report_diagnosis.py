"""The diagnosis says what the figures show, of the data map only where it was selected by, and states no cause."""

from __future__ import annotations

from typing import Any

import pytest

from ftft.report.diagnosis import diagnoses

MAP = {"fraction": 0.25, "overlap": 0.0, "easy": 0.5}
TOP = {"name": "top", "score": "variability", "largest": True, "fraction": 0.25, "balance": "none", "apply": "subset"}


def said(result: dict[str, Any], rule: dict[str, Any], **counts: Any) -> str:
    main = result["stages"]["main"]
    main["diagnosis"] = MAP
    counts = {"pool": 240, "selected": 60, "rows": 60, **counts}
    main["selection"] = {"rule": rule, "counts": counts, "examples": counts["rows"]}
    return " ".join(diagnoses(result)["main"])


def reference(result: dict[str, Any], accuracy: float, auroc: float = 0.5, half: float = 0.03, majority: float = 0.5) -> None:
    one = result["stages"]["reference"]
    one["means"] = None
    for name, value in (("accuracy", accuracy), ("auroc", auroc)):
        one["evaluation"]["test"]["metrics"][name] = {"value": value, "low": value - half, "high": value + half}
    for stage in result["stages"].values():
        stage["majority_class"]["test"] = {"label": "follows", "accuracy": majority}


def test_four_selections_give_four_diagnoses_and_only_variability_hears_of_the_map(result: dict[str, Any]) -> None:
    ends = [{"score": "variability", "largest": largest, "selected": n} for largest, n in ((True, 42), (False, 18))]
    found = [
        said(result, TOP),
        said(result, {**TOP, "score": "aum", "largest": False, "apply": "copies", "copies": 2}, rows=180),
        said(result, {**TOP, "score": "dual", "apply": "weights", "weight": 5.0}, rows=240),
        said(result, {**TOP, "name": "both_ends"}, parts=ends),
    ]
    assert len(set(found)) == 4
    assert ["most ambiguous" in text for text in found] == [True, False, False, False]
    assert "(those with the lowest AUM)" in found[1] and "60 of them weighted 5:1 (those with the highest DUAL)" in found[2]
    assert "(42 with the highest variability and 18 with the lowest variability)" in found[3]
    for text in found:
        assert not any(cause in text for cause in ("never came to", "take their place", "looks like this", "wavers"))


def test_the_map_is_given_with_what_unrelated_parts_would_share(result: dict[str, Any]) -> None:
    assert "0.0 % are also among the 25 % hardest to learn (of unrelated ones 25 % would be)" in said(result, TOP)
    assert "possible here: 50 to 75 %" in said(result, TOP) and "it names no threshold" in said(result, TOP)
    assert "most ambiguous" not in said(result, {**TOP, "largest": False})


@pytest.mark.parametrize("accuracy", [0.465, 0.5])
def test_a_reference_at_or_below_the_majority_class_is_said_first_to_be_no_better_than_guessing(
    accuracy: float, result: dict[str, Any]
) -> None:
    reference(result, accuracy)
    text = said(result, TOP)
    assert text.startswith(
        f"The reference (stage reference) is no better than guessing: it is right in {100 * accuracy:.1f} % of the ID examples "
        "(main: 92.4 %, erm: 94.1 %), against always answering follows (50.0 %)."
    )
    assert "Nothing is read into the map of a reference that may be guessing." in text and "threshold" not in text


def test_a_collapsed_reference_is_said_to_be_one(result: dict[str, Any]) -> None:
    reference(result, 0.5)
    shares = {"does_not_follow": 0.0, "follows": 1.0}
    result["stages"]["reference"]["predicted_classes"] = dict.fromkeys(result["data"]["evaluation"], shares)
    assert "Stage reference predicts follows for every example of every evaluation set." in said(result, TOP)


def test_a_reference_that_ranks_well_is_not_said_to_guess_in_all(result: dict[str, Any]) -> None:
    reference(result, 0.81, auroc=0.82, majority=0.82)
    text = said(result, TOP)
    assert text.startswith("By accuracy the reference (stage reference) is no better than guessing: it is right in 81.0 %")
    assert "It does rank the ID examples better than chance (AUROC 0.82)." in text and "Nothing is read" not in text


def test_a_reference_whose_interval_reaches_the_majority_class_is_not_clearly_better(result: dict[str, Any]) -> None:
    reference(result, 0.52)
    text = said(result, TOP)
    assert "is right in 52.0 % of the ID examples (main: 92.4 %, erm: 94.1 %), not clearly better than always answering" in text
    assert "Nothing is read into the map" in text
    reference(result, 0.9)
    assert said(result, TOP).startswith("The reference (stage reference) is right in 90.0 % of the ID examples (main")


def test_an_old_result_says_nothing_that_it_does_not_hold(result: dict[str, Any]) -> None:
    for stage in result["stages"].values():
        del stage["majority_class"], stage["predicted_classes"]
        for one in stage["evaluation"].values():
            del one["class_prior"]
    result["stages"]["main"]["selection"]["rule"] = {}
    result["stages"]["main"]["diagnosis"] = MAP
    text = " ".join(diagnoses(result)["main"])
    assert text.startswith("The reference (stage reference) is right in 90.9 %") and "ambiguous" not in text
    assert "guessing" not in text and "learns from 79" not in text
