"""A small suite over generated sentences and a tiny model, whose cells take a second or two each."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftft.comparison.cells import CellFolder
from ftft.comparison.executing import Ended, News, Told, request_of
from ftft.comparison.planning import Work
from ftft.comparison.reading import read_suite
from ftft.comparison.running import results_folder, run_suite
from ftft.comparison.table import make_table
from ftft.comparison.worker import compute
from ftft.errors import UserError

FAST = {"name": "adamw", "learning_rate": 0.003}
ROWS: dict[str, Any] = {
    "erm": {"about": "plain fine-tuning", "change": {"stages.main.optimize": FAST}},
    "ftft": {
        "about": "the ambiguous half, by a reference",
        "change": {
            "stages.main.optimize": FAST,
            "stages.main.use_dynamics_of": "reference",
            "stages.main.select": {"name": "top", "score": "variability", "fraction": 0.5},
        },
    },
    "random": {"like": "erm", "change": {"stages.main.select": {"name": "random", "fraction": 0.5}}},
    "random_prior": {"like": "random", "prior_of": "ftft"},
    "random_refunded": {"like": "random", "cost_of": "ftft"},
}


class InThisProcess:
    """Computes a cell as the worker does, but here and at once: starting a process for each takes most of a test's time."""

    slots = 1

    def __init__(self) -> None:
        self._news: deque[News] = deque()

    def start(self, work: Work, results: Path) -> None:
        request = json.loads(json.dumps(request_of(work, results)))
        why = None
        try:
            compute(request, lambda event: self._news.append(Told(work, event)))
        except UserError as error:
            why = str(error)
        self._news.append(Ended(work, why))

    def news(self, seconds: float) -> News | None:
        return self._news.popleft() if self._news else None

    def stop(self, *, now: bool) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def run_here() -> Callable[[Path], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """``run_here(path)``: the table of a suite that is run to its end in this process, and what was told on the way."""

    def run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        suite, told = read_suite(path), []
        plan = run_suite(suite, InThisProcess(), notify=told.append)
        return make_table(suite, plan, CellFolder(results_folder(suite))), told

    return run


@pytest.fixture
def tiny_suite(tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]) -> Callable[..., Path]:
    """``tiny_suite(rows=["erm", "ftft"], **changes)``: the path of a suite over one task, in a folder of its own."""
    from ftft.run.reading import recipe_to_dict

    def make(rows: list[str] | dict[str, Any], name: str = "suite", **changes: Any) -> Path:
        stages = {"main": {}, "reference": {"dynamics": {"mode": "online"}}}
        recipe = recipe_to_dict(tiny_recipe(tmp_path, tiny_bert_folder, stages))
        recipe["stages"]["reference"]["model"]["keep_layers"] = 1
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        suite = {
            "tasks": {"feelings": {"recipe": "task.yaml"}},
            "rows": rows if isinstance(rows, dict) else {row: ROWS[row] for row in rows},
            "seeds": [0, 1],
            "baseline": "erm",
            "headline": "accuracy",
            "resamples": 100,
            "output": str(tmp_path / "runs"),
            "results": str(tmp_path / "results"),
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(suite, sort_keys=False))
        return path

    return make
