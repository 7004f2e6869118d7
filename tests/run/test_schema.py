"""The JSON Schema accepts what the reader accepts and refuses misspelt keys, so that an editor can say so."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from ftft.dynamics.score_names import SCORES
from ftft.methods.registry import list_methods
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.schema import json_schema

SOUND: dict[str, Any] = yaml.safe_load("""
data:
  train: {path: train.csv}
  evaluation: {dev: {path: dev.csv, role: id, split: validation}}
task: text_classification
stages:
  reference: {model: {path: small}, dynamics: {mode: epoch_end}, adapt: full}
  main:
    model: {hub: some/model}
    use_dynamics_of: reference
    select: {name: top, fraction: 0.33}
    optimize: {name: adamw, learning_rate: 1.0e-5, betas: [0.9, 0.98]}
    train: {steps: 10, epochs: null}
    stop: {patience: 3}
""")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_sound_and_resolved_recipes_are_valid(validator: Any) -> None:
    assert not list(validator.iter_errors(SOUND))
    assert not list(validator.iter_errors(recipe_to_dict(recipe_from_dict(SOUND))))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("baselin",), "main"),
        (("stages", "main", "train", "epcohs"), 3),
        (("stages", "main", "train", "batch_size"), 0),
        (("stages", "main", "train", "schedule"), "liner"),
        (("stages", "main", "optimize", "learning_rate"), "3e-4"),
        (("stages", "main", "optimize", "lr"), 0.1),
        (("stages", "main", "adapt"), "ful"),
        (("data", "validation_fraction"), 0.9),
        (("task",), "text_clasification"),
    ],
)
def test_what_the_reader_refuses_is_invalid(validator: Any, keys: tuple[str, ...], value: Any) -> None:
    recipe = copy.deepcopy(SOUND)
    target = recipe
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    assert list(validator.iter_errors(recipe))


def test_every_method_stands_in_its_section_with_its_help() -> None:
    definitions = json_schema()["$defs"]
    for method in list_methods():
        forms = definitions[method.question]["oneOf"]
        form = next(form for form in forms if form.get("title") == method.name)
        for setting in method.settings:
            assert setting.help in form["properties"][setting.name].get("description", "")


def test_descriptions_are_the_help_texts() -> None:
    train = json_schema()["$defs"]["TrainSettings"]["properties"]
    assert train["steps"]["description"] == "optimizer steps, instead of epochs"
    assert train["batch_size"] == {
        "type": "integer",
        "minimum": 1,
        "description": "examples per optimizer step, over all processes and accumulated micro-batches",
        "default": 32,
    }


@pytest.mark.parametrize(
    "select",
    [
        {"name": "top", "fraction": 0.3, "score": "{score}"},
        {"name": "both_ends", "fraction": 0.3, "score": "{score}"},
        {"name": "mixture", "fraction": 0.3, "parts": [{"score": "aum", "share": 1}, {"score": "{score}", "share": 0.5}]},
    ],
    ids=lambda select: select["name"],
)
def test_the_name_of_a_score_is_one_of_the_scores(validator: Any, select: dict[str, Any]) -> None:
    def valid(score: str) -> bool:
        recipe = copy.deepcopy(SOUND)
        recipe["stages"]["main"]["select"] = yaml.safe_load(yaml.safe_dump(select).replace("{score}", score))
        return not list(validator.iter_errors(recipe))

    assert all(valid(score) for score in SCORES)
    assert not valid("varability")
