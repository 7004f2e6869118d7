"""Examples that a model writes before a stage trains: what was written is kept batch by batch, so that an interruption, kill -9
included, loses one batch at most, and what comes out is bit for bit what comes out undisturbed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import ftft.engine.writing
import ftft.tasks.decoding
from ftft.engine.kept_answers import KeptAnswers
from ftft.errors import Interrupted
from ftft.run.reading import load_recipe
from ftft.run.runner import run_recipe

WORDS = ["good", "bad", "film", "movie", "dog", "cat", "people", "place", "plot", "food", "man", "woman"]
COUNTED = ("flops", "examples", "tokens", "steps")
KEPT = ".store/*/checkpoints/answers.jsonl"


# -- a run that is interrupted ---------------------------------------------------------------------------------------


def write_job(folder: Path, model: Path, rows: int) -> Path:
    """A folder with data, a model and ``job.yaml``: a stage that learns from what its model writes. Of three rows its own
    answer is right in one; of the others its paraphrase is, but where the number is one that it has never seen."""
    folder.mkdir(parents=True)
    shutil.copytree(model, folder / "model")
    source = random.Random(rows)
    for name, size in (("train", rows), ("test", 4)):
        lines = []
        for row in range(size):
            place, begins = source.randrange(len(WORDS)), [source.choice(WORDS) for _ in range(source.randrange(6))]
            number = (place % 3, (place + 1) % 3, source.choice([place + 2, 9]) % 3 + 3 * source.randrange(2))[row % 3]
            asked = " ".join([*begins, "the", WORDS[place], "a"])
            lines.append(json.dumps({"id": f"{name}-{row}", "prompt": asked, "completion": f"it is {number}"}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    main = {
        "model": {"path": "model"},
        "create": {"name": "s3ft", "max_tokens": 9, "instruction": "{prompt} {answer}"},
        "train": {"steps": 6, "batch_size": 8, "precision": "fp32"},
        "dynamics": {"mode": "online"},
        "evaluate": {"name": "language_modelling", "resamples": 0},
    }
    recipe = {
        "task": {"name": "causal_language_modelling", "max_length": 64},
        "data": {
            "train": {"path": "train.jsonl"},
            "columns": {"id": "id"},
            "evaluation": {"test": {"path": "test.jsonl", "role": "id", "split": "validation"}},
        },
        "stages": {"main": main},
    }
    (folder / "job.yaml").write_text(json.dumps(recipe))
    return folder


def spent(book: dict[str, Any]) -> dict[str, Any]:
    """A ledger's exact figures; seconds are another matter."""
    return {phase: {name: cost[name] for name in COUNTED} for phase, cost in book.items()}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/job/result.json").read_text())


def outcome(folder: Path) -> dict[str, Any]:
    """Everything about a finished run that no interruption may change."""
    stage, run = result(folder)["stages"]["main"], folder / "runs" / "job"
    found: dict[str, Any] = {key: stage[key] for key in ("key", "selection", "creation", "training", "evaluation", "artefact")}
    for name in ("created", "selection", "dynamics"):
        found[name] = pq.read_table(run / f"stages/main/{name}.parquet")
    found["weights"] = (run / "model" / "model.safetensors").read_bytes()
    found["effective"] = spent(stage["ledger"]["effective"])
    return found


def assert_same(folder: Path, expected: dict[str, Any], marks: int = 0) -> None:
    found = outcome(folder)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert len(result(folder)["stages"]["main"]["resume_differences"]) == marks
    assert not list((folder / "runs").glob(KEPT)), "removed once the creation is finished"


