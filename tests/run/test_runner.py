"""A run's result is complete and true: stamps, marks, differences, diagnosis, and no folder of the machine."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ftft.dynamics.diagnostics import reference_diagnostics
from ftft.dynamics.parquet import read_dynamics
from ftft.dynamics.scores import compute_scores
from ftft.errors import UserError
from ftft.run.evaluating import read_predictions
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe

CHOOSE = {"name": "top", "score": "variability", "count": 32}
FTFT: dict[str, Any] = {
    "erm": {},
    "reference": {"dynamics": {"mode": "online"}},
    "main": {"use_dynamics_of": "reference", "select": CHOOSE, "seed": 3},
}


@pytest.fixture(scope="module")
def ftft_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> tuple[Path, dict[str, Any]]:
    """The folder and result of a finished FTFT run. Not to be changed."""
    folder = tmp_path_factory.mktemp("ftft")
    run = run_recipe(tiny_recipe(folder, tiny_bert_folder, FTFT, baseline="erm", main="main"))
    return run, read_result(run)


def test_the_result_is_complete(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = ftft_run
    assert (result["main"], result["baseline"], list(result["stages"])) == ("main", "erm", ["erm", "reference", "main"])
    assert result["data"]["train"]["n"] == 96 and result["data"]["evaluation"]["ood"]["role"] == "ood"
    for name, stage in result["stages"].items():
        assert set(stage["evaluation"]) == {"validation", "test", "ood", "ood_validation"}
        assert stage["training"]["steps"] == len(stage["training"]["losses"]) == 24
        assert stage["ledger"]["effective"]["training"]["steps"] == 24
        assert stage["ledger"]["effective"]["training"]["tokens"] == 24 * 8 * 8
        assert stage["cost"]["fraction_of_erm"] > 0 and stage["reporting_ledger"]["effective"]["evaluation"]["flops"] > 0
        assert (stage["dynamics"] is not None) == (name == "reference")
        assert stage["means"]["ood"]["sets"] == ["ood"] and stage["means"]["id"]["sets"] == ["test"]
    assert (folder / "model" / "model.safetensors").is_file() and (folder / "stages/reference/dynamics.parquet").is_file()
    assert result["stages"]["main"]["selection"]["examples"] == 32 and result["wall_seconds"] > 0
    assert result["stages"]["main"]["seed"] == 3 and result["stamps"] == []


def stored_classes(folder: Path, result: dict[str, Any], stage: str, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(labels, predicted classes, ids) from the predictions that the run left in the store."""
    kept = folder.parent / ".store" / result["stages"][stage]["key"][:20] / "predictions"
    fingerprint = result["data"]["evaluation"][name]["fingerprint"][:20]
    ids, labels, probabilities = read_predictions(kept / f"{fingerprint}.parquet")
    return labels, probabilities.argmax(axis=1), ids.to_pylist()


