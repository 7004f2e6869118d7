"""Early stopping: FTFT's rule with patience 2, ties, undefined scores, directions, and patience across a resume."""

import json

import pytest

from ftft.engine.settings import StopSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import UserError


def follow(scores, **settings):
    """The evaluation (from 1) after which it stops, or None; and the rule."""
    stopping = EarlyStopping(StopSettings(**settings))
    for step, score in enumerate(scores, start=1):
        if stopping.update(step, score):
            return step, stopping
    return None, stopping


def test_stops_after_two_evaluations_that_do_not_beat_the_best():
    stopped, stopping = follow([50, 52, 51, 51.5, 99])
    assert (stopped, stopping.best_step, stopping.best_score) == (4, 2, 52)


def test_an_equal_score_is_no_improvement():
    stopped, stopping = follow([50, 50, 50])
    assert (stopped, stopping.best_step) == (3, 1)


@pytest.mark.parametrize("undefined", [float("nan"), None, float("inf"), float("-inf")])
def test_an_undefined_score_is_no_improvement(undefined):
    assert follow([50, undefined, undefined])[0] == 3
    stopped, stopping = follow([undefined, 50, 51])
    assert (stopped, stopping.best_step, stopping.waited) == (None, 3, 0)
    assert follow([undefined, undefined])[1].best_step is None


def test_an_improvement_starts_the_wait_anew():
    stopped, stopping = follow([50, 49, 51, 50, 52, 51, 50])
    assert (stopped, stopping.best_step) == (7, 5)


def test_loss_is_better_when_lower():
    stopped, stopping = follow([1.0, 0.8, 0.9, 0.8], metric="loss")
    assert (stopped, stopping.best_step, stopping.best_score) == (4, 2, 0.8)
    assert stopping.higher_is_better is False
    assert stopping.goodness(0.8) > stopping.goodness(0.9)
    assert EarlyStopping(StopSettings()).goodness(0.8) < EarlyStopping(StopSettings()).goodness(0.9)


@pytest.mark.parametrize(("metric", "scores"), [("accuracy", [0.5, 0.625, 0.75]), ("loss", [0.75, 0.625, 0.5])])
def test_a_gain_must_be_larger_than_the_minimum(metric, scores):
    # Each gain is .125; two of them together are not what the minimum asks of one evaluation, but of the best.
    assert follow(scores, metric=metric, minimum_improvement=0.125)[1].best_step == 3
    assert follow(scores, metric=metric, minimum_improvement=0.25)[0] == 3
    assert follow(scores, metric=metric, minimum_improvement=0.0625)[1].waited == 0


def test_patience_survives_a_resume():
    scores = [50, 52, 51, 51.5]
    for cut in range(len(scores)):
        first = EarlyStopping(StopSettings())
        for step in range(cut):
            first.update(step, scores[step])
        second = EarlyStopping(StopSettings())
        second.load_state(json.loads(json.dumps(first.state())))
        decisions = [second.update(step, scores[step]) for step in range(cut, len(scores))]
        assert decisions == [False] * (3 - cut) + [True]
        assert second.best_step == 1


def test_stopped_tells_a_resumed_run_that_it_had_ended():
    _, finished = follow([2, 1, 1])
    again = EarlyStopping(StopSettings())
    assert not again.stopped
    again.load_state(finished.state())
    assert again.stopped


def test_an_evaluation_cannot_be_counted_twice():
    stopping = EarlyStopping(StopSettings())
    stopping.update(10, 0.5)
    with pytest.raises(ValueError, match="step 10 was evaluated after step 10"):
        stopping.update(10, 0.5)


def test_the_state_of_another_metric_is_refused():
    with pytest.raises(ValueError, match="accuracy"):
        EarlyStopping(StopSettings(metric="loss")).load_state(EarlyStopping(StopSettings(metric="accuracy")).state())


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r"stop\.patience is 0"):
        EarlyStopping(StopSettings(patience=0))
    with pytest.raises(UserError, match=r"stop\.minimum_improvement"):
        EarlyStopping(StopSettings(minimum_improvement=-0.1))
