"""A stage's search in real processes of the command line, killed with SIGKILL within a trial, between two trials, and while a
trial is being kept: it goes on with the trial it was at and ends bit for bit as an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from ftft.run.reading import recipe_to_yaml

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.processes]

COUNTED = ("flops", "examples", "tokens", "steps")
KILLED = -signal.SIGKILL
PATIENCE = 240.0  # seconds
TRIALS, STEPS = 8, 5

# `ftft run job.yaml`, which kills itself after so many steps of a trial (from 1); step 0: when that trial has been kept.
KILLING = """
import os, signal, sys
from ftft.engine import loop
from ftft.run import searching

trial, step = int(sys.argv[1]), int(sys.argv[2])
loop.JOURNAL_SECONDS = 0.0  # what a kill loses is known
resume, keep, tried = searching.StageSearch._resume, searching.StageSearch._keep, []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Loop(searching.TrainingLoop):
    def _train_step(self, rows, epoch):
        if len(tried[0]) + 1 == trial and self.step == step > 0:
            die()
        super()._train_step(rows, epoch)

def resumed(self):
    found = resume(self)
    tried.append(found.tried)
    return found

def kept(self, found):
    keep(self, found)
    if len(found.tried) == trial and step == 0:
        die()

searching.TrainingLoop, searching.StageSearch._resume, searching.StageSearch._keep = Loop, resumed, kept

from ftft.cli.main import main
main(["run", "job.yaml"])
"""


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> Callable[[], Path]:
    """``job()``: a new folder with the same ``job.yaml`` each time, a stage that is searched."""
    search: dict[str, Any] = {"on": ["ood_validation"], "trials": TRIALS, "steps": STEPS, "sampler": "random", "metric": "loss"}
    train = {"steps": 8, "batch_size": 8, "precision": "fp32", "checkpoint_seconds": 0.001}
    search["space"] = {"optimize.learning_rate": {"low": 1e-4, "high": 1e-1}}
    stages = {"main": {"search": search, "train": train, "optimize": {"name": "adamw", "learning_rate": 1e-4}}}

    def made() -> Path:
        folder = tmp_path_factory.mktemp("job")
        recipe = tiny_recipe(folder, tiny_bert_folder, stages, name="job")
        (folder / "job.yaml").write_text(recipe_to_yaml(recipe))
        return folder

    return made


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/job/result.json").read_text())["stages"]["main"]


def spent(book: dict[str, Any]) -> dict[str, Any]:
    """A ledger's exact figures; seconds are another matter."""
    return {phase: {name: cost[name] for name in COUNTED} for phase, cost in book.items()}


def outcome(folder: Path) -> dict[str, Any]:
    """Everything about a finished run that no interruption may change."""
    stage, run = result(folder), folder / "runs" / "job"
    found = {key: stage[key] for key in ("key", "search", "selection", "training", "evaluation", "artefact", "steered_by")}
    found["effective"] = spent(stage["ledger"]["effective"])
    found["weights"] = (run / "model" / "model.safetensors").read_bytes()
    found["predictions"] = {path.name: pq.read_table(path) for path in sorted(run.glob("stages/main/predictions/*.parquet"))}
    return found


def assert_same(folder: Path, expected: dict[str, Any]) -> None:
    found = outcome(folder)
    assert [name for name in expected if found[name] != expected[name]] == []


def trials_kept(folder: Path) -> int:
    found = list((folder / "runs").glob(".store/*/search.json"))
    return len(json.loads(found[0].read_text())["trials"]) if found else 0


def seconds_of_a_trial(folder: Path) -> float:
    """As those that were kept took."""
    (path,) = (folder / "runs").glob(".store/*/search.json")
    content = json.loads(path.read_text())
    return float(content["ledger"]["effective"]["search"]["seconds"] / len(content["trials"]))


def kill_at(folder: Path, trial: int, step: int) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLING, str(trial), str(step)]
    done = subprocess.run(command, cwd=folder, env=environment, timeout=PATIENCE, capture_output=True, text=True)
    assert done.returncode == KILLED, done.stdout + done.stderr


def finish(command_server: Any, folder: Path) -> list[int]:
    """Run to the end; the numbers of the trials that were still made."""
    log = folder / "runs/job/events.jsonl"
    before = log.stat().st_size if log.exists() else 0
    code, output = command_server.start(folder, "run", "job.yaml").wait()
    assert code == 0 and "Traceback" not in output, output
    events = [json.loads(line) for line in log.read_bytes()[before:].splitlines() if line.endswith(b"}")]
    return [event["number"] for event in events if event["event"] == "trial"]


@pytest.fixture(scope="module")
def undisturbed(command_server: Any, job: Callable[[], Path]) -> dict[str, Any]:
    folder = job()
    assert finish(command_server, folder) == list(range(1, TRIALS + 1))
    found = outcome(folder)
    trials = found["search"]["trials"]
    assert found["search"]["trial"] > 0 and len({one["score"] for one in trials}) == TRIALS, (
        "what is chosen is not what comes first"
    )
    assert found["effective"]["search"]["steps"] == TRIALS * STEPS
    return found


def test_killed_within_and_between_trials_it_ends_as_if_undisturbed(
    command_server: Any, job: Callable[[], Path], undisturbed: dict[str, Any]
) -> None:
    folder = job()
    kill_at(folder, trial=2, step=3)
    assert trials_kept(folder) == 1
    kill_at(folder, trial=4, step=0)
    assert trials_kept(folder) == 4
    trouble = {"kind": "kill", "at": "rename .store/<key>/search.json"}
    assert command_server.start(folder, "run", "job.yaml", trouble=trouble).wait()[0] == KILLED
    assert trials_kept(folder) == 4, "the fifth was made, and killed before it was kept"
    assert finish(command_server, folder) == [5, 6, 7, 8]
    assert_same(folder, undisturbed)
    assert result(folder)["ledger"]["repeated"]["search"]["steps"] == 3 + STEPS, "of the second, and the fifth"


def test_killed_at_random_moments_it_ends_as_if_undisturbed(
    command_server: Any, job: Callable[[], Path], undisturbed: dict[str, Any]
) -> None:
    folder, moments = job(), random.Random(4)
    for trial in (1, 2, 3):
        process = command_server.start(folder, "run", "job.yaml")
        until = time.monotonic() + PATIENCE
        while trials_kept(folder) < trial:
            assert not process.over() and time.monotonic() < until, process.output.read_text()
            time.sleep(0.001)
        until = time.monotonic() + moments.random() * seconds_of_a_trial(folder)
        while time.monotonic() < until:
            time.sleep(0.001)
        psutil.Process(process.pid).kill()
        assert process.wait()[0] == KILLED
    kept = trials_kept(folder)
    assert finish(command_server, folder) == list(range(kept + 1, TRIALS + 1))
    assert_same(folder, undisturbed)
