"""last takes the highest step, best the highest score and the earliest of equal ones; only the chosen one is loaded."""

from __future__ import annotations

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.combine.best import Best
from ftft.methods.combine.last import Last
from ftft.methods.contract import Checkpoint, Combiner


def checkpoints(*scores):
    """Checkpoints of steps 10, 20, ... and the list of steps that have been loaded."""
    loaded = []

    def load(step):
        loaded.append(step)
        return {"weight": torch.tensor(float(step))}

    made = [Checkpoint(10 * n, score, lambda step=10 * n: load(step)) for n, score in enumerate(scores, start=1)]
    return made, loaded


def refuse():
    raise AssertionError("the pretrained weights are not needed")


@pytest.mark.parametrize(
    ("scores", "step"),
    [((0.5, 0.9, 0.7), 20), ((0.9, 0.9, 0.2), 10), ((None, 0.1, None), 20), ((float("nan"), 0.3, 0.3), 20), ((-2.0, -1.0), 20)],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_best_is_the_highest_score_and_the_earliest_on_ties(scores, step, backwards):
    made, loaded = checkpoints(*scores)
    artefact = Best().combine(refuse, made[::-1] if backwards else made, None)
    assert (artefact.kind, artefact.step, loaded) == ("weights", step, [step])
    assert artefact.state["weight"] == step


def test_last_is_the_highest_step_whatever_the_scores():
    made, loaded = checkpoints(0.9, None, 0.1)
    artefact = Last().combine(refuse, [made[2], made[0], made[1]], None)
    assert (artefact.step, loaded) == (30, [30])


def test_best_without_a_score_is_refused():
    with pytest.raises(UserError, match="no checkpoint with a validation score"):
        Best().combine(refuse, checkpoints(None, None)[0], None)


def test_who_needs_the_best_checkpoint_kept():
    assert Best().needs_best and not Last().needs_best
    assert isinstance(Best(), Combiner) and isinstance(Last(), Combiner)
