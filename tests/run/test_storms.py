"""A run is killed at every kind of write it makes, and at random ones; its disk fills up there; its files are damaged one by
one. Whatever happens, it then ends bit for bit as an undisturbed run ends, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ftft.tracking.events import read_events

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.processes]

WORDS = ("film", "plot", "man", "dog", "cat", "sits", "runs", "old", "young")
KILLED = -9
# What may differ between two runs of the same recipe: clocks, memory, work that was lost, and what was found in the store.
OF_ITS_TIME = {
    *("seconds", "peak_memory", "repeated", "created", "wall_seconds", "reused", "preparing_seconds", "payload_sha256"),
}


# -- the job ------------------------------------------------------------------------------------------------------------


def write_rows(path: Path, count: int) -> None:
    source = random.Random(path.name)
    rows = []
    for number in range(count):
        label = source.choice(["yes", "no"])
        words = [source.choice(WORDS) for _ in range(source.randint(2, 12))]
        words.insert(source.randrange(len(words) + 1), "good" if (label == "yes") != (source.random() < 0.2) else "bad")
        rows.append(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": label, "part": number % 3}))
    path.write_text("\n".join(rows) + "\n")


def write_job(folder: Path, model: Path) -> Path:
    """A folder to run in: data, a model and ``job.yaml``: a reference, and a main stage that it steers and that stops early."""
    folder.mkdir()
    shutil.copytree(model, folder / "model")
    for name, count in (("train", 32), ("validation", 20), ("ood", 20)):
        write_rows(folder / f"{name}.jsonl", count)
    train = {"batch_size": 8, "precision": "fp32", "checkpoint_seconds": 0.001}
    optimize = {"name": "adamw", "learning_rate": 3e-3}
    evaluate = {"name": "classification", "resamples": 5}
    common = {"optimize": optimize, "evaluate": evaluate}
    reference = {
        **common,
        "model": {"path": "model", "keep_layers": 1},
        "train": {**train, "steps": 8},
        "dynamics": {"mode": "online"},
    }
    main = {
        **common,
        "model": {"path": "model", "keep_layers": 2},
        "use_dynamics_of": "reference",
        "select": {"name": "top", "score": "variability", "fraction": 0.5},
        "train": {**train, "steps": 30, "evaluate_every": 2},
        "stop": {"patience": 2, "metric": "loss"},
        "combine": "best",
    }
    recipe: dict[str, Any] = {
        "data": {
            "train": {"path": "train.jsonl"},
            "columns": {"id": "id", "text": ["text"], "label": "label", "group": "part"},
            "evaluation": {
                "validation": {"path": "validation.jsonl", "role": "id", "split": "validation"},
                "ood": {"path": "ood.jsonl", "role": "ood"},
            },
        },
        "stages": {"reference": reference, "main": main},
    }
    (folder / "job.yaml").write_text(json.dumps(recipe, indent=1))
    return folder


# -- processes ----------------------------------------------------------------------------------------------------------


Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def run(command_server: Any) -> Run:
    """``run(folder, **trouble)``: (exit code, output) of `ftft run job.yaml` with that trouble in ``runs``."""
    return lambda folder, **trouble: command_server.start(folder, "run", "job.yaml", trouble=trouble or None).wait()


# -- what a run leaves --------------------------------------------------------------------------------------------------


def lasting(value: Any) -> Any:
    """A document without what belongs to its time."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in OF_ITS_TIME}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves, but for its time: the result, the model, every table."""
    run = folder / "runs" / "job"
    found: dict[str, Any] = {"result": lasting(json.loads((run / "result.json").read_text()))}
    found["result"].pop("warnings")
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        if path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pydict()
        elif name.startswith("model/") and path.name != "README.md":
            found[name] = path.read_bytes()
    return found


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two outcomes first differ; empty where they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: only one has {sorted(one.keys() ^ other.keys())}"
        return next((said for key in one if (said := difference(one[key], other[key], f"{where}/{key}"))), "")
    return "" if one == other else f"{where}: {str(one)[:200]} is not {str(other)[:200]}"


def tell_sentence(output: str) -> str:
    """The last line, which alone speaks of an error."""
    lines = [line for line in output.splitlines() if line.strip()]
    assert "Traceback" not in output and not any(line.startswith("error: ") for line in lines[:-1]), output
    return lines[-1]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path) -> Callable[[], Path]:
    """``job()``: a new folder with the same job each time."""
    root = tmp_path_factory.mktemp("jobs")
    return lambda: write_job(root / f"job{len(list(root.iterdir()))}", tiny_bert_folder)


@pytest.fixture(scope="module")
def undisturbed(command_server: Any, job: Callable[[], Path]) -> tuple[Path, dict[str, Any], list[str]]:
    """(its folder, its outcome, the moments of its writing in order) of a run that nothing happened to."""
    folder = job()
    process = command_server.start(folder, "run", "job.yaml", trouble={"kind": "watch", "at": None})
    code, text = process.wait()
    assert code == 0, text
    found = outcome(folder)
    training = found["result"]["stages"]["main"]["training"]
    assert training["stopped_early"] and 0 < training["best_step"] < training["steps"] < 30
    return folder, found, process.output.with_suffix(".moments").read_text().splitlines()


