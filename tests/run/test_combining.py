"""A stage may combine its model with those of earlier stages; what that cost is in the books, and the result loads alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftft.errors import UserError
from ftft.models.loading import load_saved
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe
from ftft.run.validating import With
from ftft.tasks.pixels import as_model

TRAIN = {"steps": 8, "batch_size": 8, "precision": "fp32"}


def members(method: Any, **changes: Any) -> dict[str, Any]:
    """Two plain stages at their own rates, and a third that makes the soup."""
    plain = {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 1e-3}}
    hotter = {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 5e-3}}
    cooler = {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 1e-4}}
    return {"erm": plain, "hot": hotter, "soup": {**cooler, "combine": method, "use_models_of": ["erm", "hot"], **changes}}


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    result = json.loads((folder / "result.json").read_text())
    return dict(load_saved(folder.parent / ".store" / result["stages"][stage]["key"][:20] / "model")[0].state_dict())


def test_weights_that_are_put_in_get_pixels_in_their_precision() -> None:
    """Convolutions refuse another one, and a model without weights of its own must say which."""
    inner = torch.nn.Conv2d(3, 2, 2)
    state = {name: value.double() for name, value in inner.state_dict().items()}
    pixels = torch.randn(1, 3, 4, 4)
    inputs = as_model(With(inner, state), {"input": pixels, "input_ids": torch.ones(1, 2, dtype=torch.int64)})
    assert inputs["input_ids"].dtype == torch.int64
    found = With(inner, state)(input=inputs["input"])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, inner(pixels).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["uniform_soup", "greedy_soup", "learned_soup"])
def test_a_soup_runs_costs_all_its_members_and_loads(
    method: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, members(method), baseline="erm", main="soup")
    folder = run_recipe(recipe)
    result = json.loads((folder / "result.json").read_text())
    ledgers = [result["stages"][name]["ledger"]["effective"] for name in ("erm", "hot", "soup")]
    spent = sum(book["flops"] for ledger in ledgers for book in ledger.values())
    assert result["stages"]["soup"]["cost"]["flops"] == spent, "the members are part of the soup's bill"
    model, _ = load_saved(folder / "model")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point())
    if method != "uniform_soup":
        assert ledgers[2]["evaluation"]["flops"] > 0 and ledgers[2]["evaluation"]["examples"] > 0


def test_the_uniform_soup_is_the_mean_of_the_saved_models(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    stages = members("uniform_soup") | {"alone": {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 1e-4}}}
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm", main="soup"))
    one, other, own, soup = (weights(folder, name) for name in ("erm", "hot", "alone", "soup"))
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    for name, value in soup.items():
        torch.testing.assert_close(value, (own[name] + one[name] + other[name]) / 3, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"combine": "uniform_soup", "use_models_of": []}, "uniform_soup combines several models; name their stages"),
        ({"combine": "last"}, "last combines no other models; use"),
        ({"use_models_of": ["erm", "hott"]}, 'there is no stage "hott"; did you mean "hot"?'),
        ({"use_models_of": ["erm", "erm"]}, 'names "erm" twice'),
        ({"use_models_of": ["soup"]}, 'names "soup", which is not finished before'),
    ],
    ids=["none", "not a soup", "misspelt", "twice", "itself"],
)
def test_what_cannot_be_combined_is_refused_by_check(
    changes: dict[str, Any], expected: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(tmp_path, tiny_bert_folder, members("uniform_soup", **changes))
    assert expected in str(caught.value)


def test_only_keeps_the_stages_whose_models_are_used(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    stages = members("uniform_soup") | {"other": {"train": TRAIN}}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages, only=["soup"])
    assert list(recipe.stages) == ["erm", "hot", "soup"]
    assert recipe_from_dict(recipe_to_dict(recipe), default_name="x") == recipe


def test_models_of_different_shapes_are_refused_in_one_sentence(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    stages = members("uniform_soup")
    stages["hot"]["model"] = {"path": str(tiny_bert_folder), "keep_layers": 2}
    with pytest.raises(UserError, match="model of stage hot has other weights than this stage's"):
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages))
