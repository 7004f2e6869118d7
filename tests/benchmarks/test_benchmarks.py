"""Every benchmark of training runs end to end, and its ratios are medians of interleaved pairs."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def common():
    spec = importlib.util.spec_from_file_location("benchmarks_common", FOLDER / "common.py")
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up by name.
    sys.modules["benchmarks_common"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmarks_common"]


def ratios_in(value):
    """Every reported ratio of a result, however deep."""
    if isinstance(value, dict):
        yield from [value] if "ratio" in value else [one for part in value.values() for one in ratios_in(part)]


@pytest.mark.slow
@pytest.mark.parametrize("script, ratios", [("throughput", 6), ("flop_rate", 8), ("recorder_overhead", 4)])
def test_script_runs_and_prints_ratios(script, ratios, tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--smoke", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads(out.read_text())
    assert result["benchmark"] == script and result["smoke"]
    found = list(ratios_in(result))
    assert len(found) == ratios
    for one in found:
        low, high = one["interval_95"]
        assert 0 < low <= one["ratio"] <= high and len(one["pairs"]) == 2
    assert result["machine"]["threads"] == 1
    assert platform.node() not in done.stdout and str(Path.home()) not in done.stdout and str(FOLDER) not in done.stdout
    if script == "recorder_overhead":
        assert result["loop"]["losses_identical"] and result["trainer"]["losses_identical"]


def test_runs_alternate_and_the_first_pair_is_thrown_away(common):
    order = []

    def work(name):
        order.append(name)
        return name, len(order)

    pairs = common.interleaved(lambda: work("a"), lambda: work("b"), Namespace(pairs=2, smoke=True))
    assert "".join(order) == "abbaab"
    assert pairs == [(("a", 4), ("b", 3)), (("a", 5), ("b", 6))]


def test_each_side_has_a_process_of_its_own(common):
    pairs = common.interleaved(os.getpid, os.getpid, Namespace(pairs=2, smoke=False))
    assert pairs[0] == pairs[1]
    assert len({*pairs[0], os.getpid()}) == 3


def test_interval_holds_the_median_and_widens_with_the_noise(common):
    generator = np.random.default_rng(0)
    quiet = common.median_with_interval([1 + 0.001 * generator.standard_normal(20) for _ in range(5)])
    noisy = common.median_with_interval([1 + 0.1 * generator.standard_normal(20) for _ in range(5)])
    for one in (quiet, noisy):
        assert one["interval_95"][0] <= one["ratio"] <= one["interval_95"][1]
    assert quiet["ratio"] == pytest.approx(1, abs=0.002)
    assert np.ptp(noisy["interval_95"]) > 20 * np.ptp(quiet["interval_95"])


def test_both_sides_take_the_same_examples_and_count_them_alike(common):
    job = common.Job("tiny", steps=3, warmup=1, threads=1, batch_size=8, precision="fp32")
    ours, theirs = common.run_loop(job), common.run_trainer(job, defaults=False)
    for what in ("examples", "tokens", "width"):
        assert np.array_equal(getattr(ours, what), getattr(theirs, what)), what
    assert len(ours.wall) == len(theirs.wall) == len(ours.flops) == 3
    assert (ours.flops > 0).all()
    everything = common.run_trainer(job, defaults=True)
    assert everything.examples.tolist() == [8, 8, 8]
