"""Every benchmark of training runs end to end, and its ratios are medians over pairs of turns."""

import importlib
import json
import os
import platform
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"

WORKS = """
import os

def note_turns(log, name, turns, turn):
    for done in range(turns + 1):
        with open(log, "a") as stream:
            stream.write(name)
        if done < turns:
            turn()
    return name, os.getpid()

def fail(turn):
    raise ValueError
"""


def shared_module(name: str):
    """A module that the benchmarks share, under the name by which a fresh process finds it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module(name)
        patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def common():
    yield from shared_module("common")


@pytest.fixture(scope="module")
def taking_turns():
    yield from shared_module("taking_turns")


@pytest.fixture
def run_script(command_server: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_script(name, *arguments)``: a benchmark's script in a process of its own in ``tmp_path``, to its end."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        errors = tmp_path / "errors"
        errors.touch()
        modules = ["datasets", "transformers.trainer"]
        script = str(FOLDER / f"{name}.py")
        code, said = command_server.start(tmp_path, *arguments, script=script, errors=str(errors), modules=modules).wait()
        return subprocess.CompletedProcess([name, *arguments], code, said, errors.read_text())

    return run


@pytest.fixture
def works(tmp_path, monkeypatch):
    """A module with runs for the sides' processes to import."""
    (tmp_path / "works_of_test.py").write_text(WORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("works_of_test")
    monkeypatch.delitem(sys.modules, "works_of_test")


def ratios_in(value):
    """Every reported ratio of a result, however deep."""
    if isinstance(value, dict):
        yield from [value] if "ratio" in value else [one for part in value.values() for one in ratios_in(part)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, ratios", [("throughput", 6), ("flop_rate", 8), ("recorder_overhead", 4), ("faster_models", 8)]
)
def test_script_runs_and_prints_ratios(script, ratios, run_script, tmp_path):
    out = tmp_path / "result.json"
    # All of compiling but the code for this processor, which takes a C++ compiler most of a minute; dropout draws others too.
    backend = ["--backend", "aot_eager_decomp_partition"] if script == "faster_models" else []
    done = run_script(script, "--smoke", "--threads", "1", "--out", str(out), *backend)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads(out.read_text())
    assert result["benchmark"] == script and result["smoke"]
    found = list(ratios_in(result))
    assert len(found) == ratios
    for one in found:
        low, high = one["interval_95"]
        assert 0 < low <= one["ratio"] <= high and len(one["pairs"]) in (2, 8)  # one process makes more than two do
    assert result["machine"]["threads"] == 1
    assert platform.node() not in done.stdout and str(Path.home()) not in done.stdout and str(FOLDER) not in done.stdout
    if script == "faster_models":
        assert 0 < result["compiled"]["loss_gap"] < 0.2 and result["eager_attention"]["loss_gap"] < 1e-3
        assert result["padded_to_longest"]["loss_gap"] < 0.2 and 0 < result["without_padding"]["padding"] < 1
        assert result["compiled"]["warm_up_seconds"][0] > result["compiled"]["warm_up_seconds"][1]
    if script == "recorder_overhead":
        assert result["loop"]["losses_identical"] and result["trainer"]["losses_identical"]
        inside = result["loop"]["share_inside_the_recorder"]
        assert 0 < inside["median"] <= inside["largest"] < 1


@pytest.mark.slow
def test_the_profile_of_a_step_says_what_lies_outside_the_model(run_script, tmp_path):
    out = tmp_path / "result.json"
    done = run_script("step_profile", "--smoke", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    for key in ("realistic_lengths", "32_tokens"):
        parts, outside = result[key]["parts"], result[key]["outside"]["ratio"]
        # Medians over few steps of a busy machine: they need not add up, though those of each step do.
        assert set(parts) == {"forward", "backward", "clipping", "optimizer"} and all(0 < share < 1 for share in parts.values())
        assert 0 < outside < 1
    shares = [one["share"] for one in result["operators"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert "aten::addmm" in [one["operator"] for one in result["operators"]]


@pytest.mark.slow
def test_the_chain_of_a_large_data_set_runs_phase_by_phase(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOLDER / "ten_million.py"), "--rows", "300", "600", "--folder", str(tmp_path)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert {"processor", "cores", "arrow_threads"} <= set(result["machine"]) and "torch" in result["versions"]
    assert list(result["sizes"]) == ["300", "600"] and list(result["growth"]) == ["300 to 600"]
    phases = result["sizes"]["600"]
    assert len(phases) == 7 and all(one["seconds"] > 0 and one["peak_bytes"] > 2**20 for one in phases.values())
    for name in ("load JSONL with an id column", "load Parquet, ids from the content"):
        assert phases[name]["rows"] > 500 and phases[name]["duplicates"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json"]


@pytest.mark.slow
def test_sides_take_turns_in_processes_of_their_own(taking_turns, works, tmp_path):
    log = tmp_path / "log"
    sides = [partial(works.note_turns, log, name, 3) for name in "ab"]
    (a, first), (b, second) = taking_turns.side_by_side(*sides, Namespace(pairs=3, smoke=False))
    assert log.read_text() == "abbaabba"
    assert (a, b) == ("a", "b") and len({first, second, os.getpid()}) == 3


@pytest.mark.slow
def test_side_that_fails_ends_the_benchmark(taking_turns, works, capfd):
    with pytest.raises(SystemExit, match="ended early"):
        taking_turns.side_by_side(works.fail, works.fail, Namespace(pairs=2, smoke=False))
    assert "ValueError" in capfd.readouterr().err


def test_interval_holds_the_median_and_widens_with_the_noise(common):
    generator = np.random.default_rng(0)
    quiet = common.median_with_interval([1 + 0.001 * generator.standard_normal(20) for _ in range(5)])
    noisy = common.median_with_interval([1 + 0.1 * generator.standard_normal(20) for _ in range(5)])
    for one in (quiet, noisy):
        assert one["interval_95"][0] <= one["ratio"] <= one["interval_95"][1]
    assert quiet["ratio"] == pytest.approx(1, abs=0.002)
    assert np.ptp(noisy["interval_95"]) > 20 * np.ptp(quiet["interval_95"])


def test_both_sides_take_the_same_examples_and_count_them_alike(common):
    job = common.Job("tiny", turns=2, steps=3, warmup=1, threads=None, batch_size=8)
    turns = []
    ours = common.run_loop(job, lambda: turns.append("ours"))
    theirs = common.run_trainer(job, lambda: turns.append("theirs"), defaults=False)
    assert turns == ["ours"] * 2 + ["theirs"] * 2
    for what in ("examples", "tokens", "padded_tokens"):
        assert np.array_equal(getattr(ours, what), getattr(theirs, what)), what
    assert ours.wall.shape == theirs.wall.shape == (2, 3)
    assert (ours.flops > 0).all() and (ours.tokens <= ours.padded_tokens).all()
    everything = common.run_trainer(job, lambda: None, defaults=True)
    assert (everything.examples == 8).all()
