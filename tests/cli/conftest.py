"""A finished FTFT run, for the commands that work on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftft.cli.run import execute
from ftft.run.recipe import Recipe


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]) -> Path:
    """The folder of a run with the stages erm, reference (2 epochs of dynamics) and main. Not to be changed."""
    stages = {
        "erm": {},
        "reference": {"dynamics": {"mode": "online"}},
        "main": {"use_dynamics_of": "reference", "select": {"name": "top", "score": "variability", "count": 32}},
    }
    folder = tmp_path_factory.mktemp("finished")
    return execute(tiny_recipe(folder, tiny_bert_folder, stages, baseline="erm", main="main"))