# -- kills --------------------------------------------------------------------------------------------------------------

NAMED = {
    "a checkpoint being written": r"written .*checkpoints/step_<n>.tmp-<n>/.training.safetensors.*",
    "a checkpoint put in place": r"rename .store/<key>/checkpoints/step_<n>",
    "an old checkpoint being removed": r"remove .*checkpoints/step_<n>.old-<n>/manifest.json",
    "the best weights put in place": r"rename .store/<key>/checkpoints/best/step_<n>",
    "the books": r"flush .*ledger.jsonl",
    "the recorded dynamics": r"written .*dynamics.parquet.*",
    "the finished model": r"rename .store/<key>/model",
    "a stage handed over": r"rename .store/<key>/finished.json",
    "predictions": r"rename .store/<key>/predictions/<key>.parquet",
    "what predictions cost": r"rename .store/<key>/predictions/<key>.json",
    "the result's model": r"rename job/model",
    "the result": r"rename job/result.json",
}
KINDS, RANDOM_MOMENTS = 26, 14


def first_of_each(moments: list[str]) -> list[str]:
    return list(dict.fromkeys(moments))


def test_killed_at_every_kind_of_write_it_ends_as_if_undisturbed(
    run: Run, job: Callable[[], Path], undisturbed: tuple[Path, dict[str, Any], list[str]]
) -> None:
    _, expected, moments = undisturbed
    kinds, chosen = first_of_each(moments), random.Random(5)
    named = [next((kind for kind in kinds if re.fullmatch(pattern, kind)), pattern) for pattern in NAMED.values()]
    assert set(named) <= set(kinds), set(named) - set(kinds)
    picked = {*named, *chosen.sample(sorted(set(kinds) - set(named)), KINDS)}
    storm: list[str | int] = [kind for kind in kinds if kind in picked]
    for _ in range(RANDOM_MOMENTS):
        storm.insert(chosen.randrange(len(storm) // 2), chosen.randrange(10, 90))
    folder, kills = job(), 0
    for at in storm:
        code, output = run(folder, kind="kill", at=at)
        assert code in (KILLED, 0), output
        kills += code == KILLED
        if code == 0:  # this kind of write was done before an earlier kill
            assert not difference(outcome(folder), expected), at
            folder = job()
    code, output = run(folder)
    assert code == 0 and "Traceback" not in output, output
    assert not difference(outcome(folder), expected)
    assert kills >= len(storm) - 6
    events = read_events(folder / "runs" / "job" / "events.jsonl", warn=pytest.fail)
    assert events[-1]["event"] == "finished"
    assert not half_written(folder)


# -- a disk that refuses ------------------------------------------------------------------------------------------------


def half_written(folder: Path) -> list[str]:
    """What a writing that was not finished left; a run that ends by itself leaves nothing of the kind."""
    return [str(path) for path in (folder / "runs").rglob("*") if re.search(r"\.(tmp|old)(-|$|\w{6})", path.name)]


@pytest.mark.parametrize(
    ("kind", "writes", "sample", "told"),
    [
        # Everything but removing needs room.
        ("full", r"(?!remove|rmdir)", int(os.environ.get("FULL", 1000)), "the disk is full"),
        ("read-only", r"open|mkdir|rename|link", int(os.environ.get("READ_ONLY", 8)), "the file system is read-only"),
    ],
    ids=["a full disk", "a file system that turns read-only"],
)
def test_a_disk_that_refuses_any_write_is_one_sentence_and_costs_nothing(
    kind: str,
    writes: str,
    sample: int,
    told: str,
    run: Run,
    job: Callable[[], Path],
    undisturbed: tuple[Path, dict[str, Any], list[str]],
) -> None:
    _, expected, moments = undisturbed
    kinds = [moment for moment in first_of_each(moments) if re.match(writes, moment)]
    picked = set(random.Random(6).sample(kinds, min(len(kinds), sample)))
    folder, refused = job(), 0
    first: list[str | int] = [0] if kind == "read-only" else []  # from the very first write on
    for at in [*first, *(moment for moment in kinds if moment in picked)]:
        code, output = run(folder, kind=kind, at=at)
        assert code in (0, 2), (at, output)
        if code == 0:
            assert not difference(outcome(folder), expected), at
            folder = job()
            continue
        refused += 1
        sentence = tell_sentence(output)
        assert sentence.startswith("error: cannot write ") and told in sentence, (at, output)
        if kind == "full":  # where nothing can be removed either, the next run does it
            assert not half_written(folder), at
    code, output = run(folder)
    assert code == 0 and not difference(outcome(folder), expected), output
    assert refused >= len(picked) - 5
    assert not half_written(folder)


def test_a_finished_run_on_a_read_only_file_system_is_read_and_not_written(
    command_server: Any, undisturbed: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed[0], tmp_path / "job")
    for arguments, code in (
        (("verify", "runs/job", "--steps", "1"), 0),
        (("select", "runs/job", "--fraction", "0.3", "--out", "chosen.csv"), 0),
        (("eval", "runs/job/model", "job.yaml"), 0),
        (("run", "job.yaml"), 2),
        (("report", "runs/job"), 2),
    ):
        found, output = command_server.start(folder, *arguments, trouble={"kind": "read-only", "at": 0}).wait()
        assert found == code, (arguments, output)
        if code:
            sentence = tell_sentence(output)
            assert sentence.startswith("error: cannot write runs/") and "the file system is read-only" in sentence, output


# -- damaged files ------------------------------------------------------------------------------------------------------


def damage(path: Path, how: str, chosen: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    path.unlink()  # a file may be a link to another's content
    path.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    found = (path for path in sorted((folder / "runs").rglob("*")) if path.is_file() and path.name != ".lock")
    return [path.relative_to(folder) for path in found if path.stat().st_size > 0]


@pytest.fixture(scope="module")
def killed(run: Run, job: Callable[[], Path], undisturbed: tuple[Path, dict[str, Any], list[str]]) -> Path:
    """A job that was killed while its main stage saved a checkpoint. Not to be run in."""
    folder, moments = job(), undisturbed[2]
    saved = [number for number, name in enumerate(moments) if name == "rename .store/<key>/checkpoints/step_<n>"]
    assert run(folder, kind="kill", at=saved[-3])[0] == KILLED
    assert any(path.parts[-2] == "best" or "best" in path.parts for path in files_in(folder))
    return folder


@pytest.mark.parametrize("which", ["finished", "killed"])
def test_damage_to_any_file_is_mended_or_told_and_never_changes_a_result(
    which: str,
    run: Run,
    killed: Path,
    undisturbed: tuple[Path, dict[str, Any], list[str]],
    tmp_path: Path,
) -> None:
    source, expected, chosen = undisturbed[0] if which == "finished" else killed, undisturbed[1], random.Random(which)
    for number, name in enumerate(files_in(source)):
        for how in os.environ.get("HOW", ("truncated", "flipped")[number % 2]).split():
            folder = shutil.copytree(source, tmp_path / f"{number}{how}")
            damage(folder / name, how, chosen)
            code, output = run(folder)
            assert "Traceback" not in output, (name, how, output)
            if code == 2:
                assert str(name).removeprefix("runs/") in tell_sentence(output), (name, how, output)
            else:
                assert code == 0 and not difference(outcome(folder), expected), (name, how, output)
            shutil.rmtree(folder)


def test_commands_that_read_a_damaged_run_tell_it_or_give_what_they_always_give(
    command_server: Any, undisturbed: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    source, chosen = undisturbed[0], random.Random(3)
    commands = (
        ("select", "runs/job", "--fraction", "0.3", "--out", "chosen.csv"),
        ("score", "runs/job", "--out", "scores.csv"),
        ("verify", "runs/job", "--steps", "1"),
    )
    sound: dict[str, Any] = {}

    def given(folder: Path, command: tuple[str, ...]) -> tuple[int, str, bytes | None]:
        code, output = command_server.start(folder, *command).wait()
        assert "Traceback" not in output, output
        out = folder / command[-1]
        return code, output, out.read_bytes() if out.is_file() else None

    for command in commands:
        sound[command[0]] = given(shutil.copytree(source, tmp_path / command[0]), command)
        assert sound[command[0]][0] == 0, sound[command[0]]
    names = [name for name in files_in(source) if name.parts[1] == "job" and "model" not in name.parts]
    for number, name in enumerate(names):
        for how in os.environ.get("HOW", ("flipped", "truncated")[number % 2]).split():
            folder = shutil.copytree(source, tmp_path / f"{number}{how}")
            damage(folder / name, how, chosen)
            for command in commands:
                code, output, out = given(folder, command)
                if code == 2:
                    tell_sentence(output)
                    assert out is None, (name, command)
                elif code == 0:
                    assert out == sound[command[0]][2], (name, command)
                else:
                    assert command[0] == "verify" and "the run does not replay" in output, (name, command, output)
            shutil.rmtree(folder)


# -- others -------------------------------------------------------------------------------------------------------------


def test_two_runs_that_share_a_store_give_what_each_gives_alone(
    command_server: Any, job: Callable[[], Path], undisturbed: tuple[Path, dict[str, Any], list[str]]
) -> None:
    folder = job()
    both = [command_server.start(folder, "run", "job.yaml", *more) for more in ((), ("name=other",))]
    for process in both:
        code, text = process.wait()
        assert code == 0 and "Traceback" not in text, text
    assert not difference(outcome(folder), undisturbed[1])
    found = json.loads((folder / "runs" / "other" / "result.json").read_text())["stages"]
    mine = json.loads((folder / "runs" / "job" / "result.json").read_text())["stages"]
    for name in found:
        assert lasting(found[name]) == lasting(mine[name])
        assert found[name]["reused"] != mine[name]["reused"], "each stage is trained by one of them"
    assert not half_written(folder)
