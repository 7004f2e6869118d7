"""Two processes: one table, in which each example's first pass of an epoch counts, whatever the sampler repeats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ftft.dynamics.parquet import read_dynamics

SCRIPT = Path(__file__).with_name("process_script.py")
N, EPOCHS, STEPS = 13, 2, 4


@pytest.mark.processes
def test_two_processes_give_one_table_and_resume_to_the_same(fork_processes, tmp_path):
    child = fork_processes(str(tmp_path), script=str(SCRIPT), modules=["transformers.trainer", "datasets"])
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output[-3000:]
    straight, resumed, ends = (
        read_dynamics(tmp_path / name / "dynamics.parquet") for name in ("straight", "resumed", "epoch_end")
    )

    # Each process wrote what its model said, step by step: (first tokens of the batch, logits).
    logs = [json.loads((tmp_path / f"log_{rank}.json").read_text()) for rank in range(2)]
    assert all(len(log) == EPOCHS * STEPS for log in logs)
    repeated = 0
    for epoch in range(EPOCHS):
        first: dict[int, list[float]] = {}
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            for log in logs:
                for token, logits in zip(*log[step], strict=True):
                    repeated += token - 5 in first
                    first.setdefault(token - 5, logits)
        np.testing.assert_array_equal(straight.logits[epoch], np.array([first[row] for row in range(N)], dtype=np.float32))
    assert repeated == EPOCHS * (STEPS * 4 - N)  # 13 examples in steps of 2 x 2

    assert straight.seen.all() and straight.epochs == (0, 1)
    np.testing.assert_array_equal(straight.logits, resumed.logits)
    np.testing.assert_array_equal(straight.seen, resumed.seen)
    np.testing.assert_array_equal(straight.gold, resumed.gold)
    assert ends.seen.all() and ends.metadata["cost"]["examples"] >= EPOCHS * N
    np.testing.assert_array_equal(ends.gold, straight.gold)
    assert not np.allclose(ends.logits[0], straight.logits[0])