class Told:
    """What a run has told, by event; a Ctrl-C comes after ``stop_at`` batches were written."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.stop_at = stop_at

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "written" and len(self.of("written")) == self.stop_at:
            raise KeyboardInterrupt

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


ROWS, AT_ONCE = 24, 4


@pytest.fixture(scope="module")
def small_batches() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ftft.tasks.decoding, "AT_ONCE", AT_ONCE)
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, small_batches: None) -> Callable[..., Told]:
    """``run(folder, *overrides, told=)``: run the job in this process; what was told."""

    def started(folder: Path, *overrides: str, told: Told | None = None) -> Told:
        told = told or Told()
        monkeypatch.chdir(folder)
        run_recipe(load_recipe(Path("job.yaml"), list(overrides)), notify=told)
        return told

    return started


@pytest.fixture(scope="module")
def undisturbed(
    answering_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory, small_batches: None
) -> tuple[dict[str, Any], Told]:
    """What the job ends with, and what it tells, when nothing happens to it."""
    folder, told = write_job(tmp_path_factory.mktemp("jobs") / "undisturbed", answering_llama_folder, ROWS), Told()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        run_recipe(load_recipe(Path("job.yaml")), notify=told)
    found = outcome(folder)
    assert all(found["creation"]["counts"][source] >= 2 for source in ("self", "paraphrase", "gold"))
    assert len(set(found["created"]["input.completion"].to_pylist())) >= 8
    assert [(one["done"], one["asked"]) for one in told.of("written")[: ROWS // AT_ONCE]] == [
        (done, ROWS) for done in range(AT_ONCE, ROWS + 1, AT_ONCE)
    ]
    assert len(told.of("written")) > ROWS // AT_ONCE + 1, "it paraphrases in more than one batch"
    assert "creation" not in result(folder)["stages"]["main"]["ledger"]["repeated"]
    return found, told


@pytest.fixture
def job(answering_llama_folder: Path, tmp_path: Path) -> Path:
    return write_job(tmp_path / "job", answering_llama_folder, ROWS)


def test_interrupted_between_batches_it_goes_on_behind_them(
    job: Path, run: Callable[..., Told], undisturbed: tuple[dict[str, Any], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, all_told = undisturbed
    batches, kept = len(all_told.of("written")), 0
    for more in (2, batches - 3):
        told = Told(stop_at=more)
        with pytest.raises(Interrupted) as error:
            run(job, told=told)
        assert told.of("creating")[0]["kept"] == kept
        (path,) = (job / "runs").glob(KEPT)
        batches_kept = KeptAnswers(path, pytest.fail).batches
        kept = sum(len(one.answers) for one in batches_kept.values())
        assert str(error.value) == (
            f"interrupted while stages.main.create was writing; {kept} answers are kept, and the same command goes on behind "
            "them"
        )
    counters = []
    start = ftft.engine.writing.CountedWriting.__post_init__
    monkeypatch.setattr(
        ftft.engine.writing.CountedWriting, "__post_init__", lambda writer: (start(writer), counters.append(writer.flops))
    )
    told = run(job)
    before = {shape for one in batches_kept.values() for shape in one.shapes}
    assert len(before) > 9 and before <= counters[0].known.keys(), "what was counted before is not counted anew"
    assert told.of("creating")[0]["kept"] == kept and len(told.of("written")) == 1
    assert told.of("written")[-1] == all_told.of("written")[-1]
    assert_same(job, expected)
    lost = spent(result(job)["stages"]["main"]["ledger"]["repeated"]).get("creation", {})
    assert not any(lost.values()), "no batch was lost"


class Killed(Exception):
    pass


def test_what_a_kill_within_a_batch_loses_is_booked_as_repeated(
    job: Path, run: Callable[..., Told], undisturbed: tuple[dict[str, Any], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, forwards = undisturbed[0], 0
    count = ftft.engine.writing.CountedWriting._count

    @contextlib.contextmanager
    def killing(self: Any, kind: str, rows: int, tokens: int) -> Any:
        nonlocal forwards
        forwards += 1
        if len(self.kept.batches) == 3 and kind == "decode":
            raise Killed
        with count(self, kind, rows, tokens):
            yield

    with monkeypatch.context() as patched:
        patched.setattr(ftft.engine.writing, "JOURNAL_SECONDS", 0.0)
        patched.setattr(ftft.engine.writing.CountedWriting, "_count", killing)
        with pytest.raises(Killed):
            run(job)
    assert forwards > 6
    told = run(job)
    assert told.of("creating")[0]["kept"] == 3 * AT_ONCE and told.of("written")[0]["done"] == 4 * AT_ONCE
    assert_same(job, expected)
    lost = result(job)["stages"]["main"]["ledger"]["repeated"]["creation"]
    assert 0 < lost["flops"] < expected["effective"]["creation"]["flops"] / 6 and lost["examples"] == 0


def test_damaged_answers_are_written_anew(
    job: Path, run: Callable[..., Told], undisturbed: tuple[dict[str, Any], Told]
) -> None:
    with pytest.raises(Interrupted):
        run(job, told=Told(stop_at=5))
    (path,) = (job / "runs").glob(KEPT)
    content = path.read_bytes().replace(b'"film 2"', b'"film 1"', 1)  # an answer that is right becomes one that is not
    path.write_bytes(content[:-9])
    told = run(job)
    assert told.of("creating")[0]["kept"] == 3 * AT_ONCE
    said = [event["text"] for event in told.of("warning")]
    assert f"1 of the batches of answers kept in {path} are damaged; these are written anew".replace(f"{job}/", "") in said
    assert_same(job, undisturbed[0])
    lost = result(job)["stages"]["main"]["ledger"]["repeated"]["creation"]
    assert lost["examples"] == 2 * AT_ONCE, "what the journal knows of"


@pytest.mark.parametrize("change", ["stages.main.create.max_tokens=8", "task.max_length=63", "stages.main.model.keep_layers=1"])
def test_another_recipe_takes_none_of_the_answers(job: Path, run: Callable[..., Told], change: str) -> None:
    with pytest.raises(Interrupted):
        run(job, told=Told(stop_at=3))
    told = Told(stop_at=1)
    with pytest.raises(Interrupted):
        run(job, change, told=told)
    assert told.of("creating")[0]["kept"] == 0 and told.of("written")[0]["done"] == AT_ONCE
    again = Told(stop_at=1)
    with pytest.raises(Interrupted):
        run(job, told=again)
    assert again.of("creating")[0]["kept"] == 3 * AT_ONCE


def test_going_on_under_other_conditions_warns_and_marks_the_result(
    job: Path, run: Callable[..., Told], undisturbed: tuple[dict[str, Any], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ftft.engine.writing.provenance
    with monkeypatch.context() as patched:
        patched.setattr(ftft.engine.writing, "provenance", lambda: {**here(), "threads": 99})
        with pytest.raises(Interrupted):
            run(job, told=Told(stop_at=2))
    told, mark = run(job), "the number of threads was 99 and is "
    (said,) = [event["text"] for event in told.of("warning") if "other conditions" in event["text"]]
    assert said.startswith(f"stages.main.create goes on under other conditions ({mark}") and said.endswith("is marked")
    assert_same(job, undisturbed[0], marks=1)
    found = result(job)
    assert any(f"stage main was resumed under other conditions: {mark}" in stamp for stamp in found["stamps"])
    assert run(job).of("creating") == []


# -- kills of real processes -----------------------------------------------------------------------------------------


KILLED = -signal.SIGKILL
PATIENCE = 240.0  # seconds
MANY = 640  # rows: ten batches of its own answers, and some of paraphrases
FOLDER = ".store/<key>/checkpoints"
WRITES = {  # the moments of writing that a kill is to come at
    "a batch that is being kept": f"open {FOLDER}/answers.jsonl",
    "a batch that is cut off": f"flush {FOLDER}/answers.jsonl",
    "the books": f"flush {FOLDER}/ledger.jsonl",
    "what was made": "rename .store/<key>/created.parquet",
    "the creation's record": "rename .store/<key>/finished.json",
    "the answers that are no longer needed": f"remove {FOLDER}/answers.jsonl",
}


def kills_processes(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.kill(pytest.mark.slow(pytest.mark.processes(test)))


def events_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "runs/job/events.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.endswith(b"}")] if path.exists() else []


def told_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events_of(folder) if event["event"] == name]


def wait_for_batches(process: Any, folder: Path, number: int, more_seconds: float = 0.0) -> None:
    """Until so many batches were written in the folder, in this process or before, and a while longer."""
    until = time.monotonic() + PATIENCE
    while len(told_of(folder, "written")) < number:
        assert not process.over() and time.monotonic() < until, process.output.read_text()
        time.sleep(0.001)
    until = time.monotonic() + more_seconds
    while time.monotonic() < until:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def jobs(answering_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    root = tmp_path_factory.mktemp("kills")
    return lambda: write_job(root / f"job{len(list(root.iterdir()))}", answering_llama_folder, MANY)


@pytest.fixture(scope="module")
def straight(command_server: Any, jobs: Callable[[], Path]) -> tuple[dict[str, Any], float, list[str]]:
    """(outcome, seconds of writing, moments of its writing to the disk) of a run that nothing happens to."""
    folder = jobs()
    process = command_server.start(folder, "run", "job.yaml", trouble={"kind": "watch", "at": None})
    code, output = process.wait()
    assert code == 0, output
    found, written = outcome(folder), told_of(folder, "written")
    assert all(found["creation"]["counts"][source] >= 20 for source in ("self", "paraphrase", "gold"))
    assert len(written) >= 16 and written[9]["done"] == MANY
    seconds = told_of(folder, "created")[0]["time"] - told_of(folder, "creating")[0]["time"]
    moments = process.output.with_suffix(".moments").read_text().splitlines()
    assert set(WRITES.values()) <= set(moments), set(WRITES.values()) - set(moments)
    return found, seconds, moments


@kills_processes
def test_killed_at_random_moments_of_writing_it_ends_as_if_undisturbed(
    command_server: Any, jobs: Callable[[], Path], straight: tuple[dict[str, Any], float, list[str]]
) -> None:
    expected, seconds, _ = straight
    folder, moments = jobs(), random.Random(23)
    for written in (1, 2, 1, 2):
        before = len(told_of(folder, "written"))
        process = command_server.start(folder, "run", "job.yaml")
        wait_for_batches(process, folder, before + written, moments.random() * seconds / 16)  # and up to a batch or so
        psutil.Process(process.pid).kill()
        assert process.wait()[0] == KILLED
    assert not told_of(folder, "created")
    code, output = command_server.start(folder, "run", "job.yaml").wait()
    assert code == 0 and "Traceback" not in output, output
    assert_same(folder, expected)
    begun = [event["kept"] for event in told_of(folder, "creating")]
    assert len(begun) == 5 and begun == sorted(set(begun)) and begun[0] == 0 and begun[1] % 64 == 0, begun


@kills_processes
def test_killed_at_every_kind_of_write_it_ends_as_if_undisturbed(
    command_server: Any, jobs: Callable[[], Path], straight: tuple[dict[str, Any], float, list[str]]
) -> None:
    expected, _, moments = straight
    third = [number for number, moment in enumerate(moments) if moment == WRITES["a batch that is being kept"]][2]
    folder = jobs()
    for at in (third, *WRITES.values()):  # with two batches kept; then the first of each kind
        code, output = command_server.start(folder, "run", "job.yaml", trouble={"kind": "kill", "at": at}).wait()
        assert code == KILLED, (at, output)
    assert not told_of(folder, "created"), "killed before it was told"
    code, output = command_server.start(folder, "run", "job.yaml").wait()
    assert code == 0 and "Traceback" not in output, output
    assert_same(folder, expected)
    assert len(told_of(folder, "creating")) < len(told_of(folder, "start")), "what is finished is not made again"


@kills_processes
def test_ctrl_c_keeps_what_was_written_and_says_so(
    command_server: Any, jobs: Callable[[], Path], straight: tuple[dict[str, Any], float, list[str]]
) -> None:
    folder = jobs()
    for number, signals in enumerate((signal.SIGINT, signal.SIGTERM), start=1):
        process = command_server.start(folder, "run", "job.yaml")
        wait_for_batches(process, folder, 2 * number)
        psutil.Process(process.pid).send_signal(signals)
        code, output = process.wait()
        sentence = output.splitlines()[-1]
        assert code == 130 and "Traceback" not in output, output
        assert sentence.startswith("interrupted while stages.main.create was writing; "), output
        kept = int(sentence.split("; ")[1].split()[0])
        assert kept >= 64 * 2 * number
    code, output = command_server.start(folder, "run", "job.yaml").wait()
    assert code == 0 and f"s3ft makes the examples, and goes on behind {kept} answers that were kept" in output, output
    assert_same(folder, straight[0])


@kills_processes
def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(
    command_server: Any, jobs: Callable[[], Path], straight: tuple[dict[str, Any], float, list[str]]
) -> None:
    folder = jobs()
    for what in ("open", "flush"):
        third = [number for number, one in enumerate(straight[2]) if one == f"{what} {FOLDER}/answers.jsonl"][2]
        code, output = command_server.start(folder, "run", "job.yaml", trouble={"kind": "full", "at": third}).wait()
        sentence = output.splitlines()[-1]
        assert code == 2 and "Traceback" not in output, output
        assert sentence.startswith("error: cannot write ") and "the disk is full" in sentence, output
    assert command_server.start(folder, "run", "job.yaml").wait()[0] == 0
    assert told_of(folder, "creating")[-1]["kept"] >= 128
    assert_same(folder, straight[0])
