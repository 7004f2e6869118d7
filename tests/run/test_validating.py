"""What validation sets say of weights that give no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ftft.data.loading import load_data
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.settings import StopSettings
from ftft.methods import registry
from ftft.models.loading import load_classifier
from ftft.models.settings import ModelSettings
from ftft.run.recipe import Recipe
from ftft.run.validating import SteeringSets, WeightsOnValidation, steering_scores


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_ruined_weights_are_worse_than_any_others(
    metric: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    data, task = load_data(recipe.data), registry.build_task(recipe.task)
    loaded = load_classifier(ModelSettings(path=str(tiny_bert_folder)), data.train.label_names)
    sets = {name: data.evaluation[name] for name in ("validation", "ood_validation")}
    prepared = {name: task.prepare(one.examples, loaded.processor) for name, one in sets.items()}
    settings = StopSettings(patience=1, metric=metric)
    steering = SteeringSets(task, sets, prepared, settings, "fp32", FlopCounter(), Ledger)
    validation = WeightsOnValidation(steering, loaded.model)
    sound = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    ruined = {name: value * torch.nan if value.is_floating_point() else value for name, value in sound.items()}
    assert validation.score(ruined) == -math.inf < validation.score(sound)


def test_one_prediction_that_is_no_number_leaves_no_score(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    data, task = load_data(recipe.data), registry.build_task(recipe.task)
    one = data.evaluation["validation"]
    predictions = np.full((len(one.examples), 2), 0.5)
    assert all(math.isfinite(value) for value in steering_scores(task, one, predictions).values())
    for value in (np.nan, np.inf):
        predictions[3, 1] = value
        scores = steering_scores(task, one, predictions)
        assert set(scores) == set(task.steering) and all(math.isnan(score) for score in scores.values())
