"""Measuring a finished model: predictions are kept and used again, and sets that a model has seen are told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import ftft.run.evaluating
from ftft.data.loading import load_data
from ftft.errors import UserError
from ftft.methods import registry
from ftft.models.loading import load_classifier
from ftft.models.saving import save_model
from ftft.run.evaluating import (
    Evaluation,
    evaluate,
    read_predictions,
    said_of,
    sets_searched,
    sets_seen,
    write_named_predictions,
    write_predictions,
)
from ftft.run.evaluating_saved import evaluate_saved
from ftft.run.recipe import Recipe
from ftft.run.telling import data_summary

SECTION = {"name": "classification", "resamples": 20}


@pytest.fixture
def measured(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> Callable[..., tuple[Evaluation, list[str]]]:
    """A function that measures the untrained model into ``folder``; gives the evaluation, and the sets it predicted."""
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    task = registry.build_task(recipe.task)

    def measure(folder: Path, reverse: bool = False) -> tuple[Evaluation, list[str]]:
        data, predicted = load_data(recipe.data), []
        if reverse:  # the same sets, their rows in another order
            sets = {
                name: dataclasses.replace(one, examples=one.examples.take(np.arange(len(one.examples))[::-1]))
                for name, one in data.evaluation.items()
            }
            data = dataclasses.replace(data, evaluation=sets)

        def load() -> tuple[Any, Any, Any]:
            loaded = load_classifier(recipe.stages["erm"].model, data.train.label_names, seed=0)
            return loaded.model, loaded.processor, "fp32"

        found = evaluate(
            folder,
            data,
            task,
            SECTION,
            where="evaluate",
            seed=0,
            training_prior=None,
            load_model=load,
            notify=lambda event: predicted.append(event["set"]),
        )
        return found, predicted

    return measure


def test_predictions_are_made_once_and_used_again_whatever_the_order_of_the_rows(
    measured: Callable[..., tuple[Evaluation, list[str]]], tmp_path: Path
) -> None:
    first, predicted = measured(tmp_path / "kept")
    assert predicted == ["validation", "test", "ood", "ood_validation"]
    again, none = measured(tmp_path / "kept")
    assert none == [] and json.dumps(again.sets) == json.dumps(first.sets)
    assert again.ledger.to_json() == first.ledger.to_json() and first.ledger.effective["evaluation"].examples == 128
    reversed_rows, none = measured(tmp_path / "kept", reverse=True)
    assert none == []
    for name, one in first.classes.items():
        assert np.array_equal(reversed_rows.classes[name], one[::-1])
        value = reversed_rows.sets[name]["metrics"]["accuracy"]["value"]
        assert value == pytest.approx(first.sets[name]["metrics"]["accuracy"]["value"])


def test_predictions_round_trip_and_a_damaged_file_is_the_users_error(tmp_path: Path) -> None:
    path, probabilities = tmp_path / "one.parquet", np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    write_predictions(path, pa.array(["a", "b"]), np.array([1, 0]), probabilities, {})
    ids, labels, found = read_predictions(path)
    assert ids.to_pylist() == ["a", "b"] and labels.tolist() == [1, 0] and np.array_equal(found, probabilities)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable predictions file"):
        read_predictions(path)


def test_the_sets_that_models_have_seen_are_told_by_stage(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}, "main": {}})
    assert sets_seen(recipe) == {}
    sets = dict(recipe.data.evaluation)
    sets["ood"] = dataclasses.replace(sets["ood"], known_to=[tiny_bert_folder.parent.name])
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, evaluation=sets))
    seen = sets_seen(recipe)
    assert set(seen) == {"ood"} and set(seen["ood"]) == {"erm", "main"}
    assert len(said_of(seen)) == 1 and "was trained on this data" in said_of(seen)[0]


def test_a_set_that_is_searched_on_is_seen_by_no_model_and_what_models_have_seen_is_still_told(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    space = {"optimize.learning_rate": {"low": 1e-5, "high": 1e-3}}
    search = {"on": ["ood_validation", "validation"], "sampler": "random", "space": space}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}, "main": {"search": search}})
    assert sets_seen(recipe) == {}
    searched = sets_searched(recipe)
    assert {name: list(stages) for name, stages in searched.items()} == {"ood_validation": ["main"]}, "ID sets are there for it"
    sets = dict(recipe.data.evaluation)
    sets["ood_validation"] = dataclasses.replace(sets["ood_validation"], known_to=[tiny_bert_folder.parent.name])
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, evaluation=sets))
    seen = sets_seen(recipe)
    assert set(seen["ood_validation"]) == {"erm", "main"}
    trained_on, on = said_of(seen, searched)
    assert "was trained on this data" in trained_on and "are searched on" in on


def test_all_that_the_models_of_a_stage_know_of_a_set_is_told(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ftft.run.evaluating, "contamination", lambda header, file, name: [f"{name}: one", f"{name}: two"])
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": {}})
    seen = sets_seen(recipe)
    assert seen["ood"] == {"main": ["ood: one", "ood: two"]}
    summary = data_summary(load_data(recipe.data), seen)
    assert summary["evaluation"]["ood"]["seen_by"] == {"main": "ood: one; ood: two"}


def test_a_saved_model_is_measured_with_a_mark_on_what_it_has_seen(
    tmp_path: Path, tiny_folder: Callable[..., Path], tiny_recipe: Callable[..., Recipe]
) -> None:
    model = tiny_folder("bert")  # with a head, whose labels have no names
    recipe = tiny_recipe(tmp_path, model, {"erm": {"evaluate": SECTION}})
    sets = dict(recipe.data.evaluation)
    sets["ood"] = dataclasses.replace(sets["ood"], known_to=[model.parent.name])
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, evaluation=sets))
    events: list[dict[str, Any]] = []
    found = evaluate_saved(model, recipe, out=tmp_path / "out", notify=events.append)
    assert [name for name, one in found.items() if one["seen"]] == ["ood"]
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any("was trained on this data" in text for text in warnings)
    assert any("taken in order: LABEL_0 as negative, LABEL_1 as positive" in text for text in warnings)
    written = (tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8")
    document = json.loads(written)
    assert document["model"] == "model" and str(tmp_path) not in written
    assert document["training_prior"]["of"] == "the recipe's training set"
    assert document["sets"]["ood"]["predictions"] == "predictions/ood.parquet"
    assert len(read_predictions(tmp_path / "out" / "predictions" / "ood.parquet")[0]) == 40


def test_a_saved_model_that_tells_its_training_prior_is_corrected_from_it(
    tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Any, tiny_recipe: Callable[..., Recipe]
) -> None:
    model = tiny_model("bert", id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
    saved = save_model(tmp_path / "m", model, tiny_tokenizer, metadata={"training_prior": {"positive": 0.9, "negative": 0.1}})
    found = evaluate_saved(saved, tiny_recipe(tmp_path, saved, {"erm": {"evaluate": SECTION}}), out=tmp_path / "out")
    assert found["test"]["prior_corrected"]["training_prior"] == pytest.approx([0.1, 0.9])
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["training_prior"]["of"] == "what the model learned from"


@pytest.mark.parametrize(
    ("told", "asked", "measured_in"),
    [
        ("bf16", "auto", "bf16"),
        ("fp32", "auto", "fp32"),
        ("bf16", "fp32", "fp32"),
        ("fp7", "auto", "found"),
        (None, "auto", "found"),
    ],
)
def test_a_saved_model_is_measured_in_its_precision_unless_the_recipe_says_another(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Any,
    tiny_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    told: str | None,
    asked: str,
    measured_in: str,
) -> None:
    model = tiny_model("bert", id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
    saved = save_model(tmp_path / "m", model, tiny_tokenizer, metadata={"precision": told})
    used, predict = [], ftft.run.evaluating.predict

    def watched(loaded: Any, *given: Any, precision: str, **more: Any) -> Any:
        used.append(precision)
        assert next(loaded.parameters()).dtype == (torch.float64 if precision == "fp64" else torch.float32)
        return predict(loaded, *given, precision="fp32", **more)

    monkeypatch.setattr(ftft.run.evaluating, "predict", watched)
    monkeypatch.setattr("ftft.engine.precision.resolve", lambda setting, device: "found" if setting == "auto" else setting)
    recipe = tiny_recipe(tmp_path, saved, {"erm": {"evaluate": SECTION, "train": {"precision": asked}}})
    evaluate_saved(saved, recipe, out=tmp_path / "out")
    assert set(used) == {measured_in}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))["precision"] == measured_in


def test_odd_names_of_sets_make_files_of_their_own(
    tmp_path: Path,
    measured: Callable[..., tuple[Evaluation, list[str]]],
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Any],
) -> None:
    evaluation, _ = measured(tmp_path / "kept")
    data = load_data(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}}).data)
    odd = {"validation": "a/b", "test": "a b", "ood": "../a", "ood_validation": "..."}
    data = dataclasses.replace(data, evaluation={odd[name]: one for name, one in data.evaluation.items()})
    named = dataclasses.replace(evaluation, predictions={odd[name]: one for name, one in evaluation.predictions.items()})
    paths = write_named_predictions(tmp_path / "out", named, data)
    assert len(set(paths.values())) == 4
    for path in paths.values():
        assert (tmp_path / "out" / path).resolve().parent == tmp_path / "out" / "predictions"
