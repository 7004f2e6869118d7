"""A selector that looks at the data with a model: whose model, what it costs, what a recipe may say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftft.engine.ledger import Ledger
from ftft.engine.scoring import CountedScoring
from ftft.errors import UserError
from ftft.methods.selection import read_selection
from ftft.models.loading import load_classifier
from ftft.models.settings import ModelSettings
from ftft.run.checking import check_models_and_data
from ftft.run.recipe import LATER_IN_STAGE, Recipe, upstream, without_later
from ftft.run.runner import run_recipe
from ftft.tasks.text_classification import TextClassification

TRAIN = {"steps": 6, "batch_size": 8, "precision": "fp32"}
GOT_D = {"name": "got_d", "target": "ood_validation", "fraction": 0.25}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def chosen(folder: Path, stage: str) -> list[str]:
    return read_selection(folder / "stages" / stage / "selection.parquet").ids.to_pylist()


def test_the_untrained_model_or_an_earlier_stages_selects(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    tuned = {"train": {**TRAIN, "steps": 60}, "optimize": {"name": "adamw", "learning_rate": 3e-3}}
    stages = {
        "reference": tuned,
        "own": {"train": TRAIN, "select": GOT_D},
        "theirs": {"train": TRAIN, "select": GOT_D, "use_model_of": "reference"},
    }
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages, main="theirs")
    assert upstream(recipe.stages, "theirs") == ["reference"] and upstream(recipe.stages, "own") == []
    assert any("stage own: learns from 24 examples in 6 steps" in line for line in check_models_and_data(recipe))
    folder = run_recipe(recipe)
    result = result_of(folder)
    books = {name: result["stages"][name]["ledger"]["effective"] for name in stages}
    assert "scoring" not in books["reference"]
    for name in ("own", "theirs"):
        assert books[name]["scoring"]["flops"] > 0 and books[name]["scoring"]["examples"] == 96 + 24
        assert books[name]["training"]["examples"] == 48 and len(chosen(folder, name)) == 24
        assert result["stages"][name]["selection"]["rule"]["target_examples"] == 24
        assert result["stages"][name]["steered_by"] == {"ood_validation": "ood"}
    assert chosen(folder, "own") != chosen(folder, "theirs")
    reference = sum(book["flops"] for book in books["reference"].values())
    assert result["stages"]["theirs"]["cost"]["flops"] == reference + sum(book["flops"] for book in books["theirs"].values())
    assert sum("was steered by out-of-distribution validation data: ood_validation" in one for one in result["stamps"]) == 2
    assert all(stage["reused"] for stage in result_of(run_recipe(recipe))["stages"].values())


def test_another_target_is_another_stage(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    keys = []
    for target in ("validation", "ood_validation"):
        stages = {"erm": {"train": TRAIN, "select": {**GOT_D, "target": target}}}
        keys.append(result_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages)))["stages"]["erm"]["key"])
    with open(tmp_path / "ood_validation.csv", "a", encoding="utf-8") as stream:
        stream.write("one-more,the dog,positive,1\n")
    keys.append(result_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages)))["stages"]["erm"]["key"])
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"select": {**GOT_D, "target": "ood"}}, 'stages.main.select.target: "ood" is a test set'),
        ({"select": {**GOT_D, "target": "od"}}, 'stages.main.select.target: "od" is no evaluation set'),
        ({"select": GOT_D, "use_model_of": "erms"}, 'use_model_of: there is no stage "erms"; did you mean "erm"?'),
        ({"select": GOT_D, "use_model_of": "main"}, 'use_model_of names "main", which is not finished before'),
        ({"use_model_of": "erm"}, "use_model_of is given, and all looks at no model; use got_d"),
    ],
    ids=["test set", "no set", "misspelt", "itself", "no need"],
)
def test_what_cannot_be_is_refused_by_check(
    changes: dict[str, Any], expected: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}, "main": changes})
    assert expected in str(caught.value)


def test_a_stage_without_one_is_keyed_as_before() -> None:
    assert without_later({"use_model_of": None, "use_models_of": [], "seed": 1}, LATER_IN_STAGE) == {"seed": 1}
    assert without_later({"use_model_of": "erm"}, LATER_IN_STAGE) == {"use_model_of": "erm"}


def test_an_embedding_is_the_mean_of_the_last_hidden_states(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    from ftft.data.loading import load_data

    data = load_data(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}}).data)
    loaded = load_classifier(ModelSettings(path=str(tiny_bert_folder)), data.train.label_names)
    ledger, asked = Ledger(), []

    def load() -> tuple[Any, Any]:
        asked.append(1)
        return loaded.model, loaded.processor

    scoring = CountedScoring(load, TextClassification(max_length=32), data.evaluation, ledger, torch.device("cpu"), "here")
    assert not asked, "loaded when it is asked something"
    found = scoring.embed(data.train)
    for row in (0, 17, 95):
        inputs = loaded.processor(data.train.inputs["text"][row].as_py(), return_tensors="pt")
        with torch.no_grad():
            expected = loaded.model.base_model(**inputs).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-5)
    assert len(asked) == 1 and found.shape == (96, 16) and found.dtype == np.float32
    books = ledger.effective["scoring"]
    assert books.examples == 96 and books.flops > 0 and books.tokens == 96 * 8
    with pytest.raises(UserError, match='here.select.target: "test" is a test set'):
        scoring.target("test")
