"""Bad input through the real commands: one clear sentence on standard error, exit code 2, and nothing half-written.

Most cases call the command line in this process: a process of its own would add seconds of imports and no certainty. One
case of each kind of command is a process.
"""

from __future__ import annotations

import gzip
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ftft.cli.main import main
from ftft.dynamics.parquet import write_dynamics
from ftft.dynamics.table import Dynamics

Row = dict[str, Any]
ROWS = 40


def some_rows(seed: int, prefix: str, count: int = ROWS) -> list[Row]:
    """Rows of both classes in turn, each text different."""
    chosen = random.Random(seed)
    fillers = ("the", "a", "of", "and", "was", "movie", "film", "plot", "place", "food")
    rows = []
    for number in range(count):
        word = ("good", "bad")[number % 2]
        text = " ".join([word, *(chosen.choice(fillers) for _ in range(4)), prefix, str(number)])
        rows.append({"id": f"{prefix}{number}", "text": text, "label": ("positive", "negative")[number % 2]})
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, tiny_bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one, with sound data and a sound recipe; every case breaks one thing in it."""
    write_rows(tmp_path / "train.jsonl", some_rows(1, "t"))
    write_rows(tmp_path / "dev.jsonl", some_rows(2, "d", 8))
    write_rows(tmp_path / "ood.jsonl", some_rows(3, "o", 8))
    model = {"path": str(tiny_bert_folder)}
    recipe = {
        "data": {
            "columns": {"text": ["text"], "label": "label", "id": "id"},
            "train": {"path": "train.jsonl"},
            "evaluation": {
                "dev": {"path": "dev.jsonl", "role": "id", "split": "validation"},
                "ood": {"path": "ood.jsonl", "role": "ood"},
            },
        },
        "task": {"max_length": 32},
        "baseline": "erm",
        "stages": {
            "erm": {"model": model, "train": {"epochs": 2}},
            "reference": {"model": {**model, "keep_layers": 1}, "train": {"epochs": 2}, "dynamics": {"mode": "online"}},
            "main": {"model": model, "use_dynamics_of": "reference", "select": {"name": "top", "fraction": 0.33}},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under the folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one_sentence(shown: str) -> str:
    """The sentence of an error, after a look that it is one: a line of its own at the end, and no traceback."""
    lines = [line for line in shown.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], shown
    assert "Traceback" not in shown and "╭" not in shown
    assert not re.search(r"\bNone\b|<class |Error\(", errors[0]), errors[0]
    return errors[0]


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused("check", "recipe.yaml")``: the sentence with which the command refuses, having left every file as it was."""

    def call(*arguments: str) -> str:
        before = tree(here)
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        shown = capsys.readouterr()
        assert caught.value.code == 2, shown.out + shown.err
        assert tree(here) == before
        return one_sentence(shown.err)

    return call


