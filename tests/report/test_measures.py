"""Scores are told in their own words and units, and the better one is the one that is better."""

from __future__ import annotations

import pytest

from ftft.comparison.suite import OF_SEQUENCES
from ftft.engine.settings import StopSettings
from ftft.engine.stopping import EarlyStopping
from ftft.report.figures import Interval
from ftft.report.headline import verdict
from ftft.report.measures import MEASURES, compared, legend, measure_of
from ftft.tasks.metrics import LOWER_IS_BETTER, METRICS, STEERING, UNBOUNDED

LOSS, ACCURACY = MEASURES["loss"], MEASURES["accuracy"]


def test_a_lower_loss_is_better_and_a_higher_accuracy_is() -> None:
    assert (LOSS.better(-0.1), LOSS.better(0.1)) == ("better", "worse")
    assert (ACCURACY.better(-0.1), ACCURACY.better(0.1)) == ("worse", "better")
    mine, theirs, gap = Interval(2.0), Interval(2.5), Interval(-0.5, -0.75, -0.25)
    said = verdict(mine, theirs, gap, LOSS)
    assert said == "better by 0.500 nats per token, beyond sampling chance [-0.750, -0.250]"
    assert verdict(mine, Interval(2.0002), Interval(-0.0002, -0.1, 0.1), LOSS).startswith("no difference can be told: 0.000")


def test_figures_and_differences_stand_in_their_units() -> None:
    entry = Interval(0.5, 0.25, 0.75)
    assert ACCURACY.with_interval(entry) == "50.0 % [25.0, 75.0]" and LOSS.with_interval(entry) == "0.500 [0.250, 0.750]"
    assert ACCURACY.difference(entry) == "+50.0 [+25.0, +75.0]" and LOSS.difference(entry) == "+0.500 [+0.250, +0.750]"
    assert (ACCURACY.scale, LOSS.scale, MEASURES["perplexity"].scale) == ("points of accuracy", "nats per token", "perplexity")
    assert LOSS.difference(None) == "-" and measure_of("bits_per_byte").words == "bits per byte"


def test_every_score_is_told_by_name_and_what_is_better_is_said_in_one_place() -> None:
    for name in (*METRICS, *STEERING, *OF_SEQUENCES):
        told = measure_of(name)
        assert name in MEASURES and (told.lower, told.share) == (name in LOWER_IS_BETTER, name not in UNBOUNDED)
        assert EarlyStopping(StopSettings(metric=name)).higher_is_better != told.lower
    assert set(LOWER_IS_BETTER) | set(UNBOUNDED) <= set(MEASURES)
    corrected = measure_of("prior_corrected.macro_f1")
    assert (corrected.words, corrected.figure(0.5)) == ("prior-corrected macro-F1", "50.0")
    assert measure_of("ece").figure(0.1) == "10.0" and measure_of("log_loss").figure(0.1) == "0.100"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, "Accuracy in per cent with {level} bootstrap intervals, and macro-F1"),
        (["exact_match", "loss"], "Exact match in per cent with {level} bootstrap intervals, and loss"),
        (
            ["loss", "perplexity"],
            "Loss in nats per token (lower is better) with {level} bootstrap intervals, and perplexity (ppl)",
        ),
    ],
)
def test_the_legend_names_what_a_result_is_compared_by(names: list[str] | None, said: str) -> None:
    result = {} if names is None else {"compared": names}
    assert legend(result) == said and compared(result)[0] == (names or ["accuracy"])[0]