def test_differences_to_the_baseline_are_those_of_the_stored_predictions(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = ftft_run
    assert result["stages"]["erm"]["versus_baseline"] is None
    versus = result["stages"]["main"]["versus_baseline"]
    assert versus["baseline"] == "erm" and versus["bootstrap"] == {"resamples": 50, "level": 0.95, "paired": True}
    for name in ("test", "ood"):
        (labels, mine, _), (_, theirs, _) = (stored_classes(folder, result, stage, name) for stage in ("main", "erm"))
        entry = versus["sets"][name]["accuracy"]
        assert entry["value"] == pytest.approx((mine == labels).mean() - (theirs == labels).mean(), abs=1e-12)
        assert entry["low"] <= entry["value"] <= entry["high"]
    # One set is its own mean.
    assert versus["means"]["ood"] == {"sets": ["ood"], **versus["sets"]["ood"]}


def test_the_intervals_of_a_mean_of_one_set_are_the_sets_own(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    _, result = ftft_run
    for stage in result["stages"].values():
        for role, name in (("ood", "ood"), ("id", "test")):
            for metric in ("accuracy", "macro_f1"):
                assert stage["means"][role][metric] == pytest.approx(stage["evaluation"][name]["metrics"][metric], abs=1e-12)


def test_the_diagnosis_is_that_of_the_dynamics_at_the_recipes_fraction(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = ftft_run
    main = result["stages"]["main"]
    assert main["dynamics_used"] == {
        "stage": "reference",
        "source": "reference",
        "file": "stages/reference/dynamics.parquet",
    }
    dynamics = read_dynamics(folder / main["dynamics_used"]["file"])
    scores = compute_scores(dynamics, ["confidence", "variability"], ddof=0)
    found = reference_diagnostics(scores["confidence"], scores["variability"], dynamics.ids, fraction=32 / 96)
    assert main["diagnosis"] == {**dataclasses.asdict(found), "epochs": [0, 1]}
    assert result["stages"]["erm"]["diagnosis"] is None and result["stages"]["reference"]["class_prior"] is None
    chosen = set(pq.read_table(folder / "stages/main/selection.parquet")["id"].to_pylist())
    positive = sum(int(one.split("-")[1]) < 48 for one in chosen) / 32
    prior = main["class_prior"]
    assert prior["training"] == {"negative": pytest.approx(0.5, abs=0.1), "positive": pytest.approx(0.5, abs=0.1)}
    assert prior["selected"]["positive"] == pytest.approx(positive)
    assert prior["total_variation"] == pytest.approx(abs(positive - prior["training"]["positive"]))


def test_no_folder_of_this_machine_is_in_the_result(ftft_run: tuple[Path, dict[str, Any]], tiny_bert_folder: Path) -> None:
    folder, result = ftft_run
    text = (folder / "result.json").read_text(encoding="utf-8")
    for place in (folder.parents[1], tiny_bert_folder.parent, Path.cwd(), Path.home()):
        assert f"{place}/" not in text
    assert result["recipe"]["data"]["train"]["path"] == "train.csv"


def test_paths_stand_as_the_recipe_writes_them(
    tmp_path: Path, tiny_bert_folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    monkeypatch.setenv("FTFT_TEST_DATA", str(tmp_path))
    monkeypatch.setenv("FTFT_TEST_MODEL", str(tiny_bert_folder))
    tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    # A set that repeats training rows, so that a warning speaks of it.
    shutil.copy(tmp_path / "train.csv", tmp_path / "copy.csv")
    recipe = tiny_recipe(
        tmp_path,
        Path("${FTFT_TEST_MODEL}"),
        {"erm": {"train": {"steps": 2, "batch_size": 8, "precision": "fp32"}}},
        data={
            "train": {"path": "${FTFT_TEST_DATA}/train.csv"},
            "evaluation": {"copy": {"path": "${FTFT_TEST_DATA}/copy.csv"}},
        },
        output="${FTFT_TEST_DATA}/out",
        baseline="erm",
    )
    folder = run_recipe(recipe)
    result, text = read_result(folder), (folder / "result.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and str(tiny_bert_folder) not in text
    assert result["recipe"]["data"]["train"]["path"] == "${FTFT_TEST_DATA}/train.csv"
    assert result["stages"]["erm"]["model"]["source"] == "${FTFT_TEST_MODEL}"
    assert any("copy" in warning for warning in result["warnings"])


def test_corrections_are_in_the_result(
    tmp_path: Path, tiny_bert_folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})
    with (tmp_path / "train.csv").open(encoding="utf-8", newline="") as stream:
        first, second, *_ = csv.DictReader(stream)
    other = {"negative": "positive", "positive": "negative"}[first["label"]]
    lines = f"id,action,label\n{first['id']},relabel,{other}\n{second['id']},drop,\n"
    (tmp_path / "corrections.csv").write_text(lines, encoding="utf-8")
    stages = {"erm": {"train": {"steps": 2, "batch_size": 8, "precision": "fp32"}}}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages, data={"corrections": str(tmp_path / "corrections.csv")})
    result = read_result(run_recipe(recipe))
    told = {"relabelled": 1, "unchanged": 0, "dropped": 1}
    assert told.items() <= result["data"]["corrections"].items() and result["data"]["train"]["n"] == 95
    assert result["recipe"]["data"]["corrections"] == "corrections.csv"
    assert [line for line in result["warnings"] if "corrections.csv relabels 1" in line and str(tmp_path) not in line]


def test_steering_by_ood_validation_is_stamped_by_the_present_roles(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    stages = {"erm": {"stop": {"patience": 1, "on": ["ood_validation"]}, "train": {"steps": 4, "batch_size": 8}}}
    result = read_result(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages)))
    assert result["stamps"] == ["stage erm was steered by out-of-distribution validation data: ood_validation"]
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, stages)
    sets = dict(recipe.data.evaluation)
    sets["ood_validation"] = dataclasses.replace(sets["ood_validation"], role="id")
    other = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, evaluation=sets))
    result = read_result(run_recipe(other))
    assert result["stages"]["erm"]["reused"] and result["stamps"] == []


