"""The benchmark of pretraining runs, its table stands in the documentation, and the default steps fit what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftft.pretraining.kinds import KINDS

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("pretraining")


@pytest.fixture(scope="module")
def result(benchmark: ModuleType) -> dict[str, Any]:
    return json.loads(benchmark.RESULT.read_text(encoding="utf-8"))


def test_the_page_holds_the_table_of_the_committed_result(benchmark: ModuleType, result: dict[str, Any]) -> None:
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.written(page, result) == page


def test_every_kinds_default_steps_fit_into_the_minutes(result: dict[str, Any]) -> None:
    fits = {one["kind"]: one["steps_that_fit"] for one in result["kinds"]}
    assert fits.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        assert 0.5 * fits[name] <= kind.steps <= fits[name], name


@pytest.mark.slow
def test_the_script_measures_and_says_how_busy_the_machine_was(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOLDER / "pretraining.py"), "--kinds", "decoder-1m", "--seconds", "0.1", "--threads", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    one = found["kinds"][0]
    assert one["tokens_per_second"] > 0 and one["vocabulary"] == 4096
    assert one["steps_that_fit"] == pytest.approx(0.7 * 2 * 1200 * one["tokens_per_processor_second"] / 2048, rel=0.01)
    assert found["machine"]["threads"] == 1 and found["machine"]["load_before"] >= 0 and found["text"] == "generated"
    assert str(tmp_path) not in done.stdout
