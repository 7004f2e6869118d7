"""A method of another package, found by its entry point, passes the same suite; one that breaks its word does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("test_contract.py")
METHOD = '''"""Gradients clipped entry by entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ftft.settings import setting


@dataclass(frozen=True)
class ClippedDescent:
    """Step by the gradient with every entry clipped."""

    needs: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)

    learning_rate: float = setting(1e-3, "learning rate", gt=0)

    def start(self, trainables):
        import torch

        class Clipped(torch.optim.Optimizer):
            def step(self, closure=None):
                with torch.no_grad():
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            STEP

        return Clipped([parameter for _, parameter in trainables.named], {"lr": self.learning_rate})
'''
HONEST = "parameter.sub_(group['lr'] * parameter.grad.clamp(-1.0, 1.0))"
# Noise that does not follow the learning rate, from a generator that no checkpoint holds.
BROKEN = HONEST + "; import random, time; parameter.add_(1e-3 * random.Random(time.perf_counter_ns()).random())"


def run_suite(folder: Path, step: str) -> subprocess.CompletedProcess[str]:
    """Install a package with that method into ``folder`` and run the suite's tests of it."""
    (folder / "clipped_descent.py").write_text(METHOD.replace("STEP", step))
    installed = folder / "their_methods-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[ftft.methods]\noptimize.clipped_descent = clipped_descent\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", str(SUITE), "-k", "clipped_descent", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=SUITE.parents[2])


@pytest.mark.slow
def test_a_third_partys_method_passes_the_suite(tmp_path: Path) -> None:
    done = run_suite(tmp_path, HONEST)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "17 passed" in done.stdout, done.stdout[-300:]


@pytest.mark.slow
def test_a_third_partys_method_that_breaks_the_contract_does_not(tmp_path: Path) -> None:
    done = run_suite(tmp_path, BROKEN)
    assert done.returncode == 1
    for promise in (
        "killed_and_resumed_equals_straight",
        "the_same_seed_twice_is_the_same",
        "at_a_learning_rate_of_0_nothing_moves",
    ):
        assert f"FAILED tests/contract/test_contract.py::test_{promise}[optimize.clipped_descent]" in done.stdout
