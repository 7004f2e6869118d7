"""``ftft bundle``, and ``ftft select`` on a bundle: what leaves the machine, and that it is used with its own data only."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ftft.cli.main import main
from ftft.data.loading import load_data
from ftft.dynamics.parquet import fingerprint_dynamics, open_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.files import write_json
from ftft.methods.registry import build_task
from ftft.methods.selection import read_selection
from ftft.run.portable import portable_recipe
from ftft.run.reading import recipe_from_dict
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe

NAMES = {"dynamics.parquet", "bundle.json", "README.md"}


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert call(*arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.out == ""
    return said.err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def bundle(finished_run: Path, tmp_path: Path) -> Path:
    assert call("bundle", finished_run, "--out", tmp_path / "bundle") == 0
    return tmp_path / "bundle"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def record(folder: Path, task: Any, data: dict[str, Any], model: dict[str, Any] | None = None, **described: Any) -> Path:
    """The folder of a finished run of one stage, as far as a bundle is made of it: its data are read, nothing is trained."""
    stages = {"only": {"model": model or {"path": "some/model"}, "dynamics": {"mode": "online"}}}
    recipe = recipe_from_dict({"task": task, "data": data, "stages": stages}, default_name="recorded")
    loaded = load_data(recipe.data, inputs=build_task(recipe.task).inputs)
    train = loaded.train
    values = np.random.default_rng(0).uniform(size=(2, len(train))).astype(np.float32)
    metadata = {"source": "online", "data_fingerprint": train.fingerprint, "model": described}
    seen = np.ones((2, len(train)), dtype=bool)
    dynamics = Dynamics(train.ids, (0, 1), seen, statistics={"probability": values}, metadata=metadata)
    write_dynamics(dynamics, folder / "stages" / "only" / "dynamics.parquet")
    result = {"name": "recorded", "recipe": portable_recipe(recipe), "stages": {"only": {"key": "k", "seed": 0}}}
    told = {"label_names": list(train.label_names), "evaluation": {name: {} for name in loaded.evaluation}}
    write_json(folder / "result.json", {**result, "data": told}, kind="result")
    return folder


def test_a_bundle_has_dynamics_card_and_document_and_nothing_of_the_machine(bundle: Path, finished_run: Path) -> None:
    home = finished_run.parents[1]
    files = contents(bundle)
    assert files.keys() == NAMES and bundle.stat().st_mode & 0o777 == finished_run.stat().st_mode & 0o777
    dynamics = read_dynamics(bundle / "dynamics.parquet")
    recorded = read_dynamics(finished_run / "stages/reference/dynamics.parquet")
    document = json.loads(files["bundle.json"])
    assert fingerprint_dynamics(dynamics) == fingerprint_dynamics(recorded) == document["dynamics_fingerprint"]
    assert document["format"] == "ftft/bundle" and document["format_version"] == 1 and document["stage"] == "reference"
    assert document["data"]["fingerprint"] == recorded.metadata["data_fingerprint"] and document["data"]["part_of"] == []
    assert document["data"]["id_rule"] == [{"rule": "column", "column": "id"}] and document["data"]["files"] == [{}]
    assert document["examples"] == 96 and document["epochs"] == [0, 1] and sum(document["classes"].values()) == 96
    texts = [row["text"] for row in rows_of(home / "train.csv")]
    for content in files.values():
        assert not any(text.encode() in content for text in texts)
        for place in (home, Path.home(), Path.cwd()):
            assert f"{place}/".encode() not in content
    assert open_dynamics(bundle).metadata["label_names"] == ["negative", "positive"]


def test_the_card_says_whose_dynamics_of_what_data(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert call("bundle", finished_run, "--stage", "reference", "--out", out, "--licence", "cc-by-4.0") == 0
    document = json.loads((out / "bundle.json").read_text())
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == document["licence"] == "cc-by-4.0" and "training-dynamics" in told["tags"]
    assert told["configs"] == [{"config_name": "default", "data_files": "dynamics.parquet"}]
    inside = told["training_dynamics"]
    assert inside["data_fingerprint"] == document["data"]["fingerprint"] and inside["examples"] == 96
    assert inside["epochs"] == [0, 1] and inside["settings"]["optimize"]["name"] == "adamw" and inside["model"]
    assert document["data"]["fingerprint"] in body and "ftft select FOLDER --data train.jsonl" in body


def test_select_checks_the_data_and_chooses_as_from_the_run(
    bundle: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(finished_run.parents[1] / "train.csv")
    data = write_jsonl(tmp_path / "train.jsonl", rows[::-1])  # another format and order, the same rows
    mine, theirs = tmp_path / "mine.parquet", tmp_path / "theirs.parquet"
    assert call("select", bundle, "--data", data, "--count", "20", "--out", mine) == 0
    assert "the data is that of the bundle: 96 rows\n" in capsys.readouterr().out
    assert call("select", finished_run, "--count", "20", "--out", theirs) == 0
    assert read_selection(mine).ids == read_selection(theirs).ids


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows[:90], ["90 rows here and 96 there", "6 of its ids are missing here"]),
        (lambda rows: [*rows, {**rows[0], "id": "new"}], ["97 rows here and 96 there", "1 ids here are not", 'first "new"']),
        (lambda rows: [{**rows[0], "id": "new"}, *rows[1:]], ["1 of its ids are missing here", 'first "new"']),
        (lambda rows: [{**rows[0], "text": "another"}, *rows[1:]], ["the ids and labels agree, so texts or images differ"]),
        (
            lambda rows: [{**rows[0], "label": {"positive": "negative"}.get(rows[0]["label"], "positive")}, *rows[1:]],
            ["1 rows have another label"],
        ),
    ],
)
def test_other_data_is_refused_with_what_differs(
    change: Callable[[list[dict[str, str]]], list[dict[str, str]]],
    expected: list[str],
    bundle: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", change(rows_of(finished_run.parents[1] / "train.csv")))
    said = refusal(capsys, "select", bundle, "--data", data, "--count", "9", "--out", tmp_path / "s.csv")
    fingerprint = json.loads((bundle / "bundle.json").read_text())["data"]["fingerprint"]
    assert f"the bundle's {fingerprint[:16]} (" in said and "the fingerprint is" in said
    assert all(part in said for part in expected) and not (tmp_path / "s.csv").exists()


def test_rows_that_the_run_left_out_itself_may_be_in_the_data(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"steps": 24, "batch_size": 8, "precision": "fp32"}
    stages: dict[str, Any] = {"reference": {"dynamics": {"mode": "online"}, "train": train}}
    tiny_recipe(tmp_path, tiny_bert_folder, stages)
    two = [{"path": str(tmp_path / "train.csv")}, {"path": str(tmp_path / "validation.csv"), "limit": 20}]
    recipe = tiny_recipe(
        tmp_path, tiny_bert_folder, stages, data={"train": two, "evaluation": {}, "columns": {"text": ["text"]}}
    )
    run = run_recipe(recipe)
    assert call("bundle", run, "--out", tmp_path / "b") == 0
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert document["data"]["part_of"] == ["validation_fraction"] and document["data"]["id_rule"][0]["rule"] == "content"
    assert document["data"]["files"] == [{}, {"limit": 20}]
    held = 116 - document["examples"]
    capsys.readouterr()
    data = ("--data", tmp_path / "train.csv", "--data", tmp_path / "validation.csv")
    assert call("select", tmp_path / "b", *data, "--count", "9", "--out", tmp_path / "s.csv") == 0
    assert f"{document['examples']} rows; {held} rows more were held out" in capsys.readouterr().out
    arguments = ("select", tmp_path / "b", *data[:2], "--count", "9", "--out", tmp_path / "s.csv")
    assert "came from 2 files, and --data names 1" in refusal(capsys, *arguments)


def test_a_bundle_of_the_same_run_is_renewed_and_nothing_else_is_overwritten(
    bundle: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(bundle)
    (bundle / ".gitattributes").write_text("*.parquet filter=lfs")
    assert call("bundle", finished_run, "--out", bundle, "--licence", "mit") == 0
    after = contents(bundle)
    assert after.keys() == NAMES | {".gitattributes"} and after["dynamics.parquet"] == before["dynamics.parquet"]
    assert b"license: mit" in after["README.md"]
    assert call("bundle", finished_run, "--out", bundle) == 0  # deterministic: without the licence it is as at first
    assert {name: content for name, content in contents(bundle).items() if name in NAMES} == before

    other = json.loads((bundle / "bundle.json").read_text()) | {"stage_key": "another"}
    (bundle / "bundle.json").write_text(json.dumps(other))
    kept = contents(bundle)
    assert "is the bundle of other dynamics (stage reference" in refusal(capsys, "bundle", finished_run, "--out", bundle)
    assert contents(bundle) == kept
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is no bundle; name a folder" in refusal(capsys, "bundle", finished_run, "--out", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert call("bundle", finished_run, "--out", tmp_path / "empty") == 0 and contents(tmp_path / "empty").keys() == NAMES


def test_an_interrupted_writing_leaves_nothing(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftft.report.bundling.write_json", full)
    assert call("bundle", finished_run, "--out", tmp_path / "b") == 2
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_bundled_is_refused(
    bundle: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "new")
    said = refusal(capsys, "bundle", finished_run, "--stage", "refrence", *out)
    assert '"refrence" is not a stage of the run; did you mean "reference"?' in said
    assert '"erm" recorded no dynamics' in refusal(capsys, "bundle", finished_run, "--stage", "erm", *out)
    assert "holds no result.json" in refusal(capsys, "bundle", tmp_path, *out)
    assert "is no name of a licence" in refusal(capsys, "bundle", finished_run, *out, "--licence", "a\nb")
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("dynamics.parquet"))
    assert "no stage of the run" in refusal(capsys, "bundle", copy, *out)
    shutil.copy(finished_run / "stages/reference/dynamics.parquet", copy / "stages/reference/dynamics.parquet")
    shutil.copy(finished_run / "stages/reference/dynamics.parquet", copy / "stages/erm/dynamics.parquet")
    assert "choose one with --stage: erm, reference" in refusal(capsys, "bundle", copy, *out)
    assert not (tmp_path / "new").exists()

    data = ("--data", finished_run.parents[1] / "train.csv", "--count", "9", "--out", tmp_path / "s.csv")
    assert "--data is for a bundle" in refusal(capsys, "select", finished_run, *data)
    document = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(document | {"dynamics_fingerprint": "0" * 64}))
    assert "copy the bundle again" in refusal(capsys, "select", bundle, *data)
    (bundle / "bundle.json").write_text(json.dumps(document | {"data": None}))
    assert "bundle.json is damaged" in refusal(capsys, "select", bundle, *data)


CHATS = [[{"role": "user", "content": f"hello {row}"}, {"role": "assistant", "content": f"yes {row}"}] for row in range(12)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "chats": [{"messages": chat} for chat in CHATS],
    "answers": [{"question": chat[0]["content"], "reply": chat[1]["content"]} for chat in CHATS],
    "pairs": [{"text": f"one {row}", "text_pair": f"two {row}", "label": row % 2} for row in range(12)],
}
INPUTS = {"answers": {"prompt": "question", "completion": "reply"}}


@pytest.mark.parametrize("kind", ROWS)
def test_a_bundle_of_any_rows_is_used_with_its_data(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ROWS[kind])
    task = "text_classification" if kind == "pairs" else "causal_language_modelling"
    held = {"validation": {"path": str(tmp_path / "held.jsonl"), "role": "id", "split": "validation"}}
    write_jsonl(
        tmp_path / "held.jsonl",
        [json.loads(json.dumps(row).replace('"hello ', '"bye ').replace('"one ', '"three ')) for row in ROWS[kind][1:3]],
    )
    columns = {"inputs": INPUTS[kind]} if kind in INPUTS else {}
    run = record(tmp_path / "run", task, {"train": {"path": str(train)}, "columns": columns, "evaluation": held})
    assert call("bundle", run, "--out", tmp_path / "b") == 0
    rule = json.loads((tmp_path / "b" / "bundle.json").read_text())["data"]["id_rule"][0]
    assert rule["rule"] == "content" and rule["columns"] == list(INPUTS.get(kind, {}).values())
    out = tmp_path / "s.csv"
    shuffled = write_jsonl(tmp_path / "other.jsonl", ROWS[kind][::-1])
    assert call("select", tmp_path / "b", "--data", shuffled, "--score", "confidence", "--count", "3", "--out", out) == 0
    assert "the data is that of the bundle: 12 rows" in capsys.readouterr().out
    less = write_jsonl(tmp_path / "less.jsonl", ROWS[kind][1:])
    assert "11 rows here and 12 there" in refusal(
        capsys, "select", tmp_path / "b", "--data", less, "--count", "3", "--out", out
    )


def test_a_bundle_of_a_folder_of_images_is_used_with_such_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for row in range(12):
        place = tmp_path / "digits" / "train" / f"class{row % 2}" / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (4, 4), (row, 0, 0)).save(place)
    shutil.copytree(tmp_path / "digits" / "train", tmp_path / "copy")
    data = {"train": {"path": str(tmp_path / "digits" / "train")}, "validation_fraction": 0.5}
    run = record(tmp_path / "run", "image_classification", data)
    assert call("bundle", run, "--out", tmp_path / "b") == 0
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert document["data"]["id_rule"][0]["rule"] == "file_name" and "class0/0.png" not in json.dumps(document)
    card = (tmp_path / "b" / "README.md").read_text()
    assert "the path of the picture in its folder" in card and "ftft select FOLDER --data train --score" in card
    arguments = ("select", tmp_path / "b", "--data", tmp_path / "copy", "--score", "confidence", "--count", "3", "--out")
    assert call(*arguments, tmp_path / "s.csv") == 0
    for picture in (tmp_path / "copy" / "class0").iterdir():
        image.new("RGB", (4, 4), (0, 0, 255)).save(picture)
    assert "so texts or images differ" in refusal(capsys, *arguments, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("model", "source", "lineage", "expected"),
    [
        ({"path": "models/clientx"}, "models/clientx", ["models/clientx", "owner/base"], ["clientx", "base"]),
        ({"path": "C:\\Users\\alice\\m"}, "C:\\Users\\alice\\m", ["C:\\Users\\alice\\m", "~/b/c"], ["m", "c"]),
        ({"hub": "owner/name"}, "owner/name", ["owner/name", "team/base", "/home/alice/t"], ["owner/name", "team/base", "t"]),
        ({"hub": "owner/name"}, "models/clientx", ["models/clientx"], ["clientx"]),  # taken from the store of another recipe
        ({"package": "carrier:FOLDER"}, "carrier:FOLDER", ["carrier:FOLDER", "owner/base"], ["carrier:FOLDER", "owner/base"]),
    ],
)
def test_no_folder_of_a_model_or_a_setting_is_in_a_bundle(
    model: dict[str, Any], source: str, lineage: list[str], expected: list[str], tmp_path: Path
) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ROWS["answers"])
    (tmp_path / "secret").mkdir()
    template = tmp_path / "secret" / "x.jinja"
    template.write_text("{% for turn in messages %}{% generation %}{{ turn.content }}{% endgeneration %}{% endfor %}")
    task = {"name": "causal_language_modelling", "chat_template": str(template)}
    data = {"train": {"path": str(train)}, "columns": {"inputs": INPUTS["answers"]}, "validation_fraction": 0.2}
    run = record(tmp_path / "run", task, data, model, source=source, lineage=lineage)
    result = json.loads((run / "result.json").read_text())
    result["recipe"]["task"]["chat_template"] = "secret/x.jinja"  # as a recipe beside it would name it
    result["recipe"]["stages"]["only"]["objective"] = {"name": "foreign", "table": "C:\\secret\\table.csv"}
    (run / "result.json").write_text(json.dumps(result))
    assert call("bundle", run, "--out", tmp_path / "b") == 0
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert document["model"] == {"source": expected[0], "lineage": expected}
    assert document["task"]["chat_template"] == "x.jinja" and document["settings"]["objective"]["table"] == "table.csv"
    for content in contents(tmp_path / "b").values():
        assert not any(folder in content for folder in (b"secret", b"clientx/", b"models", b"alice", b"Users"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document["data"].pop("fingerprint"),
        lambda document: document["data"].update(files=["train.csv"]),
        lambda document: document["data"].update(part_of=None),
        lambda document: document["data"].update(labels=7),
        lambda document: document["data"].update(columns=["text"]),
        lambda document: document.pop("task"),
        lambda document: document["task"].update(name=["text_classification"]),
        lambda document: document["task"].update(name="text_clasification"),
    ],
)
def test_a_damaged_document_is_one_sentence(
    damage: Callable[[dict[str, Any]], Any], bundle: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((bundle / "bundle.json").read_text())
    damage(document)
    (bundle / "bundle.json").write_text(json.dumps(document))
    data = finished_run.parents[1] / "train.csv"
    said = refusal(capsys, "select", bundle, "--data", data, "--count", "9", "--out", bundle.parent / "s.csv")
    assert "bundle.json is damaged" in said or "data." in said or 'did you mean "text_classification"' in said
