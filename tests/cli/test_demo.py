"""`ftft demo`: every task has its data, its recipe and, where none comes along, a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftft.cli.demo import DEMOS
from ftft.cli.main import main


@pytest.mark.parametrize("task", DEMOS)
def test_a_demo_of_a_task_runs_its_recipe_on_files_that_are_there(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task != "text_classification":
        pytest.importorskip("PIL")
    run: list[Any] = []
    monkeypatch.setenv("FTFT_DEMO_DATA", "")  # set by the command, and as it was afterwards
    monkeypatch.setattr("ftft.cli.run.execute", run.append)
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--task", task, "--out", str(tmp_path)])
    assert not caught.value.code and len(run) == 1 and run[0].task["name"] == task
    assert [path.name for path in tmp_path.iterdir()] == [DEMOS[task].folder]