def change(path: Path, edit: Callable[[list[Row]], Any]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    edit(rows)
    write_rows(path, rows)


def set_recipe(here: Path, path: str, value: Any) -> None:
    recipe = yaml.safe_load((here / "recipe.yaml").read_text())
    inner = recipe
    *parents, last = path.split(".")
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


# -- data ---------------------------------------------------------------------------------------------------------------


def cut_jsonl(here: Path) -> None:
    path = here / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def cut_parquet(here: Path) -> None:
    pq.write_table(pa.Table.from_pylist(some_rows(1, "t")), here / "train.parquet")
    content = (here / "train.parquet").read_bytes()
    (here / "train.parquet").write_bytes(content[: len(content) // 2])
    set_recipe(here, "data.train.path", "train.parquet")


def cut_csv(here: Path) -> None:
    lines = ["id,text,label", *(f"{row['id']},{row['text']},{row['label']}" for row in some_rows(1, "t"))]
    (here / "train.csv").write_text("\n".join(lines)[:-15])
    set_recipe(here, "data.train.path", "train.csv")


def zip_it(here: Path, damage: Callable[[bytes], bytes]) -> None:
    (here / "train.jsonl.gz").write_bytes(damage(gzip.compress((here / "train.jsonl").read_bytes(), mtime=0)))
    set_recipe(here, "data.train.path", "train.jsonl.gz")


def flip_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 8]) + content[middle + 8 :]


def invalid_utf8(here: Path) -> None:
    lines = (here / "train.jsonl").read_bytes().splitlines(keepends=True)
    lines[6] = lines[6].replace(b"good", b"g\xffd", 1)
    (here / "train.jsonl").write_bytes(b"".join(lines))


def nan_label(here: Path) -> None:
    rows = some_rows(1, "t")
    labels = pa.array([float(number % 2) for number in range(ROWS)]).to_pylist()
    labels[4] = float("nan")
    table = pa.table({name: [row[name] for row in rows] for name in ("id", "text")} | {"label": labels})
    pq.write_table(table, here / "train.parquet")
    set_recipe(here, "data.train.path", "train.parquet")


BAD_DATA: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "empty file": (lambda here: (here / "train.jsonl").write_bytes(b""), ["train.jsonl is empty"]),
    "empty csv header only": (
        lambda here: ((here / "train.csv").write_text("id,text,label\n"), set_recipe(here, "data.train.path", "train.csv")),
        ["train.csv has no rows"],
    ),
    "empty evaluation file": (lambda here: (here / "ood.jsonl").write_bytes(b""), ["ood.jsonl is empty"]),
    "truncated jsonl": (cut_jsonl, ["train.jsonl is truncated", f"({ROWS})"]),
    "truncated parquet": (cut_parquet, ["train.parquet is damaged", "Parquet"]),
    "truncated csv": (cut_csv, [f"train.csv, line {ROWS + 1} has 2 fields where the header has 3"]),
    "truncated gzip": (
        lambda here: zip_it(here, lambda content: content[:-40]),
        ["train.jsonl.gz is a truncated gzip file"],
    ),
    "damaged gzip": (lambda here: zip_it(here, flip_middle), ["train.jsonl.gz is a damaged gzip file"]),
    "no gzip at all": (lambda here: zip_it(here, gzip.decompress), ["train.jsonl.gz is not a gzip file"]),
    "invalid utf-8": (invalid_utf8, ["train.jsonl, line 7 is not valid UTF-8", "0xff"]),
    "label only in an evaluation set": (
        lambda here: change(here / "ood.jsonl", lambda rows: rows[2].update(label="positiv")),
        ["ood.jsonl, line 3", 'the evaluation set "ood" has the unknown label "positiv"', 'did you mean "positive"?'],
    ),
    "label only in the rows left for training": (
        lambda here: (
            change(here / "train.jsonl", lambda rows: rows[0].update(label="rare")),
            set_recipe(here, "data.evaluation.dev.role", "ood"),
        ),
        ["held out for validation", 'the label "rare"', "data.validation_fraction"],
    ),
    "one class only": (
        lambda here: change(here / "train.jsonl", lambda rows: [row.update(label="positive") for row in rows]),
        ["train.jsonl", 'every training row has the label "positive"', "at least two classes"],
    ),
    "null text": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[3].update(text=None)),
        ["train.jsonl, line 4", '"text" is null or NaN'],
    ),
    "nan text": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[3].update(text=float("nan"))),
        ["train.jsonl, line 4", '"text"'],
    ),
    "null label": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[3].update(label=None)),
        ["train.jsonl, line 4", 'the label column "label" is null or NaN'],
    ),
    "nan label": (nan_label, ["train.parquet, row 5", 'the label column "label" is null or NaN']),
    "fractional label": (
        lambda here: change(
            here / "train.jsonl", lambda rows: [row.update(label=number % 2 + 0.5) for number, row in enumerate(rows)]
        ),
        ["train.jsonl, line 1", "which is not a class"],
    ),
    "absurd length": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[5].update(text="a " * 600_000)),
        ["train.jsonl, line 6 (id t5)", "1,200,000 characters"],
    ),
    "duplicate ids": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[9].update(id="t2")),
        ['the id "t2" occurs twice', "train.jsonl, line 3", "train.jsonl, line 10"],
    ),
    "missing id": (
        lambda here: change(here / "train.jsonl", lambda rows: rows[9].update(id=None)),
        ["train.jsonl, line 10", 'the id column "id" is null'],
    ),
    "missing column": (
        lambda here: set_recipe(here, "data.columns.text", ["txt"]),
        ['train.jsonl has no column "txt"', "it has id, text, label", 'did you mean "text"?'],
    ),
    "text column of numbers": (
        lambda here: change(here / "train.jsonl", lambda rows: [row.update(text=7) for row in rows]),
        ["train.jsonl", 'the text column "text" holds'],
    ),
    "pickled data": (
        lambda here: ((here / "train.pkl").write_bytes(b"x"), set_recipe(here, "data.train.path", "train.pkl")),
        ["train.pkl", "never unpickles"],
    ),
    "missing file": (
        lambda here: set_recipe(here, "data.train.path", "trian.jsonl"),
        ["data.train.path: trian.jsonl does not exist"],
    ),
    "a folder": (lambda here: set_recipe(here, "data.train.path", "."), ["data.train.path: . is a folder"]),
    "evaluation on training data": (
        lambda here: set_recipe(here, "data.evaluation.ood.path", "train.jsonl"),
        ["data.evaluation.ood", "evaluation data cannot be trained on"],
    ),
}


