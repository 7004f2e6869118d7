"""`ftft run` is killed, interrupted, crowded, starved of disk space and given damaged checkpoints, each time through real
processes of the command line, and what it ends with is bit for bit what an undisturbed run ends with."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
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

from ftft.engine.checkpoint import CheckpointFolder

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.processes]

EVERY = 4  # steps between the evaluations of the stage that stops early
STAGES = ("erm", "reference", "ftft")
COUNTED = ("flops", "examples", "tokens", "steps")


# -- the job ------------------------------------------------------------------------------------------------------------


WORDS = ("film", "plot", "man", "dog", "cat", "sits", "runs", "old", "young")


def write_rows(path: Path, count: int, seed: int, noise: float) -> None:
    source = random.Random(seed)
    with path.open("w") as stream:
        for number in range(count):
            label = source.choice(["yes", "no"])
            words = [source.choice(WORDS) for _ in range(source.randint(2, 12))]
            telling = "good" if (label == "yes") != (source.random() < noise) else "bad"
            words.insert(source.randrange(len(words) + 1), telling)
            stream.write(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": label}) + "\n")


def write_job(folder: Path, model: Path) -> Path:
    """A folder to run in: data, a model, ``three.yaml`` (erm, reference, ftft) and ``one.yaml`` (the same erm alone)."""
    folder.mkdir()
    shutil.copytree(model, folder / "model")
    for name, count, noise in (("train", 96, 0.2), ("validation", 30, 0.2), ("id", 40, 0.2), ("ood", 40, 0.4)):
        write_rows(folder / f"{name}.jsonl", count, seed=len(name), noise=noise)
    train = {"batch_size": 8, "micro_batch_size": 4, "precision": "fp32", "checkpoint_seconds": 0.001}
    optimize = {"name": "adamw", "learning_rate": 2e-3}
    evaluate = {"name": "classification", "resamples": 20}
    erm = {"model": {"path": "model"}, "train": {**train, "steps": 24}, "optimize": optimize, "evaluate": evaluate}
    reference = {**erm, "model": {"path": "model", "keep_layers": 2}, "dynamics": {"mode": "online"}}
    ftft = {
        **erm,
        "use_dynamics_of": "reference",
        "select": {"name": "top", "score": "variability", "fraction": 0.34},
        "train": {**train, "steps": 60, "evaluate_every": EVERY},
        "stop": {"patience": 3, "metric": "loss"},
        "combine": "best",
    }
    recipe: dict[str, Any] = {
        "data": {
            "train": {"path": "train.jsonl"},
            "columns": {"id": "id", "text": ["text"], "label": "label"},
            "evaluation": {
                "validation": {"path": "validation.jsonl", "role": "id", "split": "validation"},
                "id": {"path": "id.jsonl", "role": "id"},
                "ood": {"path": "ood.jsonl", "role": "ood"},
            },
        },
        "baseline": "erm",
        "stages": {"erm": erm, "reference": reference, "ftft": ftft},
    }
    (folder / "three.yaml").write_text(json.dumps(recipe, indent=1))
    (folder / "one.yaml").write_text(json.dumps({**recipe, "stages": {"erm": erm}}, indent=1))
    return folder


# -- processes ----------------------------------------------------------------------------------------------------------


class Run:
    """A process of `ftft run` in a job's folder."""

    server: Any  # the command_server of conftest.py

    def __init__(self, folder: Path, recipe: str, *overrides: str, largest_file: int | None = None) -> None:
        self.folder = folder / "runs" / Path(recipe).stem
        self.log = self.folder / "events.jsonl"
        self.told_before = self.log.stat().st_size if self.log.exists() else 0
        self.store = folder / "runs" / ".store"
        self.process = self.server.start(folder, "run", recipe, *overrides, largest_file=largest_file)
        self.over, self.ended = self.process.over, self.process.wait

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.over():
            self.send(signal.SIGKILL)  # ends a stopped process too
            self.ended()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def events(self) -> list[dict[str, Any]]:
        """What this process has written to the run's log of events."""
        if not self.log.exists():
            return []
        lines = self.log.read_bytes()[self.told_before :].split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events() if one["event"] == event]

    def stage(self) -> str | None:
        """The stage that is being trained."""
        stages = self.told("selected")
        return stages[-1]["stage"] if stages else None

    def working_folder(self) -> Path | None:
        """The store's folder of the stage that is being trained."""
        found = [path.parent for path in self.store.glob("*/checkpoints") if not (path.parent / "finished.json").exists()]
        return found[0] if found else None

    def progress(self) -> tuple[int, int]:
        """Of the stage in work: the step of the newest checkpoint, and the steps its journal of costs knows of (done again
        ones counted too); 0 where there is none."""
        folder = self.working_folder()
        if folder is None:
            return 0, 0
        steps = CheckpointFolder(folder / "checkpoints").steps()
        try:
            lines = (folder / "ledger.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            lines = []
        return (steps[-1] if steps else 0), (json.loads(lines[-1])["spent"]["training"]["steps"] if lines else 0)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what the process writes; fails when it ends before, or takes too long."""
        until = time.monotonic() + Run.server.deadline
        while not condition():
            if self.over():
                pytest.fail(f"the run ended before {what}: {self.process.output.read_text()}")
            assert time.monotonic() < until, f"no {what} in {Run.server.deadline} s"
            time.sleep(0.001)

    def freeze_when(self, condition: Callable[[], bool], what: str) -> None:
        """Stop the process at a moment when ``condition`` holds: it is looked at again while nothing moves."""
        while True:
            self.wait_until(condition, what)
            self.send(signal.SIGSTOP)
            while not self.over() and psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
            if condition():
                return
            self.send(signal.SIGCONT)

    def kill_when(self, condition: Callable[[], bool], what: str) -> None:
        self.freeze_when(condition, what)
        self.send(signal.SIGKILL)
        assert self.ended()[0] == -signal.SIGKILL

    def beyond_checkpoint(self, stage: str, step: int, before: int) -> Callable[[], bool]:
        """Whether ``stage`` has a checkpoint, is between the steps ``step`` and ``before``, and has work to lose."""

        def condition() -> bool:
            if self.stage() != stage:
                return False
            saved, done = self.progress()
            return 0 < saved < done and step <= done < before

        return condition


def finish(folder: Path, recipe: str, *overrides: str) -> str:
    """Run to the end; what was printed."""
    with Run(folder, recipe, *overrides) as run:
        code, output = run.ended()
    assert code == 0 and "Traceback" not in output, output
    return output


def one_sentence(output: str) -> str:
    """The last line, which must be the only one that speaks of an error or an interruption."""
    lines = [line for line in output.splitlines() if line.strip()]
    assert "Traceback" not in output and not any(re.match(r"error: |interrupted", line) for line in lines[:-1]), output
    return lines[-1]


# -- what a run leaves --------------------------------------------------------------------------------------------------


def result(folder: Path, recipe: str = "three") -> dict[str, Any]:
    return json.loads((folder / "runs" / recipe / "result.json").read_text())


def spent(book: dict[str, Any]) -> dict[str, Any]:
    """A ledger's exact figures; seconds are another matter."""
    return {phase: {name: cost[name] for name in COUNTED} for phase, cost in book.items()}


def outcome(folder: Path, recipe: str = "three") -> dict[str, Any]:
    """Everything about a finished run that no interruption may change."""
    found, run = result(folder, recipe), folder / "runs" / recipe
    tables = sorted(path.relative_to(run).as_posix() for path in run.glob("stages/*/*.parquet"))
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "tables": {name: pq.read_table(run / name) for name in tables},
        "stages": {
            name: {
                **{key: stage[key] for key in ("key", "artefact", "selection", "training", "evaluation", "resume_differences")},
                "effective": spent(stage["ledger"]["effective"]),
                "reporting": spent(stage["reporting_ledger"]["effective"]),
                "cost": {key: stage["cost"][key] for key in ("flops", "erm_flops", "fraction_of_erm")},
            }
            for name, stage in found["stages"].items()
        },
        "stamps": found["stamps"],
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["stages"] == other["stages"] and one["stamps"] == other["stamps"]
    assert one["tables"].keys() == other["tables"].keys()
    for name, table in one["tables"].items():
        assert table.equals(other["tables"][name]), name
    assert one["weights"] == other["weights"]


def repeated_steps(folder: Path, stage: str, recipe: str = "three") -> int:
    return result(folder, recipe)["stages"][stage]["ledger"]["repeated"].get("training", {"steps": 0})["steps"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, command_server: Any) -> Callable[[], Path]:
    """``job()``: a new folder with the same job each time."""
    root = tmp_path_factory.mktemp("jobs")
    Run.server = command_server
    return lambda: write_job(root / f"job{len(list(root.iterdir()))}", tiny_bert_folder)


@pytest.fixture(scope="module")
def undisturbed_folder(job: Callable[[], Path], command_server: Any) -> Path:
    folder = job()
    server, command = command_server, [sys.executable, "-m", "ftft", "run", "three.yaml"]
    done = subprocess.run(command, cwd=folder, env=server.environment, capture_output=True, text=True, timeout=server.deadline)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(undisturbed_folder: Path) -> dict[str, Any]:
    """The outcome of a run that nothing happened to. It stops early, and not at its best step."""
    found = outcome(undisturbed_folder)
    training = found["stages"]["ftft"]["training"]
    assert training["stopped_early"] and EVERY <= training["best_step"] == training["steps"] - 3 * EVERY
    assert found["stages"]["ftft"]["selection"]["examples"] == 32
    assert len(found["tables"]["stages/reference/dynamics.parquet"]) == 96
    return found


@pytest.fixture(scope="module")
def killed(job: Callable[[], Path], undisturbed: dict[str, Any]) -> Path:
    """A job that was killed in its last stage while patience was running out; to be copied, not to be run in."""
    folder, training = job(), undisturbed["stages"]["ftft"]["training"]
    with Run(folder, "three.yaml") as run:

        def waiting() -> bool:
            stage = run.working_folder()
            steps = CheckpointFolder(stage / "checkpoints").steps() if stage is not None and run.stage() == "ftft" else []
            return len(steps) == 2 and training["best_step"] + EVERY < steps[1] < training["steps"] and steps[1] % EVERY != 0

        run.kill_when(waiting, "a checkpoint between evaluations, after the first one that was no better")
    assert waiting()
    return folder


def checkpoints_of(folder: Path) -> CheckpointFolder:
    (found,) = (folder / "runs" / ".store").glob("*/checkpoints")
    return CheckpointFolder(found)


# -- the tests ----------------------------------------------------------------------------------------------------------


def test_killed_once_in_every_stage_it_ends_as_if_undisturbed(job: Callable[[], Path], undisturbed: dict[str, Any]) -> None:
    folder, moments = job(), random.Random(11)
    for stage in STAGES:
        planned = undisturbed["stages"][stage]["training"]["steps"]
        at = moments.randrange(3, planned // 2)
        with Run(folder, "three.yaml") as run:
            run.kill_when(run.beyond_checkpoint(stage, at, planned), f"step {at} of stage {stage}")
        if stage == "erm":
            with Run(folder, "three.yaml") as run:
                run.kill_when(lambda: bool(run.told("predicted")) and not run.told("evaluated"), "a set predicted")
    output = finish(folder, "three.yaml")
    assert re.search(r"resumed at step \d+ of 60", output)
    assert_same(outcome(folder), undisturbed)
    for stage in STAGES:
        assert repeated_steps(folder, stage) > 0
        assert result(folder)["stages"][stage]["ledger"]["repeated"]["training"]["flops"] > 0


def test_interrupted_politely_it_saves_says_how_to_go_on_and_does(job: Callable[[], Path], undisturbed: dict[str, Any]) -> None:
    folder = job()
    with Run(folder, "three.yaml") as run:
        run.wait_until(lambda: bool(run.events()), "a first event, long before the training")
        run.send(signal.SIGTERM)
        code, output = run.ended()
        assert (code, one_sentence(output)) == (130, "interrupted; run the same command again to resume")
    for stage, number in (("erm", signal.SIGINT), ("reference", signal.SIGTERM)):
        with Run(folder, "three.yaml") as run:
            run.wait_until(run.beyond_checkpoint(stage, 3, 22), f"steps of stage {stage}")
            run.send(number)
            code, output = run.ended()
            assert code == 130
            sentence = r"interrupted at step (\d+) of 24, which is saved; run the same command again to resume"
            told = re.fullmatch(sentence, one_sentence(output))
            assert told, output
            newest = checkpoints_of(folder).newest_valid(only=())
            assert newest is not None and newest.step == int(told.group(1))
    with Run(folder, "three.yaml") as run:
        run.wait_until(run.beyond_checkpoint("ftft", 3, 15), "steps of stage ftft")
        run.send(signal.SIGINT)

        def saving() -> bool:
            return any((run.working_folder() or folder).glob("checkpoints/step_*.tmp-*")) or run.over()

        run.wait_until(saving, "a checkpoint being written")
        run.send(signal.SIGINT)
        code, output = run.ended()
        assert code == 130 and "run the same command again to resume" in one_sentence(output)
    finish(folder, "three.yaml")
    assert_same(outcome(folder), undisturbed)
    assert [repeated_steps(folder, stage) for stage in ("erm", "reference")] == [0, 0], "nothing is lost to an interruption"


def test_a_second_run_in_the_folder_is_refused_and_one_that_shares_a_stage_waits_for_it(
    job: Callable[[], Path], undisturbed: dict[str, Any]
) -> None:
    folder = job()
    with Run(folder, "three.yaml") as first:
        first.freeze_when(lambda: first.stage() == "erm" and first.progress()[0] > 0, "a checkpoint")
        with Run(folder, "three.yaml") as second:
            code, output = second.ended()
        assert code == 2
        sentence = one_sentence(output)
        assert f"another run (process {first.process.pid}) is already working in" in sentence and "runs/three" in sentence
        with Run(folder, "one.yaml") as other:
            other.wait_until(lambda: bool(other.told("waiting")), "word that the other run waits")
            first.send(signal.SIGCONT)
            code, output = other.ended()
        assert code == 0, output
        assert f"process {first.process.pid}" in output and "waiting for it to finish" in output
        assert [event["event"] for event in other.events()].count("evaluation") == 0 == len(other.told("selected"))
        code, output = first.ended()
        assert code == 0, output
    assert_same(outcome(folder), undisturbed)
    shared, own = result(folder, "one")["stages"]["erm"], result(folder)["stages"]["erm"]
    assert shared["reused"] and shared["ledger"]["reused"] and not own["reused"]
    assert shared["key"] == own["key"] and shared["evaluation"] == own["evaluation"]
    assert shared["cost"]["flops"] == own["cost"]["flops"] > 0 and shared["ledger"]["effective"] == own["ledger"]["effective"]
    assert shared["cost"]["reused"] == ["erm"]


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "training.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def flip(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def delete(checkpoint: Path) -> None:
    (checkpoint / "training.json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip, delete])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], None], killed: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(killed, tmp_path / "job")
    saved = checkpoints_of(folder)
    before, newest = saved.steps()
    damage(saved.path(newest))
    output = finish(folder, "three.yaml")
    assert f"warning: the checkpoint of step {newest} is passed over" in output
    assert f"resumed at step {before} of 60" in output
    assert_same(outcome(folder), undisturbed)
    assert repeated_steps(folder, "ftft") >= newest - before


def test_patience_and_the_best_weights_survive_and_damaged_best_weights_are_made_again(
    killed: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    training = undisturbed["stages"]["ftft"]["training"]
    saved = checkpoints_of(killed)
    newest = saved.newest_valid()
    assert newest is not None
    assert newest.trees["training"]["stopping"]["waited"] > 0 and newest.step % EVERY != 0
    assert newest.trees["training"]["stopping"]["best_step"] == training["best_step"]

    folder = shutil.copytree(killed, tmp_path / "sound")
    assert f"resumed at step {newest.step} of 60" in finish(folder, "three.yaml")
    assert_same(outcome(folder), undisturbed)

    folder = shutil.copytree(killed, tmp_path / "damaged")
    flip(CheckpointFolder(checkpoints_of(folder).folder / "best").path(training["best_step"]))
    output = finish(folder, "three.yaml")
    assert f"the checkpoint of step {newest.step} is passed over" in output and "best" in output
    assert_same(outcome(folder), undisturbed)
    assert repeated_steps(folder, "ftft") >= newest.step


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    job: Callable[[], Path], undisturbed: dict[str, Any]
) -> None:
    folder = job()
    wrong = ["stages.erm.optimize.learning_rate=1.0e+30", "stages.erm.train.clip=null"]
    with Run(folder, "one.yaml", *wrong) as run:
        code, output = run.ended()
    assert code == 2
    # The first step has the learning rate 0, the second one spoils the weights, the third one finds out.
    assert re.fullmatch(
        r"error: the loss became (nan|inf) at step 3 of 24 and training stopped \(the checkpoint of step 1 is kept\); try a "
        r"lower learning_rate, .*", one_sentence(output)
    )  # fmt: skip
    kept = checkpoints_of(folder).newest_valid()
    assert kept is not None and kept.step == 1
    assert max(float(value.abs().max()) for value in kept.trees["model"].values() if value.is_floating_point()) < 100
    assert not (folder / "runs" / "one" / "result.json").exists()
    finish(folder, "one.yaml")
    assert_same_stage(result(folder, "one"), undisturbed)


def assert_same_stage(found: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """The recipe of one stage gives what that stage gives among three."""
    expected, stage = undisturbed["stages"]["erm"], found["stages"]["erm"]
    assert {key: stage[key] for key in ("key", "training", "evaluation")} == {
        key: expected[key] for key in ("key", "training", "evaluation")
    }
    assert spent(stage["ledger"]["effective"]) == expected["effective"]


SMALL = 30_000  # bytes: less than the weights, more than the lists of events and examples


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the results and the checkpoints; locks, logs and the journal go on."""
    growing = {".lock", "events.jsonl", "ledger.jsonl"}
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in growing)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_full_disk_while_saving_costs_no_good_file_and_space_mends_it(
    killed: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(killed, tmp_path / "job")
    saved = checkpoints_of(folder).folder
    # The kill may have left a checkpoint half-written or half-removed, under a name that says so: those go.
    before = {name: content for name, content in contents(saved).items() if not re.search(r"\.(tmp|old)-", name)}
    assert max(len(content) for content in before.values()) > SMALL
    with Run(folder, "three.yaml", largest_file=SMALL) as run:
        code, output = run.ended()
    assert code == 2
    assert re.fullmatch(r"error: cannot write \S*step_\d+: the file would be larger than is allowed .*", one_sentence(output))
    assert contents(saved) == before, "the checkpoints are those of before, and nothing half-written lies beside them"
    finish(folder, "three.yaml")
    assert_same(outcome(folder), undisturbed)


def test_a_full_disk_at_the_very_end_leaves_the_model_that_was_there(
    undisturbed_folder: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed_folder, tmp_path / "job")
    model = folder / "runs" / "three" / "model"
    before = contents(model)
    with Run(folder, "three.yaml", "main=erm", largest_file=SMALL) as run:
        code, output = run.ended()
    assert code == 2
    assert re.fullmatch(r"error: cannot write \S*three/model: the file would be larger .*", one_sentence(output))
    assert contents(model) == before and not list(model.parent.glob(".model*"))
    finish(folder, "three.yaml")
    assert_same(outcome(folder), undisturbed)
