"""The recorder in two processes holds what one process with the same batches holds, in every process, and changes nothing.

``several_processes_script.py`` is started once in two processes; one process repeats its batches here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from ftft.bridges.recorder import DynamicsRecorder
from ftft.dynamics.parquet import read_dynamics

SCRIPT = Path(__file__).with_name("several_processes_script.py")
N, EPOCHS = 13, 2


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("recorder_process_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(fork_processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    child = fork_processes(str(folder), script=str(SCRIPT), modules=["transformers.trainer", "datasets"])
    output, _ = child.communicate(timeout=400)
    assert child.returncode == 0, output[-5000:]
    return folder


def logs(folder: Path, name: str) -> list[dict]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


def steps_of(folder: Path, name: str) -> list[list[tuple[int, list[float]]]]:
    """What both processes said in each micro-step, the first process first: (row, logits)."""
    both = [log["passes"] for log in logs(folder, name)]
    steps = []
    for parts in zip(*both, strict=True):
        steps.append([(token - 5, logits) for tokens, said in parts for token, logits in zip(tokens, said, strict=True)])
    return steps


@pytest.mark.processes
def test_losses_and_weights_are_bit_identical_with_the_recorder_on_and_off(folder):
    for rank in range(2):
        off, weights = logs(folder, "off")[rank], load_file(folder / f"off-{rank}.safetensors")
        for name in ("on", "on_epoch_end"):
            assert logs(folder, name)[rank]["losses"] == off["losses"] and len(off["losses"]) == EPOCHS * 4
            recorded = load_file(folder / f"{name}-{rank}.safetensors")
            assert all(torch.equal(recorded[key], value) for key, value in weights.items())


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["online", "epoch_end"])
def test_table_is_that_of_one_process_with_the_same_batches(mode, folder, script, tmp_path):
    steps = steps_of(folder, mode)
    in_order = [row for step in steps for row, _ in step]
    half = len(in_order) // EPOCHS
    order = [in_order[epoch * half : (epoch + 1) * half] for epoch in range(EPOCHS)]
    # 13 rows in micro-steps of 2 x 2: three rows stand twice in each epoch, and must count once.
    assert all(len(rows) == 16 and set(rows) == set(range(N)) for rows in order)
    trainer = script.make(tmp_path, batch=4, order=order)
    recorder = DynamicsRecorder(mode=mode).attach(trainer)
    trainer.train()
    one = recorder.dynamics()
    means = np.mean([log["losses"] for log in logs(folder, mode)], axis=0)
    np.testing.assert_allclose(means, trainer.losses, rtol=0, atol=1e-10)
    assert float(np.abs(one.logits[0] - one.logits[1]).max()) > 1e-3, "nothing was learned between the epochs"
    for rank in range(2):
        two = read_dynamics(folder / f"{mode}-{rank}.parquet")
        assert two.ids.to_pylist() == [f"x{row}" for row in range(N)] and two.epochs == (0, 1)
        assert two.seen.all() and np.array_equal(two.gold, one.gold)
        np.testing.assert_allclose(two.logits, one.logits, rtol=0, atol=3e-7)


@pytest.mark.processes
@pytest.mark.parametrize(("name", "n"), [("on", 13), ("partial", 15)])
def test_every_process_holds_the_first_pass_of_each_example(name, n, folder):
    steps = steps_of(folder, name)
    sizes = [len(step) for step in steps[: len(steps) // EPOCHS]]
    assert sizes == ([4, 4, 4, 3] if name == "partial" else [4, 4, 4, 4])
    tables = [read_dynamics(folder / f"{name}-{rank}.parquet") for rank in range(2)]
    written = read_dynamics(folder / name / "dynamics.parquet")
    for epoch in range(EPOCHS):
        first: dict[int, list[float]] = {}
        for step in steps[epoch * len(sizes) : (epoch + 1) * len(sizes)]:
            for row, logits in step:
                first.setdefault(row, logits)
        expected = np.array([first[row] for row in range(n)], dtype=np.float32)
        for table in (*tables, written):
            assert table.seen.all() and table.metadata["partial_epochs"] == []
            np.testing.assert_array_equal(table.logits[epoch], expected)


@pytest.mark.processes
def test_one_process_takes_up_what_two_have_recorded(folder, script, tmp_path):
    trainer = script.make(tmp_path, batch=4)
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train(resume_from_checkpoint=str(folder / "online" / "checkpoint-2"))  # the end of the first epoch
    resumed, two = recorder.dynamics(), read_dynamics(folder / "online-0.parquet")
    assert resumed.seen.all() and resumed.epochs == (0, 1)
    np.testing.assert_array_equal(resumed.logits[0], two.logits[0])
    np.testing.assert_array_equal(resumed.gold, two.gold)


class StopAt(TrainerCallback):
    """Ends training after a step, as a killed run's last checkpoint would find it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_resumed_inside_an_epoch_with_workers_and_accumulation_equals_straight(script, tmp_path):
    """Five updates an epoch of two micro-batches (the last is partial); the checkpoint is of the eighth."""
    left = {}
    for recorded in (False, True):
        settings = {
            "n": 37, "batch": 4, "dropout": 0.2, "dtype": torch.float32, "dataloader_num_workers": 2, "save_strategy": "steps",
            "save_steps": 8,
        }  # fmt: skip
        losses, tables, stopped = [], [], tmp_path / f"stopped{recorded}"
        for folder, callbacks, checkpoint in (
            (tmp_path / f"straight{recorded}", [], None),
            (stopped, [StopAt(8)], None),
            (stopped, [], str(stopped / "checkpoint-8")),
        ):
            trainer = script.make(folder, **settings)  # seeds what training draws
            for callback in callbacks:
                trainer.add_callback(callback)
            recorder = DynamicsRecorder().attach(trainer) if recorded else None
            trainer.train(resume_from_checkpoint=checkpoint)
            losses.append(trainer.losses)
            tables.append(None if recorder is None else recorder.dynamics())
        assert losses[0] == losses[1] + losses[2] and len(losses[1]) == 16
        left[recorded] = losses
    assert left[True] == left[False]
    whole, part, again = tables
    assert part.seen.sum(axis=1).tolist() == [37, 24] and part.metadata["partial_epochs"] == [1]
    assert whole.seen.all() and again.seen.all() and again.metadata["partial_epochs"] == []
    np.testing.assert_array_equal(whole.logits, again.logits)
    np.testing.assert_array_equal(whole.gold, again.gold)
