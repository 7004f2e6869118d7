"""A trial of a search that goes wrong: what diverged is a trial without a score, and nothing else is."""

from __future__ import annotations

import gc
import json
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftft.engine.loop
import ftft.run.searching
from ftft.engine.ledger import Ledger
from ftft.engine.processes import Processes
from ftft.errors import Interrupted, UserError
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe

TRAIN = {"steps": 8, "batch_size": 8, "precision": "fp32"}
RATES = {"optimize.learning_rate": {"low": 1e-4, "high": 1e-1}}
SEARCH = {"on": ["ood_validation"], "trials": 3, "steps": 3, "sampler": "random", "space": RATES}
HOT = {"train": {**TRAIN, "clip": None}, "optimize": {"name": "sgd", "learning_rate": 1e30}}

Maker = Callable[..., Recipe]


def searching(**changes: Any) -> dict[str, Any]:
    return {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 1e-3}, "search": {**SEARCH, **changes}}


def kept(folder: Path) -> list[dict[str, Any]]:
    """The trials in the store beside the runs' ``folder``."""
    (path,) = folder.glob("**/search.json")
    trials: list[dict[str, Any]] = json.loads(path.read_text())["trials"]
    return trials


def search_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_result(folder)["stages"]["main"]
    return found


def test_a_full_disk_ends_the_search_which_goes_on_with_that_trial_later(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = search_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching()})))["search"]
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching()}, output=str(tmp_path / "full"))
    written: list[Path] = []
    inside: list[bool] = []
    original, once = Ledger.journal, Processes.once

    def journal(self: Ledger, path: Path | str) -> None:
        assert inside, "the others would not hear of an error of the first process alone"
        written.append(Path(path))
        if len(written) == 4:
            raise UserError("the disk is full")
        original(self, path)

    def watched(self: Processes, work: Callable[[], Any]) -> Any:
        inside.append(True)
        try:
            return once(self, work)
        finally:
            inside.pop()

    with monkeypatch.context() as patch:
        patch.setattr(ftft.engine.loop, "JOURNAL_SECONDS", 0.0)  # after every step
        patch.setattr(Ledger, "journal", journal)
        patch.setattr(Processes, "once", watched)
        with pytest.raises(UserError, match="the disk is full"):
            run_recipe(recipe)
    assert {path.name for path in written} == {"search.jsonl"}
    assert len(kept(tmp_path / "full")) == 1, "three steps of the first trial, and one of the second, which is not kept"
    assert search_of(run_recipe(recipe))["search"] == straight


def test_an_objective_that_cannot_work_is_not_a_trial_that_diverged(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker
) -> None:
    stage = {**searching(), "objective": "l2_sp", "adapt": "linear_probe"}
    with pytest.raises(UserError, match="l2_sp has nothing to pull to its start"):
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": stage}))
    assert not list(tmp_path.glob("**/search.json")), "no trial is kept as one that diverged"


def test_the_model_of_a_trial_that_diverged_is_not_kept_in_memory(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Seen(ftft.run.searching.TrainingLoop):
        def run(self) -> Any:
            gc.collect()
            alive.append(sum(one() is not None for one in models))
            models.append(weakref.ref(self.model))
            return super().run()

    monkeypatch.setattr(ftft.run.searching, "TrainingLoop", Seen)
    wild = {**searching(trials=3, space={"optimize.learning_rate": {"low": 1e29, "high": 1e30}}), **HOT}
    with pytest.raises(UserError, match="no trial gave a score; the last one said: the .* became"):
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": wild}))
    assert alive == [0, 0, 0]


def test_weights_that_are_ruined_in_the_last_step_give_no_score(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker
) -> None:
    """The loss of a trial of one step is that before the step: no other check comes."""
    partly = {**searching(trials=2, steps=1, space={"optimize.learning_rate": {"low": 1e-3, "high": 1e-2}}), **HOT}
    found = search_of(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": partly})))["search"]
    assert found["trials"][0]["score"] is None and found["trials"][1]["score"] is not None and found["trial"] == 1
    wild = {**partly, "search": {**partly["search"], "space": {"optimize.learning_rate": {"low": 1e29, "high": 1e30}}}}
    with pytest.raises(UserError, match="the last one said: after 1 step accuracy is nan on ood_validation"):
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": wild}, name="wild"))
    with pytest.raises(UserError, match="no trial gave a score$"):  # all trials were kept: none is made
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": wild}, name="wild"))


def test_what_an_interrupted_trial_took_is_paid_for(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching()})
    original, steps = ftft.run.searching.TrainingLoop._train_step, []

    def asked_to_stop(self: Any, rows: Any, epoch: int) -> None:
        original(self, rows, epoch)
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ftft.run.searching.TrainingLoop, "_train_step", asked_to_stop)
        with pytest.raises(Interrupted, match="interrupted in trial 2 of 3"):
            run_recipe(recipe)
    assert len(kept(tmp_path / "runs")) == 1
    books = search_of(run_recipe(recipe))["ledger"]
    assert books["repeated"]["search"]["steps"] == 2 and books["effective"]["search"]["steps"] == 9


def test_the_weights_of_trials_are_not_hashed(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Any] = []
    original = ftft.engine.loop.weights_sha256
    monkeypatch.setattr(ftft.engine.loop, "weights_sha256", lambda model: hashed.append(1) or original(model))
    run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching(trials=2, steps=6)}))
    assert len(hashed) == 1, "of the training itself, for ftft verify"
