"""A stage's search: trials that change nothing of the stage, go on after a kill, find what helps, and are paid for."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ftft.engine.loop
import ftft.run.searching
from ftft.engine.settings import Range, SearchSettings
from ftft.errors import UserError
from ftft.models.loading import load_saved
from ftft.run import search_space
from ftft.run.checking import check_models_and_data
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.recipe import LATER_IN_STAGE, Recipe, without_later
from ftft.run.runner import read_result, run_recipe
from ftft.run.searching import Searched, Tried, ask
from ftft.run.verifying import verify_run

TRAIN = {"steps": 8, "batch_size": 8, "precision": "fp32"}
RATES = {"optimize.learning_rate": {"low": 1e-4, "high": 1e-1}}
SEARCH = {"on": ["ood_validation"], "trials": 5, "steps": 3, "sampler": "random", "space": RATES}
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")


def stage(**changes: Any) -> dict[str, Any]:
    return {"train": TRAIN, "optimize": {"name": "adamw", "learning_rate": 1e-3}, **changes}


def searching(**changes: Any) -> dict[str, Any]:
    return stage(search={**SEARCH, **changes})


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    key = read_result(folder)["stages"][name]["key"]
    return dict(load_saved(folder.parent / ".store" / key[:20] / "model")[0].state_dict())


class Watched(ftft.run.searching.TrainingLoop):
    """Keeps the learning rates and the regularisers that trials were trained with."""

    applied: list[tuple[list[float], float]] = []

    def run(self) -> Any:
        outcome = super().run()
        rate = {group["lr"] for group in self.training.optimizer.param_groups}
        Watched.applied.append((sorted(rate), getattr(self.training.objective, "l2_start", -1.0)))
        return outcome


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], float]]:
    monkeypatch.setattr(ftft.run.searching, "TrainingLoop", Watched)
    Watched.applied = []
    return Watched.applied


# -- what is asked next ----------------------------------------------------------------------------------------------


def settings(**changes: Any) -> SearchSettings:
    space = {"optimize.learning_rate": Range(1e-4, 1e-1), "optimize.weight_decay": Range(0.0, 1.0, "linear")}
    return SearchSettings(**{"on": ["a"], "metric": "accuracy", "space": space, **changes})


def played(search: SearchSettings, trials: int, score: Callable[[dict[str, float]], float | None], seed: int = 3) -> Searched:
    found = Searched(search)
    for _ in range(trials):
        drawn = ask(search, found.tried, seed)
        found.tried.append(Tried(drawn, drawn, score(drawn) if drawn else None))
    return found


@pytest.mark.parametrize("sampler", ["random", pytest.param("tpe", marks=needs_optuna)])
def test_what_is_asked_depends_on_the_trials_before_and_the_seed_alone(sampler: str) -> None:
    def score(drawn: dict[str, float]) -> float | None:
        return None if drawn["optimize.weight_decay"] > 0.8 else -abs(drawn["optimize.learning_rate"] - 0.01)

    search = settings(sampler=sampler)
    one, other = (played(search, 16, score) for _ in range(2))
    assert one.tried == other.tried and one.tried[0].drawn == {}
    assert ask(search, one.tried[:12], 3) == one.tried[12].drawn, "asked anew after an interruption"
    assert played(search, 3, score, seed=4).tried[1] != one.tried[1]
    rates = [trial.drawn["optimize.learning_rate"] for trial in one.tried[1:]]
    assert len(set(rates)) == 15 and all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert sum(rate < 10**-2.5 for rate in rates) >= 3, "a log scale has as many below its middle as above"


@needs_optuna
def test_tpe_looks_where_trials_were_good() -> None:
    def near(found: Searched) -> int:
        return sum(0.1 < trial.drawn["optimize.weight_decay"] < 0.3 for trial in found.tried[21:])

    def score(drawn: dict[str, float]) -> float:
        return -abs(drawn["optimize.weight_decay"] - 0.2)

    # Of 20 draws at random 4 are expected there, and 10 or more in 3 of 1,000 times.
    search = settings(metric="accuracy")
    assert near(played(search, 41, score)) >= 10 > 8 >= near(played(settings(sampler="random"), 41, score))
    lower = dataclasses.replace(search, metric="loss")
    assert near(played(lower, 41, lambda drawn: -score(drawn))) >= 10, "a loss is the better the lower"


def test_the_best_is_the_first_of_equals_and_no_trial_without_a_score() -> None:
    tried = [Tried({}, {"a": float(n)}, score) for n, score in enumerate([None, 0.5, 0.7, 0.7, None])]
    assert Searched(settings(), tried).best == tried[2]
    assert Searched(settings(metric="loss"), tried).best == tried[1]
    assert Searched(settings(), tried[:1]).best is None


# -- the search of a stage -------------------------------------------------------------------------------------------


def test_the_stage_trains_with_what_was_found_and_pays_for_the_trials(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], watched: list[Any]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": stage(), "main": searching()}, baseline="erm")
    assert any("5 trials of 3 steps come first, of optimize.learning_rate" in line for line in check_models_and_data(recipe))
    folder = run_recipe(recipe)
    result = read_result(folder)
    found = result["stages"]["main"]["search"]
    tried = found["trials"]
    assert len(tried) == 5 and tried[0]["settings"] == {} and len(watched) == 5
    best = max(range(5), key=lambda number: tried[number]["score"])
    assert found["trial"] == best and found["settings"] == tried[best]["settings"] and found["score"] == tried[best]["score"]
    # the rate that is applied at the last step of a trial is the rate that was drawn
    assert [rates for rates, _ in watched] == [[one["settings"].get("optimize.learning_rate", 1e-3)] for one in tried]

    # a stage that has these settings from the start is the same: the trials have left no trace
    rate = found["settings"].get("optimize.learning_rate", 1e-3)
    plain = stage(optimize={"name": "adamw", "learning_rate": rate})
    other = tiny_recipe(tmp_path, tiny_bert_folder, {"plain": plain}, name="other")
    straight = weights(run_recipe(other), "plain")
    assert all(torch.equal(value, straight[name]) for name, value in weights(folder, "main").items())

    books = {name: result["stages"][name]["ledger"] for name in ("erm", "main")}
    search = books["main"]["effective"]["search"]
    assert search["steps"] == 15 and search["examples"] == 5 * (3 * 8 + 24)
    assert search["flops"] > 5 * 3 / 8 * books["erm"]["effective"]["training"]["flops"] and not books["main"]["repeated"]
    assert books["main"]["effective"]["training"] == {
        **books["erm"]["effective"]["training"],
        "seconds": books["main"]["effective"]["training"]["seconds"],
    }
    spent = sum(book["flops"] for book in books["main"]["effective"].values())
    assert result["stages"]["main"]["cost"]["flops"] == spent
    assert result["stages"]["main"]["steered_by"] == {"ood_validation": "ood"}
    assert not any(one["seen_by"] for one in result["data"]["evaluation"].values()), "no model was trained on it"
    assert any('searched on the evaluation set "ood_validation", which therefore' in one for one in result["warnings"])
    own = tried[0]["score"]
    said = "stage main was trained with the best of 5 trials of 3 steps: "
    assert any(said in one and f"and {own:.3f} with the recipe's own settings" in one for one in result["stamps"])
    assert any(
        "stage main was steered by out-of-distribution validation data: ood_validation" in one for one in result["stamps"]
    )
    assert [one.mismatch for one in verify_run(folder)] == [None, None]
    assert read_result(run_recipe(recipe))["stages"]["main"]["reused"]


class Killed(Exception):
    pass


def test_a_killed_search_goes_on_with_the_trial_it_was_at_and_ends_the_same(
    tmp_path: Path,
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Recipe],
    watched: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching()}))
    watched.clear()
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching()}, output=str(tmp_path / "killed"))

    def kill_in_trial(event: dict[str, Any]) -> None:
        if event["event"] == "trial" and event["number"] == 2:
            monkeypatch.setattr(ftft.engine.loop, "JOURNAL_SECONDS", 0.0)  # what the next trial loses is known
        if event["event"] == "trial" and event["number"] == 3:
            monkeypatch.setattr(Watched, "_train_step", raising)

    def raising(self: Any, rows: Any, epoch: int) -> None:
        if self.step == 2:
            raise Killed
        original(self, rows, epoch)

    original = Watched._train_step
    with pytest.raises(Killed):
        run_recipe(recipe, notify=kill_in_trial)
    assert len(watched) == 3
    monkeypatch.setattr(Watched, "_train_step", original)
    told: list[int] = []
    resumed = run_recipe(recipe, notify=lambda event: told.append(event["number"]) if event["event"] == "trial" else None)
    assert told == [4, 5] and len(watched) == 5
    one, other = (read_result(folder)["stages"]["main"] for folder in (straight, resumed))
    assert one["search"] == other["search"] and one["key"] == other["key"]
    assert all(torch.equal(value, weights(straight, "main")[name]) for name, value in weights(resumed, "main").items())
    effective = [stage["ledger"]["effective"]["search"] for stage in (one, other)]
    assert [{**book, "seconds": 0} for book in effective] == [{**effective[0], "seconds": 0}] * 2
    lost = other["ledger"]["repeated"]["search"]
    assert 0 < lost["flops"] < effective[0]["flops"] / 5 and lost["steps"] == 2


def test_kept_trials_that_are_damaged_are_made_again(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching(trials=2)})
    folder = run_recipe(recipe)
    result = read_result(folder)["stages"]["main"]
    place = folder.parent / ".store" / result["key"][:20]
    (place / "search.json").write_text("{")
    said: list[str] = []
    again = run_recipe(recipe, notify=lambda event: said.append(event["text"]) if event["event"] == "warning" else None)
    assert read_result(again)["stages"]["main"]["search"] == result["search"]
    assert any("the trials kept in" in text for text in said)


def test_the_model_is_what_it_was_before_the_trials(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its weights and buffers; also of an adapter that changes modules in place."""
    seen: list[tuple[dict[str, torch.Tensor], list[bool], bool]] = []
    original = ftft.run.searching.StageSearch.find

    def look(model: torch.nn.Module) -> None:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        buffers = {f"buffer {name}": value.clone() for name, value in model.named_buffers()}
        seen.append(({**state, **buffers}, [one.requires_grad for one in model.parameters()], model.training))

    def find(self: Any) -> Any:
        look(self.model.model)
        found = original(self)
        look(self.model.model)
        return found

    monkeypatch.setattr(ftft.run.searching.StageSearch, "find", find)
    stages = {"full": searching(trials=2), "lora": {**searching(trials=2), "adapt": {"name": "lora"}}}
    if importlib.util.find_spec("peft") is None:
        del stages["lora"]
    run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages))
    assert len(seen) == 2 * len(stages)
    for (before, *settings_before), (after, *settings_after) in zip(seen[::2], seen[1::2]):
        assert before.keys() == after.keys() and settings_before == settings_after
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_where_staying_near_the_start_helps_the_search_finds_that(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], watched: list[Any]
) -> None:
    """A model that knows the words of feeling learns from rows with the labels the other way round: the less it moves, the
    better it is elsewhere."""
    rate = {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.0}
    known = run_recipe(
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": stage(train={**TRAIN, "steps": 150, "batch_size": 16}, optimize=rate)})
    )
    with open(tmp_path / "train.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with open(tmp_path / "turned.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        turned = {"positive": "negative", "negative": "positive"}
        writer.writerows({**row, "label": turned[row["label"]]} for row in rows)
    search = {
        "on": ["ood_validation"], "trials": 6, "steps": 25, "sampler": "random",
        "space": {"objective.l2_start": {"low": 1.0, "high": 1e8}},
    }  # fmt: skip
    autoft = stage(objective="autoft", search=search, optimize={**rate, "learning_rate": 1e-3})
    recipe = tiny_recipe(
        tmp_path, known / "model", {"main": autoft}, name="turned", data={"train": {"path": str(tmp_path / "turned.csv")}}
    )
    found = read_result(run_recipe(recipe))["stages"]["main"]["search"]
    plain, best = found["trials"][0], found["trials"][found["trial"]]
    assert best["score"] > plain["score"] + 0.2, found
    assert found["settings"]["objective.l2_start"] > 1e5, found
    # what was searched is what was applied, in trials and in the training itself
    assert [l2 for _, l2 in watched] == [one["settings"].get("objective.l2_start", 0.0) for one in found["trials"]]


def test_autoft_brings_its_own_ranges(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    search = {"on": ["ood_validation"], "sampler": "random"}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": stage(objective="autoft", search=search)})
    space = recipe.stages["main"].search.space
    assert len(space) == 9 and "objective.cross_entropy" not in space
    assert space["objective.l2_start"] == Range(1e-4, 10.0) and space["optimize.learning_rate"] == Range(
        0.01, 100.0, "log", True
    )
    assert space["optimize.weight_decay"] == Range(0.0, 1.0, "linear") and recipe.stages["main"].search.metric == "accuracy"
    assert recipe_from_dict(recipe_to_dict(recipe), default_name="x") == recipe


def test_a_method_without_a_setting_that_others_have_is_searched_without_it(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = search_space.header

    def header(question: str, name: str, where: str = "") -> Any:
        found = original(question, name, where)
        return dataclasses.replace(found, settings=tuple(one for one in found.settings if one.name != "weight_decay"))

    monkeypatch.setattr(search_space, "header", header)
    search = {"on": ["ood_validation"], "sampler": "random"}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": stage(objective="autoft", search=search)})
    space = recipe.stages["main"].search.space
    assert len(space) == 8 and "optimize.weight_decay" not in space


def test_other_trials_other_sets_or_other_rows_in_them_are_another_stage(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    def key(**changes: Any) -> str:
        recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching(**{"trials": 2, "steps": 1, **changes})})
        return str(read_result(run_recipe(recipe))["stages"]["main"]["key"])

    keys = [key(), key(trials=3), key(on=["validation"])]
    with open(tmp_path / "ood_validation.csv", "a", encoding="utf-8") as stream:
        stream.write("one-more,the dog,positive,1\n")
    keys.append(key())
    assert len(set(keys)) == 4
    assert without_later({"search": None, "seed": 1}, LATER_IN_STAGE) == {"seed": 1}


def test_a_search_that_diverges_everywhere_is_refused(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    hot = {"train": {**TRAIN, "clip": None}, "optimize": {"name": "sgd", "learning_rate": 1e30}}
    wild = {**searching(trials=2, space={"optimize.learning_rate": {"low": 1e29, "high": 1e30}}), **hot}
    with pytest.raises(UserError, match="stages.main.search: no trial gave a score; the last one said: .* step"):
        run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": wild}))
    partly = {**searching(trials=2, space={"optimize.learning_rate": {"low": 1e-3, "high": 1e-2}}), **hot}
    result = read_result(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": partly}, name="partly")))
    scores = [one["score"] for one in result["stages"]["main"]["search"]["trials"]]
    assert scores[0] is None and scores[1] is not None and json.dumps(scores)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"on": []}, "stages.main.search.on: name the validation sets that decide (validation, ood_validation)"),
        ({"on": ["ood"]}, 'search.on: "ood" is a test set, and test sets are only reported'),
        ({"on": ["ood_val"]}, 'search.on: "ood_val" is no evaluation set; search on a validation set'),
        ({"on": ["validation", "validation"]}, 'names "validation" twice'),
        ({"metric": "acuracy"}, 'has no score "acuracy" to steer by; did you mean "accuracy"?'),
        ({"space": {}}, "search.space: no method of the stage says what to search"),
        ({"space": {"optimize.rate": {}}}, 'adamw has no number "rate" to search'),
        ({"space": {"train.epochs": {}}}, '"train.epochs" is no setting to search'),
        ({"space": {"optimize.learning_rate": {"low": 1.0, "high": 0.1}}}, "low 1 is not below high 0.1"),
        ({"space": {"optimize.learning_rate": {"high": 0.1}}}, "a log scale needs a low above 0"),
        ({"space": {"optimize.weight_decay": {"low": -1.0, "scale": "linear"}}}, "stages.main.optimize.weight_decay"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_check(
    changes: dict[str, Any], expected: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching(**changes)})
    assert expected in str(caught.value)


def test_a_sampler_that_is_not_installed_is_named_before_anything_is_trained(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else found(name, *rest))
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"main": searching(sampler="tpe")})
    sentence = "stages.main.search.sampler: tpe is optuna's, which is not installed; pip install \"ftft"
    with pytest.raises(UserError, match=sentence):
        list(check_models_and_data(recipe))
    with pytest.raises(UserError, match=sentence):
        run_recipe(recipe)


@needs_optuna
def test_autoft_runs_with_tpe(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    search = {"on": ["ood_validation"], "trials": 13, "steps": 2}
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": stage(objective="autoft", search=search)}))
    found = read_result(folder)["stages"]["main"]["search"]
    assert len(found["trials"]) == 13 and all(len(one["settings"]) == 9 for one in found["trials"][1:])
