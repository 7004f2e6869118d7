"""A model that answers the same to everything, or no better than one that does, is told before its figures are."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import pytest
from rich.console import Console

from ftft.report.card import model_card
from ftft.report.evaluation_table import print_evaluation
from ftft.report.guessing import collapse, guessing, role_guess, set_guess
from ftft.report.headline import headline
from ftft.report.page import page
from ftft.report.parts import Parts
from ftft.report.terminal import print_result

SETS = ("validation", "test", "no_shortcut", "reversed_shortcut", "new_words")
PRIOR = {"does_not_follow": 0.535, "follows": 0.465}


def figure(value: float, half: float = 0.033) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def answers(
    result: dict[str, Any], stage: str, shares: dict[str, float], accuracy: float, sets: tuple[str, ...] = SETS
) -> None:
    """Let a stage predict these shares on the sets, with this accuracy, in a result of one prior for all sets."""
    for one in result["stages"].values():
        for name in SETS:
            one["evaluation"][name]["class_prior"] = dict(PRIOR)
            one["majority_class"][name] = {"label": "does_not_follow", "accuracy": 0.535}
    one = result["stages"][stage]
    for name in sets:
        one["predicted_classes"][name] = shares
        one["evaluation"][name]["metrics"]["accuracy"] = figure(accuracy)
        one["evaluation"][name]["metrics"]["auroc"] = figure(0.5)
    one["means"] = None


def terminal(result: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_result(result, Console(file=stream, width=80, color_system=None))
    return " ".join(stream.getvalue().split())


def words_of_page(result: dict[str, Any]) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page(result, Parts()))).split())


def test_a_collapsed_stage_is_told_first_and_warned_of_everywhere(result: dict[str, Any]) -> None:
    answers(result, "main", {"does_not_follow": 0.0, "follows": 1.0}, 0.465)
    assert headline(result).sentence.startswith("Stage main predicts follows for every example of every evaluation set. ")
    warning = "Stage main predicts follows for every example of test (right for 46.5 %), validation (right for 46.5 %), "
    warnings = [sentence for sentence in guessing(result) if "stage main" in sentence.lower()]
    assert len(warnings) == 1 and warnings[0].endswith("new_words (right for 46.5 %).")
    assert all(name in warnings[0] for name in SETS)
    page_words = words_of_page(result)
    assert page_words.index("Warnings") < page_words.index("predicts follows for every example of test (right")
    assert f"Warning: {warning}" in terminal(result)
    assert f"- {warnings[0]}" in model_card(result).partition("## Warnings")[2]


def test_a_collapsed_baseline_is_told_as_well(result: dict[str, Any]) -> None:
    answers(result, "erm", {"does_not_follow": 1.0, "follows": 0.0}, 0.535)
    found = headline(result).sentence
    assert found.startswith("Stage erm predicts does_not_follow for every example of every evaluation set. ")


def test_one_answer_on_one_set_alone_is_no_collapse_but_a_warning(result: dict[str, Any]) -> None:
    answers(result, "main", {"does_not_follow": 0.0, "follows": 1.0}, 0.465, ("new_words",))
    assert collapse(result, "main") is None and "every evaluation set" not in headline(result).sentence
    assert "Stage main predicts follows for every example of new_words (right for 46.5 %)." in guessing(result)


def test_a_set_of_one_class_shows_no_collapse(result: dict[str, Any]) -> None:
    main = result["stages"]["main"]
    for stage in result["stages"].values():
        stage["majority_class"]["test"] = {"label": "follows", "accuracy": 1.0}
        stage["evaluation"]["test"]["class_prior"] = {"does_not_follow": 0.0, "follows": 1.0}
    main["predicted_classes"]["test"] = {"does_not_follow": 0.0, "follows": 1.0}
    main["evaluation"]["test"]["metrics"]["accuracy"] = figure(1.0, 0.0)
    assert set_guess(result, "test") is None and role_guess(result, "id") is None
    assert not [sentence for sentence in guessing(result) if "main" in sentence]


def test_an_accuracy_that_a_constant_answer_reaches_is_said(result: dict[str, Any]) -> None:
    answers(result, "main", {"does_not_follow": 0.7, "follows": 0.3}, 0.5, ("test",))
    answers(result, "main", {"does_not_follow": 0.7, "follows": 0.3}, 0.55, ("new_words",))
    warnings = guessing(result)
    assert "By accuracy, stage main is no better than always answering does_not_follow on test (53.5 %)." in warnings
    unclear = "By accuracy, stage main is not clearly better than always answering does_not_follow on new_words (53.5 %): "
    assert any(sentence.startswith(unclear) for sentence in warnings)
    said = "By accuracy, main is no better than always answering does_not_follow (53.5 %) in distribution."
    assert said in headline(result).sentence and said in model_card(result) and said in terminal(result)
    assert "53.5 % does_not_follow" in words_of_page(result)


def test_an_old_result_has_its_majority_class_from_the_prior_and_no_word_of_predictions(result: dict[str, Any]) -> None:
    answers(result, "main", {"does_not_follow": 0.0, "follows": 1.0}, 0.465)
    for stage in result["stages"].values():
        del stage["predicted_classes"], stage["majority_class"]
    found = set_guess(result, "test")
    assert found is not None and found.words == "always answering does_not_follow (53.5 %)"
    assert collapse(result, "main") is None and not any("every example" in sentence for sentence in guessing(result))
    for stage in result["stages"].values():
        for one in stage["evaluation"].values():
            del one["class_prior"]
    assert guessing(result) == [] and words_of_page(result)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.3, 0.3, "no difference between main and plain fine-tuning (erm) can be told: 0.0 [-30.0, +30.0]: "),
        (0.0, 0.0, "main and plain fine-tuning (erm) do not differ: 0.0 [+0.0, +0.0]: "),
        (None, None, "main and plain fine-tuning (erm) differ by less than a tenth of a point: "),
    ],
)
def test_a_zero_difference_says_no_more_than_its_interval(
    low: float | None, high: float | None, said: str, result: dict[str, Any]
) -> None:
    main, erm = (result["stages"][name] for name in ("main", "erm"))
    for stage in (main, erm):
        stage["means"] = None
        stage["evaluation"]["test"]["metrics"]["accuracy"] = {"value": 0.5, "low": 0.35, "high": 0.65}
    gap = {"value": 0.0, "low": low, "high": high}
    versus = main["versus_baseline"]
    versus["sets"]["test"] = {"accuracy": gap, "macro_f1": gap}
    versus["means"]["id"] = {"sets": ["test"], "accuracy": gap, "macro_f1": gap}
    found = headline(result)
    assert f"in distribution, {said}50.0 % [35.0, 65.0] against 50.0 % [35.0, 65.0]" in found.sentence
    line = next(line for line in found.details if line.startswith("test:"))
    if low == -0.3:
        assert line.endswith("no difference can be told: 0.0 [-30.0, +30.0]")
    assert "equal" not in f"{found.sentence}{found.details}"


def test_ftft_eval_says_where_a_model_is_no_better_than_a_constant_answer(result: dict[str, Any]) -> None:
    answers(result, "main", {"does_not_follow": 0.7, "follows": 0.3}, 0.5, ("test",))
    stream = io.StringIO()
    print_evaluation(result["stages"]["main"]["evaluation"], Console(file=stream, width=200, color_system=None))
    said = stream.getvalue()
    assert "By accuracy, it is no better on test than always answering does_not_follow (53.5 %)." in said
    assert said.count("no better") == 1


def test_the_label_of_average_precision_is_named_in_page_and_card(result: dict[str, Any]) -> None:
    said = "Average precision is that of follows, the second of the two labels; AUROC is the same for both."
    card = model_card(result)
    assert said in words_of_page(result) and said in card
    assert "| AUROC | Average precision |" in card and "| 0.806 | 0.795 |" in card
    for stage in result["stages"].values():
        del stage["evaluation"]["test"]["class_prior"]  # an old result: the labels of the model, which are two
        stage["evaluation"]["new_words"]["class_prior"] = {"entails": 0.4, "does not entail": 0.6}
        stage["evaluation"]["no_shortcut"]["class_prior"] = {"a": 0.2, "b": 0.3, "c": 0.5}
    text = words_of_page(result)
    assert "that of follows on test, validation, reversed_shortcut and does not entail on new_words, the second" in text
    assert "Over more than two labels AUROC and average precision are means of each label against the rest." in text
