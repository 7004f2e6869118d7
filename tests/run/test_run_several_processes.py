"""`torchrun -m ftft run recipe.yaml`: two processes are one run, which Ctrl-C interrupts and the same command resumes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from ftft.cli.main import main
from ftft.dynamics.parquet import read_dynamics
from ftft.engine.checkpoint import CheckpointFolder
from ftft.run.evaluating import read_predictions
from ftft.run.reading import load_recipe
from ftft.run.runner import read_result, run_recipe

pytestmark = pytest.mark.processes
DEADLINE = 400.0
WORDS = ("film", "plot", "man", "dog", "cat", "sits", "runs", "old", "young")


def write_rows(path: Path, count: int, seed: int) -> None:
    source = random.Random(seed)
    rows = []
    for number in range(count):
        label = source.choice(["yes", "no"])
        words = [source.choice(WORDS) for _ in range(source.randint(2, 12))]
        words.insert(source.randrange(len(words) + 1), "good" if (label == "yes") != (source.random() < 0.2) else "bad")
        rows.append(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": label}))
    path.write_text("\n".join(rows) + "\n")


def write_job(folder: Path, model: Path) -> Path:
    """Data and a recipe: a reference of 2 layers in 9 batches of 7 an epoch, whose dynamics choose what the main learns."""
    folder.mkdir()
    for seed, (name, count) in enumerate({"train": 61, "validation": 31, "ood": 45}.items()):
        write_rows(folder / f"{name}.jsonl", count, seed)
    common: dict[str, Any] = {
        "optimize": {"name": "adamw", "learning_rate": 2e-3},
        "evaluate": {"name": "classification", "resamples": 20},
    }
    train = {"batch_size": 7, "precision": "fp64", "checkpoint_seconds": 0.05}
    where = {"path": str(model), "dropout": 0.0}
    stages = {
        "reference": {
            **common,
            "model": {**where, "keep_layers": 2},
            "train": {**train, "epochs": 5},
            "dynamics": {"mode": "online"},
        },
        "main": {
            **common,
            "model": where,
            "use_dynamics_of": "reference",
            "select": {"name": "top", "score": "variability", "fraction": 0.5},
            "train": {**train, "steps": 40, "evaluate_every": 3},
            "stop": {"patience": 2, "metric": "loss"},
            "combine": "best",
        },
    }
    recipe = {
        "data": {
            "train": {"path": str(folder / "train.jsonl")},
            "columns": {"id": "id", "text": ["text"], "label": "label"},
            "evaluation": {
                "validation": {"path": str(folder / "validation.jsonl"), "role": "id", "split": "validation"},
                "ood": {"path": str(folder / "ood.jsonl"), "role": "ood"},
            },
        },
        "task": {"name": "text_classification", "max_length": 32},
        "stages": stages,
        "output": str(folder / "runs"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def runs(tiny_bert_folder: Path, launch_processes: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of two processes, interrupted once and resumed, and the same run in one process."""
    base = tmp_path_factory.mktemp("runs")
    recipe = write_job(base / "two", tiny_bert_folder)
    checkpoints = base / "two" / "runs" / ".store"
    child = launch_processes("-m", "ftft", "run", str(recipe))
    deadline = time.monotonic() + DEADLINE
    while not any(checkpoints.glob("*/checkpoints/step_*/manifest.json")):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[0][-5000:]
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    first, _ = child.communicate(timeout=DEADLINE)
    found = next(checkpoints.glob("*/checkpoints"))
    saved = CheckpointFolder(found).newest_valid()
    leftovers = [path.name for path in found.iterdir() if ".tmp" in path.name]
    child = launch_processes("-m", "ftft", "run", str(recipe))
    second, _ = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, second[-5000:]
    one = run_recipe(load_recipe(write_job(base / "one", tiny_bert_folder)))
    two = base / "two" / "runs" / "recipe"
    return {"one": one, "two": two, "first": first, "second": second, "saved": saved, "leftovers": leftovers}


def test_ctrl_c_leaves_a_valid_checkpoint_that_the_same_command_resumes(runs):
    saved = runs["saved"]
    assert saved is not None and 0 < saved.step < 45 and runs["leftovers"] == []
    # Each sentence once, from the first process.
    assert runs["first"].count(f"interrupted at step {saved.step} of 45") == 1
    assert runs["second"].count(f"resumed at step {saved.step} of 45") == 1
    assert runs["second"].splitlines().count("stage main (2 of 2)") == 1 and runs["second"].count("report: ") == 1
    assert "find_unused_parameters" not in runs["first"] + runs["second"]