@pytest.mark.parametrize(("damage", "expected"), BAD_DATA.values(), ids=BAD_DATA)
def test_check_refuses_bad_data(
    damage: Callable[[Path], Any], expected: list[str], here: Path, refused: Callable[..., str]
) -> None:
    damage(here)
    sentence = refused("check", "recipe.yaml")
    for part in expected:
        assert part in sentence


def test_run_refuses_bad_data_before_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut_jsonl(here)
    with pytest.raises(SystemExit) as caught:
        main(["run", "recipe.yaml"])
    assert caught.value.code == 2
    assert "train.jsonl is truncated" in one_sentence(capsys.readouterr().err)
    assert nothing_trained(here)


# -- models -------------------------------------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def only_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(model / "unpickled")))


BAD_MODELS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "pickled weights": (only_pickled_weights, ["pytorch_model.bin", "no model.safetensors"]),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ["has no weights (model.safetensors)"]),
    "truncated weights": (
        lambda model: (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-100]),
        ["model.safetensors is damaged or incomplete"],
    ),
    "damaged config": (lambda model: (model / "config.json").write_text("{"), ["config.json cannot be read"]),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), ["has no tokenizer"]),
}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("damage", "expected"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_model_folders_are_refused_and_never_unpickled(
    command: str,
    damage: Callable[[Path], Any],
    expected: list[str],
    here: Path,
    tiny_bert_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model of the last stage is the bad one: nothing is trained before that is found."""
    model = here / "model"
    shutil.copytree(tiny_bert_folder, model)
    damage(model)
    set_recipe(here, "stages.main.model", {"path": "model"})
    with pytest.raises(SystemExit) as caught:
        main([command, "recipe.yaml"])
    shown = capsys.readouterr()
    assert caught.value.code == 2
    sentence = one_sentence(shown.err)
    for part in [*expected, "model"]:
        assert part in sentence
    assert not (model / "unpickled").exists()
    assert nothing_trained(here)


def nothing_trained(here: Path) -> bool:
    """Whether a run that was refused has left nothing: no stage, no result, no folder of its own."""
    return not (here / "runs").exists() or not list((here / "runs").rglob("*"))


@pytest.mark.parametrize(
    ("names", "said"),
    [(["cats", "dogs"], "its head is for the 2 labels cats, dogs"), (["a", "b", "c"], "its head is for the 3 labels a, b, c")],
)
def test_eval_refuses_a_model_with_other_labels(
    names: list[str], said: str, refused: Callable[..., str], tiny_folder: Callable[..., Path]
) -> None:
    folder = tiny_folder(
        "bert", labels=len(names), id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)}
    )
    sentence = refused("eval", str(folder), "recipe.yaml", "--out", "figures")
    assert "no classification head for the 2 labels negative, positive" in sentence and said in sentence


def test_eval_refuses_a_model_without_a_head(here: Path, refused: Callable[..., str], tiny_bert_folder: Path) -> None:
    sentence = refused("eval", str(tiny_bert_folder), "recipe.yaml")
    assert "has no classification head for the 2 labels negative, positive; give a model" in sentence


# -- the recipe and its overrides -----------------------------------------------------------------------------------------

BAD_OVERRIDES: dict[str, tuple[str, list[str]]] = {
    "misspelt key": ("stages.main.train.epoch=3", ["stages.main.train", '"epoch"', 'did you mean "epochs"?']),
    "misspelt stage": ("stages.mian.train.epochs=3", ["stages", '"mian"', 'did you mean "main"?']),
    "wrong type": ("stages.main.train.batch_size=many", ["stages.main.train.batch_size: expected a whole number"]),
    "number read as text": ("stages.main.optimize.learning_rate=3e-4", ["stages.main.optimize.learning_rate", "3.0e-4"]),
    "unknown method": ("stages.main.select.name=topp", ["stages.main.select.name", '"topp"', 'did you mean "top"?']),
    "unknown score": (
        "stages.main.select.score=variabilty",
        ['stages.main.select.score: there is no score "variabilty"; did you mean "variability"?'],
    ),
    "unknown setting": ("stages.main.select.fracton=0.3", ["stages.main.select.fracton", 'did you mean "fraction"?']),
    "fraction 0": ("stages.main.select.fraction=0", ["stages.main.select.fraction: 0", "above 0 and at most 1"]),
    "fraction above 1": ("stages.main.select.fraction=1.5", ["stages.main.select.fraction: 1.5", "above 0 and at most 1"]),
    "both sizes": ("stages.main.select.count=3", ["stages.main.select:", "either fraction", "or count", "both are given"]),
    "no size": ("stages.main.select.fraction=null", ["stages.main.select:", "either fraction", "neither is given"]),
    "shares": ("stages.main.select.balance={a: 0.5}", ["stages.main.select.balance must give shares", "sum to 0.5"]),
    "compat without fraction": (
        "stages.main.select={name: top, count: 3, compat: ftft}",
        ["stages.main.select.compat: ftft is defined for a fraction"],
    ),
    "part of a mixture": (
        "stages.main.select={name: mixture, fraction: 0.3, parts: [{score: aum, share: 1.0}, {scor: el2n, share: 0.5}]}",
        ["stages.main.select.parts.1.scor", 'did you mean "score"?'],
    ),
    "first stage's optimizer": ("stages.erm.optimize.betas=[0.9, 1.0]", ["stages.erm.optimize.betas.1: 1.0", "below 1"]),
    "last stage's evaluator": ("stages.main.evaluate.level=1.0", ["stages.main.evaluate.level: 1.0", "below 1"]),
    "variability from one epoch": (
        "stages.reference.train.epochs=1",
        ["stages.main.select", "variability needs dynamics of at least 2 epochs", "stages.reference.train.epochs"],
    ),
    "no dynamics": ("stages.reference.dynamics=null", ["stages.main.use_dynamics_of", "records no dynamics"]),
    "unset variable": ("data.train.path=${FTFT_NO_SUCH_FOLDER}/a.csv", ["data.train.path", "FTFT_NO_SUCH_FOLDER", "not set"]),
    "not key=value": ("epochs", ['"epochs" is not of the form key=value']),
}


@pytest.mark.parametrize("command", ["check", "run", "eval"])
@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES)
def test_bad_settings_of_any_stage_are_refused_before_anything_is_done(
    command: str,
    override: str,
    expected: list[str],
    refused: Callable[..., str],
    tiny_bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FTFT_NO_SUCH_FOLDER", raising=False)
    model = [str(tiny_bert_folder)] if command == "eval" else []
    sentence = refused(command, *model, "recipe.yaml", override)
    for part in expected:
        assert part in sentence


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stages.main.select={name: top, count: 99}"], ["stages.main.select: count is 99", f"only {ROWS} examples"]),
        (["stages.main.select={name: top, fraction: 0.5, epochs: [0, 7]}"], ["stages.main.select: epochs [7]"]),
        (
            ["stages.main.select={name: top, fraction: 0.5, balance: {positiv: 0.5, negative: 0.5}}"],
            ["stages.main.select", '"positiv"', 'did you mean "positive"?'],
        ),
        (
            ["stages.reference.select={name: random, count: 5}"],
            ["stages.main.select: cannot choose 13 of 40", "only 5 are left"],
        ),
        (["task.max_length=200"], ["stages.erm.model", "positions for 128 tokens", "task.max_length is 200"]),
        (["stages.reference.model.keep_layers=9"], ["stages.reference.model.keep_layers is 9", "from 1 to 3"]),
        (
            [
                "stages.reference.train.epochs=1.5",
                "stages.main.select={name: top, score: confidence, epochs: [1], fraction: 0.9}",
            ],
            ["stages.main.select: cannot choose 36 of 40", "only 32 are left"],
        ),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_settings_that_the_data_or_the_model_cannot_meet_are_refused_before_training(
    command: str, overrides: list[str], expected: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "recipe.yaml", *overrides])
    assert caught.value.code == 2
    sentence = one_sentence(capsys.readouterr().err)
    for part in expected:
        assert part in sentence
    assert nothing_trained(here)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("stages:", "stagse:", ['stagse: there is no setting "stagse"; did you mean "stages"?']),
        ("fraction: 0.33", "fraction: 3e-1", ["stages.main.select.fraction", '"3e-1" (text)', "3.0e-1"]),
        ("keep_layers: 1", "keep_layers: one", ["stages.reference.model.keep_layers: expected a whole number"]),
        ("baseline: erm", "baseline: [erm", ["recipe.yaml, line", "no valid YAML"]),
        ("path: train.jsonl", "pth: train.jsonl", ["data.train", "pth", 'did you mean "path"?']),
    ],
)
def test_wrong_keys_and_types_of_the_file_are_refused(
    old: str, new: str, expected: list[str], here: Path, refused: Callable[..., str]
) -> None:
    text = (here / "recipe.yaml").read_text()
    assert old in text
    (here / "recipe.yaml").write_text(text.replace(old, new, 1))
    sentence = refused("check", "recipe.yaml", "--no-data")
    for part in expected:
        assert part in sentence


@pytest.mark.parametrize("command", ["check", "run", "eval"])
def test_a_missing_recipe_suggests_the_nearest(command: str, refused: Callable[..., str], tiny_bert_folder: Path) -> None:
    model = [str(tiny_bert_folder)] if command == "eval" else []
    assert "the recipe recpie.yaml does not exist; did you mean recipe.yaml?" in refused(command, *model, "recpie.yaml")


# -- dynamics -------------------------------------------------------------------------------------------------------------


def some_dynamics(ids: list[str], *, epochs: int = 3, **metadata: Any) -> Dynamics:
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((epochs, len(ids), 2), dtype=np.float32)
    gold = np.array([1 - number % 2 for number in range(len(ids))], dtype=np.int32)
    metadata = {"label_names": ["negative", "positive"], **metadata}
    return Dynamics(pa.array(ids), tuple(range(epochs)), np.ones((epochs, len(ids)), bool), gold, logits, metadata=metadata)


def train_ids() -> list[str]:
    return [row["id"] for row in some_rows(1, "t")]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("dynamics", "expected"),
    [
        (lambda: some_dynamics([f"x{n}" for n in range(ROWS)]), ["of other data", f"{ROWS} of {ROWS} examples", "'t0'"]),
        (lambda: some_dynamics([*train_ids()[:-1], "changed"]), ["of other data", f"1 of {ROWS} examples", "'t39'"]),
        (lambda: some_dynamics(train_ids(), data_fingerprint="0" * 64), ["of other data", "contents differ"]),
        (lambda: some_dynamics(train_ids(), label_names=["positive", "negative"]), ["other labels", "40 of 40"]),
        (lambda: some_dynamics(train_ids(), split="test"), ["evaluation data can never be selected from"]),
        (lambda: some_dynamics(train_ids(), epochs=1), ['"variability" needs at least 2 epochs']),
    ],
    ids=["other ids", "one id changed", "other contents", "other labels", "evaluation split", "one epoch"],
)
def test_dynamics_of_other_data_are_refused_before_training(
    command: str, dynamics: Callable[[], Dynamics], expected: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dynamics(dynamics(), here / "earlier.parquet")
    with pytest.raises(SystemExit) as caught:
        main([command, "recipe.yaml", "stages.main.use_dynamics_of=earlier.parquet"])
    assert caught.value.code == 2
    sentence = one_sentence(capsys.readouterr().err)
    for part in ["stages.main.select", *expected]:
        assert part in sentence
    assert nothing_trained(here)


GOOD = ["--score", "variability", "--fraction", "0.33", "--out", "subset.parquet"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--fraction", "0"], ["fraction is 0", "above 0 and at most 1"]),
        (["--fraction", "1.5"], ["fraction is 1.5", "above 0 and at most 1"]),
        (["--fraction", "-1"], ["fraction is -1", "above 0 and at most 1"]),
        (["--fraction", "nan"], ["fraction", "above 0 and at most 1"]),
        (["--count", "0"], ["count"]),
        (["--count", "3"], ["either fraction", "both are given"]),
        (["--score", "variabilty"], ['"variabilty"', 'did you mean "variability"?']),
        (["--compat", "cartografy"], ['"cartografy"', 'did you mean "cartography"?']),
        (["--balance", "clas"], ['"clas"', 'did you mean "class"?']),
        (["--drop-suspects", "1"], ["drop_suspects is 1", "below 1"]),
        (["--fraction", "a third"], ["--fraction"]),
        (["--out", "subset.xlsx"], ['--out: subset.xlsx has the unknown ending ".xlsx"', ".parquet, .csv, .jsonl"]),
        (["--out", "subset"], ["--out: subset has no ending"]),
        (["--fracton", "0.3"], ["ftft select", '"--fracton"', 'did you mean "--fraction"?']),
    ],
    ids=" ".join,
)
def test_select_judges_its_options_before_it_reads(
    options: list[str], expected: list[str], refused: Callable[..., str]
) -> None:
    """The dynamics named here do not exist, and that is not what is complained of."""
    sentence = refused("select", "no-such-run", *GOOD, *options)
    for part in expected:
        assert part in sentence


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), ["dynamics.parquet is damaged"]),
        (lambda path: path.write_bytes(b""), ["dynamics.parquet"]),
        (lambda path: path.unlink(), ["does not exist"]),
        (
            lambda path: pq.write_table(pa.table({"id": ["a", "a"], "epoch": [0, 0], "probability": [0.5, 0.5]}), path),
            ["dynamics.parquet"],
        ),
    ],
    ids=["truncated", "empty", "missing", "long table with an id twice in an epoch"],
)
@pytest.mark.parametrize("command", ["select", "score", "export"])
def test_damaged_dynamics_are_refused(
    command: str, damage: Callable[[Path], Any], expected: list[str], here: Path, refused: Callable[..., str]
) -> None:
    path = here / "dynamics.parquet"
    write_dynamics(some_dynamics(train_ids()), path)
    damage(path)
    options = {"select": GOOD, "score": ["--out", "scores.csv"], "export": ["--cartography", "exported"]}
    sentence = refused(command, "dynamics.parquet", *options[command])
    for part in expected:
        assert part in sentence


def test_one_epoch_has_no_variability(here: Path, refused: Callable[..., str]) -> None:
    write_dynamics(some_dynamics(train_ids(), epochs=1), here / "dynamics.parquet")
    assert '"variability" needs at least 2 epochs' in refused("select", "dynamics.parquet", *GOOD)


def test_a_folder_without_dynamics_says_what_was_looked_for(here: Path, refused: Callable[..., str]) -> None:
    (here / "runs").mkdir()
    assert "runs holds no dynamics" in refused("select", "runs", *GOOD)


def test_evaluation_dynamics_can_never_be_selected_from(here: Path, refused: Callable[..., str]) -> None:
    write_dynamics(some_dynamics(train_ids(), split="validation"), here / "dev.parquet")
    assert "evaluation data can never be selected from" in refused("select", "dev.parquet", *GOOD)


# -- the other commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["init", "trian.jsonl", "--out", "new.yaml"], ["trian.jsonl does not exist", 'did you mean "train.jsonl"?']),
        (["init", "recipe.yaml", "--out", "new.yaml"], ["recipe.yaml has the unknown ending"]),
        (["init", "train.jsonl", "--ood", "nowhere.jsonl", "--out", "new.yaml"], ["nowhere.jsonl does not exist"]),
        (["init", "train.jsonl"], ["recipe.yaml exists already", "--force"]),
        (["init", "train.jsonl", "--out", "train.jsonl", "--force"], ['--out: train.jsonl has the unknown ending ".jsonl"']),
        (["list", "variabilty"], ['"variabilty"', 'did you mean "variability"?']),
        (["selct", "x"], ['there is no command "selct"; did you mean "select"?']),
        (["run"], ["ftft run needs the argument recipe"]),
        (["select", "x"], ["ftft select needs the option --out"]),
        (["list", "--al"], ['ftft list has no option "--al"']),
        (["list", "adamw", "sgd"], ["ftft list", "sgd"]),
        (["score"], ["name one source of dynamics"]),
        (["score", "a", "b"], ["name one source of dynamics"]),
        (["score", "a", "--data", "train.jsonl"], ["--checkpoints with --data"]),
        (["score", "--checkpoints", "a"], ["--checkpoints needs --data"]),
        (["score", "--checkpoints", "a", "--data", "train.jsonl"], ["the checkpoint a does not exist"]),
        (["score", "--checkpoints", "a", "b", "--data", "train.jsonl", "--drop-first", "2"], ["--drop-first is 2"]),
        (["score", "a", "--ddof", "2"], ["--ddof is 2"]),
        (["export", "a"], ["say where to write", "--cartography"]),
        (
            ["schema", "--out", "note.txt/schema.json"],
            ["--out: note.txt/schema.json cannot be written", "is a file, not a folder"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value else "",
)
def test_commands_called_wrongly_say_so_in_one_sentence(
    arguments: list[str], expected: list[str], here: Path, refused: Callable[..., str]
) -> None:
    (here / "note.txt").write_text("a file where a folder is meant to be")
    sentence = refused(*arguments)
    for part in expected:
        assert part in sentence


PROCESSES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "check": (lambda here: (zip_it(here, flip_middle), ["check", "recipe.yaml"])[1], "is a damaged gzip file"),
    "run": (lambda here: ["run", "recipe.yaml", "stages.reference.train.epochs=1"], "at least 2 epochs"),
    "select": (lambda here: ["select", "nothing", *GOOD], "nothing does not exist"),
    "score": (lambda here: ["score", "nothing"], "nothing does not exist"),
    "export": (lambda here: ["export", "nothing", "--cartography", "out"], "nothing does not exist"),
    "init": (lambda here: (invalid_utf8(here), ["init", "train.jsonl", "--out", "new.yaml"])[1], "line 7 is not valid UTF-8"),
    "eval": (lambda here: ["eval", "nothing", "recipe.yaml", "stages.main.train.epoch=1"], 'did you mean "epochs"?'),
    "list": (lambda here: ["list", "tpo"], 'did you mean "top"?'),
    "schema": (lambda here: ["schema", "--out", "train.jsonl/x.json"], "a part of the path is a file"),
    "unknown": (lambda here: ["chekc", "recipe.yaml"], 'did you mean "check"?'),
}


@pytest.mark.parametrize(("prepare", "expected"), PROCESSES.values(), ids=PROCESSES)
def test_a_process_exits_with_2_and_one_sentence(prepare: Callable[[Path], list[str]], expected: str, here: Path) -> None:
    arguments = prepare(here)
    before = tree(here)
    done = subprocess.run(
        [sys.executable, "-m", "ftft", *arguments], cwd=here, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert expected in one_sentence(done.stderr)
    after = tree(here)
    assert before.items() <= after.items()
    assert nothing_trained(here)
    assert all(name.startswith("runs/") for name in after.keys() - before.keys())
