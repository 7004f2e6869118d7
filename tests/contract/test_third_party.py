"""A method of another package, found by its entry point, passes the same suite; one that breaks its word does not."""

from __future__ import annotations

import os
import re
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


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Exit code and words of the suite's tests of both methods, installed as a package in a folder."""
    folder = tmp_path_factory.mktemp("theirs")
    installed = folder / "their_methods-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 1.0\n")
    named = {"clipped_descent": HONEST, "broken_descent": BROKEN}
    for name, step in named.items():
        (folder / f"{name}.py").write_text(METHOD.replace("STEP", step))
    lines = "".join(f"optimize.{name} = {name}\n" for name in named)
    (installed / "entry_points.txt").write_text(f"[ftft.methods]\n{lines}")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", str(SUITE), "-rA", "-k", " or ".join(named), "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=SUITE.parents[2])
    return done.returncode, done.stdout


def ends(said: str, method: str) -> dict[str, str]:
    """{test, with the task where it names one: how it ended} of a method's tests."""
    lines = re.findall(rf"^([A-Z]+) \S+::test_(\w+)\[optimize\.{method}(-\w+)?\]", said, re.MULTILINE)
    return {test + task: how for how, test, task in lines}


@pytest.mark.slow
def test_a_third_partys_method_passes_the_suite(outcome: tuple[int, str]) -> None:
    found = ends(outcome[1], "clipped_descent")
    assert len(found) == 17 and set(found.values()) == {"PASSED"}, outcome[1][-3000:]
    assert not re.search(r"\d (skipped|errors?)\b", outcome[1].splitlines()[-1])


@pytest.mark.slow
def test_a_third_partys_method_that_breaks_the_contract_does_not(outcome: tuple[int, str]) -> None:
    code, said = outcome
    assert code == 1
    found = ends(said, "broken_descent")
    for promise in (
        "killed_and_resumed_equals_straight",
        "the_same_seed_twice_is_the_same",
        "at_a_learning_rate_of_0_nothing_moves",
    ):
        assert found[promise] == "FAILED"