def test_a_test_set_can_never_steer(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match='stages.erm.stop.on: "ood" is a test set, and test sets are only reported'):
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"stop": {"patience": 1, "on": ["ood"]}}})
    # A recipe made in code has met no such check; the stage refuses it all the same.
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"stop": {"patience": 1, "on": ["ood_validation"]}}})
    stage = recipe.stages["erm"]
    assert stage.stop is not None
    steered = dataclasses.replace(stage, stop=dataclasses.replace(stage.stop, on=["ood"]))
    with pytest.raises(UserError, match="ood is a test set"):
        run_recipe(dataclasses.replace(recipe, stages={"erm": steered}))


@pytest.mark.parametrize(("known", "mean"), [(["ood"], True), (["ood", "far"], False)])
def test_seen_sets_are_marked_and_left_out_of_every_ood_mean(
    known: list[str],
    mean: bool,
    tmp_path: Path,
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Recipe],
    tiny_sentences: Callable[..., Path],
) -> None:
    tiny_sentences(tmp_path / "far.csv", 24, seed=9)
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": {"steps": 2, "batch_size": 8}}, "other": {}})
    sets = {name: one for name, one in recipe.data.evaluation.items() if name != "ood_validation"}
    sets["far"] = dataclasses.replace(sets["ood"], path=str(tmp_path / "far.csv"), columns=None)
    for name in known:
        sets[name] = dataclasses.replace(sets[name], known_to=[tiny_bert_folder.parent.name])
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, evaluation=sets), baseline="erm", main="other")
    result = read_result(run_recipe(recipe))
    for name, one in result["data"]["evaluation"].items():
        assert set(one["seen_by"]) == ({"erm", "other"} if name in known else set())
    sentence = result["data"]["evaluation"]["ood"]["seen_by"]["other"]
    assert "was trained on this data" in sentence and sentence in result["warnings"]
    for stage in result["stages"].values():
        assert (stage["means"]["ood"] or {}).get("sets") == (["far"] if mean else None)
    versus = result["stages"]["other"]["versus_baseline"]
    assert (versus["means"]["ood"] is not None) == mean and set(versus["sets"]) == set(sets)


def test_dynamics_given_by_path_are_kept_in_the_run_and_their_cost_is_said_to_be_missing(
    ftft_run: tuple[Path, dict[str, Any]], tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    first, reference = ftft_run
    given = first / "stages" / "reference" / "dynamics.parquet"
    for name in ("train", "validation", "test", "ood", "ood_validation"):
        shutil.copy(first.parents[1] / f"{name}.csv", tmp_path)
    stages = {name: {"use_dynamics_of": str(given), "select": CHOOSE, "seed": 3} for name in ("main", "again")}
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, main="main"))
    result = read_result(folder)
    main = result["stages"]["main"]
    assert main["dynamics_used"] == {
        "stage": None,
        "source": "dynamics.parquet",
        "file": "stages/main/dynamics_used.parquet",
    }
    assert result["stages"]["again"]["dynamics_used"]["file"] == "stages/main/dynamics_used.parquet"
    assert main["diagnosis"] == reference["stages"]["main"]["diagnosis"]
    assert read_dynamics(folder / main["dynamics_used"]["file"]).ids.equals(read_dynamics(given).ids)
    assert main["cost"]["uses"] == [] and main["cost"]["not_counted"] == ["dynamics.parquet"]
    assert "the cost of stage main does not hold what recording the dynamics in dynamics.parquet cost" in result["stamps"]
    assert str(given.parent) not in json.dumps(result)


