"""A recipe whose stage chooses while it trains: what it learned from, what it cost, and that it resumes and is reused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ftft.dynamics.parquet import read_dynamics
from ftft.errors import UserError
from ftft.report.learning import selection_sentence
from ftft.report.terminal import print_result
from ftft.run.checking import check_models_and_data
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe

TRAIN = {"epochs": 4, "batch_size": 8, "precision": "fp32", "checkpoint_seconds": 1e-9}
ADAMW = {"name": "adamw", "learning_rate": 1e-3}


def stages(**changes: Any) -> dict[str, Any]:
    """Plain fine-tuning, InfoBatch beside it, and a stage that selects by the dynamics InfoBatch recorded."""
    pruned = {
        "train": TRAIN,
        "optimize": ADAMW,
        "select": {"name": "infobatch", "prune": 0.6, "delta": 0.7},
        "dynamics": {"mode": "online"},
        **changes,
    }
    return {"erm": {"train": TRAIN, "optimize": ADAMW}, "pruned": pruned}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_a_stage_that_chooses_while_it_trains(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages(), baseline="erm", main="pruned")
    said = list(check_models_and_data(recipe))
    assert any("those of 96 examples that infobatch chooses for each epoch, in at most 48 steps of 8" in line for line in said)
    folder = run_recipe(recipe)
    stage = result_of(folder)["stages"]["pruned"]
    epochs = stage["training"]["epochs"]
    assert [one["examples"] for one in epochs[:1]] == [96] and epochs[-1]["examples"] == 96
    assert all(20 < one["examples"] < 96 for one in epochs[1:3])
    books = stage["ledger"]["effective"]["training"]
    assert books["examples"] == sum(one["examples"] for one in epochs)
    assert books["steps"] == stage["training"]["steps"] == sum(one["steps"] for one in epochs) < 48
    seen = read_dynamics(folder / "stages" / "pruned" / "dynamics.parquet").seen
    assert [int(epoch.sum()) for epoch in seen] == [one["examples"] for one in epochs]
    assert not np.array_equal(seen[1], seen[2])
    assert stage["cost"]["fraction_of_erm"] == pytest.approx(books["examples"] / (4 * 96), rel=0.1)
    assert run_recipe(recipe) == folder
    assert result_of(folder)["stages"]["pruned"]["reused"]


class Killed(Exception):
    pass


def test_it_resumes_where_it_was_killed(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    straight = result_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages(), output=str(tmp_path / "straight"))))
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages(), output=str(tmp_path / "killed"))

    def kill_at(step: int) -> Callable[[dict[str, Any]], None]:
        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "step" and event["stage"] == "pruned" and event["step"] == step:
                raise Killed

        return notify

    for step in (5, 15, 22):
        with pytest.raises(Killed):
            run_recipe(recipe, notify=kill_at(step))
    resumed = result_of(run_recipe(recipe))
    for key in ("losses", "epochs", "steps"):
        assert resumed["stages"]["pruned"]["training"][key] == straight["stages"]["pruned"]["training"][key]
    books = [one["stages"]["pruned"]["ledger"]["effective"]["training"] for one in (resumed, straight)]
    assert all(books[0][name] == books[1][name] for name in ("flops", "examples", "tokens", "steps"))


def test_a_later_stage_selects_by_what_it_recorded(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    top = {
        "train": {**TRAIN, "epochs": 1},
        "use_dynamics_of": "pruned",
        "select": {"name": "top", "score": "confidence", "fraction": 0.3},
    }
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {**stages(), "main": top}, main="main"))
    assert result_of(folder)["stages"]["main"]["selection"]["examples"] == 28


def test_losses_of_other_inputs_are_refused(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match="stages.pruned.select: infobatch goes by each example's loss, and mixup gives"):
        tiny_recipe(tmp_path, tiny_bert_folder, stages(objective="mixup", dynamics=None))


def test_the_report_says_how_many_an_epoch_took(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    result = result_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages(), main="pruned")))
    mean = round(np.mean([one["examples"] for one in result["stages"]["pruned"]["training"]["epochs"]]))
    expected = f"It learns from {mean} of 96 training examples an epoch, on average (chosen by infobatch)."
    assert selection_sentence(result, "pruned") == expected
    console = Console(record=True, width=200, file=io.StringIO())
    print_result(result, console)
    assert "an epoch" in console.export_text()