def test_result_is_that_of_one_process(runs):
    one, two = read_result(runs["one"]), read_result(runs["two"])
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
    for name in ("reference", "main"):
        ours, theirs = two["stages"][name], one["stages"][name]
        assert ours["resume_differences"] == [] and ours["selection"] == theirs["selection"]
        for field in ("steps", "planned", "best_step", "stopped_early"):
            assert ours["training"][field] == theirs["training"][field], field
        np.testing.assert_allclose(ours["training"]["losses"], theirs["training"]["losses"], rtol=0, atol=1e-10)
        for set_name, figures in theirs["evaluation"].items():
            for metric, value in figures["metrics"].items():
                found = ours["evaluation"][set_name]["metrics"][metric]
                if value["value"] is not None:
                    assert found["value"] == pytest.approx(value["value"], abs=1e-6), (set_name, metric)
    assert one["stages"]["main"]["training"]["best_step"] < one["stages"]["main"]["training"]["steps"]


def test_files_are_those_of_one_process(runs):
    for name in ("model/model.safetensors",):
        ours, theirs = load_file(runs["two"] / name), load_file(runs["one"] / name)
        assert max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs) < 1e-9
    one, two = (read_dynamics(runs[which] / "stages" / "reference" / "dynamics.parquet") for which in ("one", "two"))
    assert two.ids.equals(one.ids) and two.epochs == one.epochs == (0, 1, 2, 3, 4)
    assert two.seen.all() and np.array_equal(two.gold, one.gold)
    np.testing.assert_allclose(two.logits, one.logits, rtol=0, atol=1e-6)
    chosen = [pq.read_table(runs[which] / "stages" / "main" / "selection.parquet")["id"] for which in ("one", "two")]
    assert chosen[0].equals(chosen[1]) and len(chosen[0]) == 30
    predicted = [sorted((runs[which].parent / ".store").glob("*/predictions/*.parquet")) for which in ("one", "two")]
    assert len(predicted[0]) == len(predicted[1]) == 4  # two stages, two sets
    both = [{path.name + str(len(read_predictions(path)[0])): [] for path in paths} for paths in predicted]
    assert both[0].keys() == both[1].keys()
    events = [json.loads(line)["event"] for line in (runs["two"] / "events.jsonl").read_text().splitlines()]
    assert events.count("log") == 1 and events.count("start") == 2 and events.count("finished") == 1
    assert events.count("selected") == 3 and events.count("predicted") == 4


def test_ledger_holds_the_work_of_both_processes_once(runs):
    one, two = read_result(runs["one"]), read_result(runs["two"])
    for name in ("reference", "main"):
        ours, theirs = (result["stages"][name]["ledger"]["effective"] for result in (two, one))
        for field in ("examples", "tokens", "steps"):
            assert ours["training"][field] == theirs["training"][field]
        # Batches of 7 become 4 + 4 examples, one of them repeated; shares are padded to their own longest example.
        assert 0.8 < ours["training"]["flops"] / theirs["training"]["flops"] < 8 / 7 + 0.01
        reported = [result["stages"][name]["reporting_ledger"]["effective"]["evaluation"] for result in (two, one)]
        for field in ("flops", "examples", "tokens"):
            assert reported[0][field] == reported[1][field] > 0
    assert (
        two["stages"]["main"]["ledger"]["effective"]["evaluation"]["flops"]
        == (one["stages"]["main"]["ledger"]["effective"]["evaluation"]["flops"])
    )


def test_two_processes_verify_what_two_processes_ran(runs, fork_processes):
    child = fork_processes("verify", str(runs["two"]))
    output, _ = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, output[-5000:]
    assert output.count("reference: 5 of 45 steps match in losses and weights") == output.count("verified, bit for bit") == 1
    assert "different here" not in output


def test_wrong_recipe_is_one_sentence_of_the_first_process(tiny_bert_folder, fork_processes, tmp_path):
    recipe = write_job(tmp_path / "job", tiny_bert_folder)
    child = fork_processes("run", str(recipe), "stages.main.train.epoch=3")
    output, _ = child.communicate(timeout=DEADLINE)
    assert child.returncode != 0
    assert output.count("error: ") == output.count("epochs") == 1 and "process 1 of" not in output


@pytest.mark.parametrize("command", ["select", "score", "eval", "export", "init", "demo"])
def test_what_works_in_one_process_only_says_so(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    with pytest.raises(SystemExit) as left:
        main([command, "x"])
    assert left.value.code == 2
    assert f"`ftft {command}` works in one process, and 2 were launched" in capsys.readouterr().err