def test_no_resamples_give_figures_without_intervals(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    short = {"train": {"steps": 2, "batch_size": 8}, "evaluate": {"name": "classification", "resamples": 0}}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": short, "main": {**short, "seed": 1}}, baseline="erm", main="main")
    entry = read_result(run_recipe(recipe))["stages"]["main"]["versus_baseline"]["means"]["ood"]["accuracy"]
    assert entry["value"] is not None and entry["low"] is None and entry["high"] is None


def shares(labels: list[str]) -> list[float]:
    return [labels.count("negative") / len(labels), labels.count("positive") / len(labels)]


def test_the_prior_correction_starts_from_what_each_stage_learned_from(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    """Against the label file itself, and against accuracies computed here from the named predictions."""
    folder, result = ftft_run
    with open(folder.parents[1] / "train.csv", encoding="utf-8") as stream:
        label_of = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    selected = pq.read_table(folder / "stages/main/selection.parquet").column("id").to_pylist()
    expected = {"erm": shares(list(label_of.values())), "main": shares([label_of[one] for one in selected])}
    assert expected["erm"] != pytest.approx(expected["main"], abs=0.02)
    for name, prior in expected.items():
        for one in result["stages"][name]["evaluation"].values():
            assert one["prior_corrected"]["training_prior"] == pytest.approx(prior)
            _, labels, probabilities = read_predictions(folder / one["predictions"])
            own = np.bincount(labels, minlength=2) / len(labels)
            classes = (probabilities * own / np.array(prior)).argmax(axis=1)
            assert one["prior_corrected"]["accuracy"]["value"] == pytest.approx((classes == labels).mean())
    stored = json.loads((folder / "model" / "ftft.json").read_text())["training_prior"]
    assert stored == pytest.approx(dict(zip(("negative", "positive"), expected["main"])))


def test_copies_and_weights_count_in_the_prior(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    def choose(**apply: Any) -> dict[str, Any]:
        select = {"name": "random", "count": 24, "prior": {"negative": 1.0, "positive": 0.0}, **apply}
        return {"select": select, "train": {"steps": 1, "batch_size": 8, "precision": "fp32"}}

    stages = {"copies": choose(apply="copies", copies=2), "weights": choose(apply="weights", weight=3.0)}
    result = read_result(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages)))
    # 48 of 96 rows are negative; 24 of them stand there twice more, or weigh three times as much.
    negative = {"copies": 96 / 144, "weights": (24 + 24 * 3) / (72 + 24 * 3)}
    for name, share in negative.items():
        prior = result["stages"][name]["evaluation"]["test"]["prior_corrected"]["training_prior"]
        assert prior == pytest.approx([share, 1 - share])


def test_predictions_lie_in_the_run_under_their_sets_name(ftft_run: tuple[Path, dict[str, Any]]) -> None:
    folder, result = ftft_run
    for stage in result["stages"]:
        for name, one in result["stages"][stage]["evaluation"].items():
            assert one["predictions"] == f"stages/{stage}/predictions/{name}.parquet"
            described = json.loads(pq.read_schema(folder / one["predictions"]).metadata[b"ftft"])
            assert (described["set"], described["classes"]) == (name, ["negative", "positive"])
            labels, classes, ids = stored_classes(folder, result, stage, name)
            found_ids, found_labels, probabilities = read_predictions(folder / one["predictions"])
            assert found_ids.to_pylist() == ids and np.array_equal(found_labels, labels)
            assert np.array_equal(probabilities.argmax(axis=1), classes)


def test_what_steering_read_is_in_the_bill(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    train = {"steps": 8, "batch_size": 8, "precision": "fp32", "evaluate_every": 4}
    stop = {"patience": 9, "on": ["validation", "ood_validation"]}
    result = read_result(run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": {"train": train, "stop": stop}})))
    cost = result["stages"]["main"]["ledger"]["effective"]["evaluation"]
    assert (cost["examples"], cost["tokens"]) == (2 * (24 + 24), 2 * (24 + 24) * 8)
