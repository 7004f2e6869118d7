"""Several evaluators in a recipe: those that look at the model stand beside the one of predictions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ftft.errors import UserError
from ftft.methods.evaluate.forgetting import Forgetting
from ftft.report.page import page
from ftft.report.parts import load_parts
from ftft.report.terminal import print_result
from ftft.run import measuring
from ftft.run.evaluating_saved import evaluate_saved
from ftft.run.overrides import apply_override
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe
from ftft.run.schema import json_schema

PLAIN = {"name": "classification", "resamples": 50}
FORGET = {"old": {"role": "forget", "split": "test"}}


def with_forget(recipe: Callable[..., Recipe], folder: Path, model: Path, evaluate: Any, **changes: Any) -> Recipe:
    """One stage with these evaluators, and the set ``ood_validation`` once more as earlier knowledge."""
    stages = {"erm": {"evaluate": evaluate, "train": {"steps": 6, "batch_size": 8, "precision": "fp32"}, **changes}}
    recipe(folder, model, {"erm": {}})  # makes the files
    sets = {
        "test": {"path": str(folder / "test.csv"), "role": "id", "split": "test"},
        "old": {"path": str(folder / "ood.csv"), "role": "forget", "split": "test"},
    }
    return recipe(folder, model, stages, data={"evaluation": sets})


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def tuned_folder(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> Path:
    """A finished model with its own head for the labels."""
    train = {"steps": 120, "batch_size": 8, "precision": "fp32"}
    stages = {"erm": {"optimize": {"name": "adamw", "learning_rate": 3e-3}, "train": train}}
    return run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, name="before")) / "model"


def test_figures_stand_in_result_page_and_table(tmp_path: Path, tuned_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    evaluate = [PLAIN, "intruder_dimensions", {"name": "forgetting", "resamples": 40}]
    optimize = {"name": "adamw", "learning_rate": 3e-3}
    recipe = with_forget(tiny_recipe, tmp_path, tuned_folder, evaluate, optimize=optimize)
    assert recipe_from_dict(recipe_to_dict(recipe), default_name="x") == recipe
    folder = run_recipe(recipe)
    stage = result_of(folder)["stages"]["erm"]
    assert stage["evaluation"]["test"]["metrics"]["accuracy"]["low"] is not None
    intruders, forgot = stage["measured"]["intruder_dimensions"], stage["measured"]["forgetting"]
    assert intruders["changed"] == intruders["layers"] == 18 and intruders["looked_at"] == 180
    accuracy = forgot["sets"]["old"]["accuracy"]
    assert accuracy["now"]["value"] == pytest.approx(stage["evaluation"]["old"]["metrics"]["accuracy"]["value"])
    assert accuracy["before"]["value"] > 0.6 and accuracy["difference"]["low"] <= accuracy["difference"]["value"]
    # The figures of the model before training are its own.
    own = evaluate_saved(tuned_folder, recipe)["old"]["metrics"]["accuracy"]["value"]
    assert accuracy["before"]["value"] == pytest.approx(own)
    books = stage["reporting_ledger"]["effective"]["evaluation"]
    held_out = stage["evaluation"]["validation"]["n"]
    assert books["examples"] == held_out + 40 + 2 * 40, "the forget set twice: after and before"
    for sentence in (f"erm, intruder dimensions: {intruders['sentence']}.", f"erm, forgetting: {forgot['sentence']}."):
        console = Console(record=True, width=250, file=io.StringIO())
        print_result(result_of(folder), console)
        assert sentence in console.export_text()
        assert sentence in page(result_of(folder), load_parts(folder, result_of(folder)))
    again = result_of(run_recipe(recipe))["stages"]["erm"]
    assert again["reused"] and again["measured"] == stage["measured"]
    assert again["reporting_ledger"] == stage["reporting_ledger"], "measured once"


def test_what_was_measured_is_made_in_a_locked_folder_and_a_damaged_file_again(
    tmp_path: Path, tuned_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_forget(tiny_recipe, tmp_path, tuned_folder, [PLAIN, {"name": "forgetting", "resamples": 40}])
    held: list[bool] = []
    real = Forgetting.evaluate

    def evaluate(self: Any, view: Any, *, seed: int) -> Any:
        with pytest.raises(UserError, match="is already working in"), view.kept.lock():
            pass
        held.append(True)
        return real(self, view, seed=seed)

    monkeypatch.setattr(Forgetting, "evaluate", evaluate)
    stage = result_of(run_recipe(recipe))["stages"]["erm"]
    kept = tmp_path / "runs" / ".store" / stage["key"][:20]
    (file,) = (kept / "measured").glob("*.json")
    half = [kept / name / ".abc.parquet.x1y2z3w4.tmp" for name in ("measured", "predictions_before")]
    for path in half:
        path.write_text("half")
    text = file.read_text()
    run_recipe(recipe)
    assert held == [True] and not any(path.exists() for path in half)
    file.write_text(re.sub(r'("value": 0\.\d)', r"\g<1>1", text, count=1))  # still JSON, with another number
    assert file.read_text() != text
    assert result_of(run_recipe(recipe))["stages"]["erm"]["measured"] == stage["measured"] and held == [True, True]


def test_the_model_before_training_is_in_the_precision_of_the_stage(
    tmp_path: Path, tuned_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, torch.dtype] = {}
    real, predict = Forgetting.evaluate, measuring.ready

    def evaluate(self: Any, view: Any, *, seed: int) -> Any:
        kinds.update({name: next(model.parameters()).dtype for name, model in (("base", view.base()), ("own", view.model()))})
        return real(self, view, seed=seed)

    def ready(model: Any, processor: Any, precision: Any) -> Any:
        kinds["before"] = next(model.parameters()).dtype
        return predict(model, processor, precision)

    monkeypatch.setattr(Forgetting, "evaluate", evaluate)
    monkeypatch.setattr(measuring, "ready", ready)
    train = {"steps": 2, "batch_size": 8, "precision": "fp64"}
    run_recipe(with_forget(tiny_recipe, tmp_path, tuned_folder, [PLAIN, {"name": "forgetting", "resamples": 9}], train=train))
    assert kinds == dict.fromkeys(("base", "own", "before"), torch.float64)


def test_an_evaluator_of_models_alone_has_the_plain_one_beside_it(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    one = with_forget(tiny_recipe, tmp_path, tiny_bert_folder, "intruder_dimensions")
    stage = result_of(run_recipe(one))["stages"]["erm"]
    assert "accuracy" in stage["evaluation"]["test"]["metrics"] and "intruder_dimensions" in stage["measured"]
    plain = with_forget(tiny_recipe, tmp_path, tiny_bert_folder, PLAIN)
    assert plain.stages["erm"].evaluate == asdict(plain)["stages"]["erm"]["evaluate"]
    assert isinstance(plain.stages["erm"].evaluate, dict), "one method stays as it was written"
    other = result_of(run_recipe(plain))["stages"]["erm"]
    assert other["reused"] and other["key"] == stage["key"] and "measured" not in other


def test_a_base_without_a_head_knows_nothing_to_forget(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = with_forget(tiny_recipe, tmp_path, tiny_bert_folder, [PLAIN, "forgetting"])
    with pytest.raises(UserError, match="stages.erm.evaluate: forgetting compares with the model before training; .* no class"):
        run_recipe(recipe)
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ([], "stages.erm.evaluate is an empty list"),
        (["forgetting", "forgetting"], "names forgetting twice"),
        (["classification", "forgeting"], 'no method "forgeting" of evaluate; did you mean "forgetting"?'),
        ([{"name": "intruder_dimensions", "top_k": 0}], "stages.erm.evaluate.0.top_k: 0 is out of range"),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    evaluate: Any, expected: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError) as caught:
        with_forget(tiny_recipe, tmp_path, tiny_bert_folder, evaluate)
    assert expected in str(caught.value)


def test_forgetting_needs_a_forget_set(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match="forgetting measures what became of earlier knowledge, and no evaluation set has"):
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"evaluate": "forgetting"}})


@pytest.mark.parametrize("given", [None, "classification", PLAIN, [PLAIN, "forgetting"]])
def test_an_override_reaches_an_evaluators_setting(given: Any) -> None:
    raw: dict[str, Any] = {"stages": {"erm": {} if given is None else {"evaluate": given}}}
    path = "stages.erm.evaluate.0.resamples" if isinstance(given, list) else "stages.erm.evaluate.resamples"
    apply_override(raw, f"{path}=7")
    found = raw["stages"]["erm"]["evaluate"]
    expected = (
        {"resamples": 7} if given is None else {"name": "classification", "resamples": 7}
    )  # without a name: the task's own
    assert (found[0] if isinstance(found, list) else found) == expected


def test_the_schema_takes_one_method_or_several() -> None:
    one, several = json_schema()["$defs"]["Stage"]["properties"]["evaluate"]["anyOf"]
    assert several["type"] == "array" and several["items"] == one
