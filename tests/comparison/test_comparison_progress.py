"""What a comparison says while its cells are computed: stages, time left, the latest figures and the cost."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ftft.cli import comparing
from ftft.cli.comparing import ComparisonProgress
from ftft.comparison.cells import Cell
from ftft.comparison.planning import make_plan
from ftft.comparison.reading import read_suite
from ftft.comparison.suite import Suite


@pytest.fixture
def suite(tiny_suite: Callable[..., Path]) -> Suite:
    return read_suite(tiny_suite(["erm", "random"], seeds=[0]))


def finished(key: str, flops: int) -> Cell:
    accuracy = {"figures": {"metrics": {"accuracy": {"value": 0.5}, "macro_f1": {"value": 0.5}}}}
    sets = {name: {"role": name, "split": "test", "seen": False, **accuracy} for name in ("id", "ood")}
    return Cell({"created": "now", "main": "main", "cost": {"flops": flops}, "sets": sets}, Path(f"{key}.json"), key)


def evaluated(work: Any, flops: float) -> dict[str, Any]:
    sets = {"test": {"role": "id", "accuracy": 0.9}, "other": {"role": "ood", "accuracy": 0.7}}
    cost = {"flops": flops, "uses": [], "erm_flops": flops, "fraction_of_erm": 1.0}
    return {"event": "evaluated", "work": work, "stage": "main", "sets": sets, "cost": cost}


def test_a_cell_tells_of_its_stage_its_time_and_its_figures(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(comparing.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = ComparisonProgress(suite, 1, Console(file=stream, width=120, color_system=None))
    plan = make_plan(suite, {}, {})
    erm, random = plan.ready
    progress({"event": "plan", "plan": plan})
    progress({"event": "started", "work": erm})
    progress({"event": "stage", "work": erm, "stage": "main", "number": 1, "of": 1, "uses": []})
    assert progress.running[erm.key][2] == "main (1 of 1)"
    for number, seconds in ((1, 1.0), (11, 21.0)):
        now[0] = seconds
        progress({"event": "step", "work": erm, "stage": "main", "step": number, "steps": 31, "loss": 0.25, "flops": 1.0})
    assert f"  {erm.title}: main step 11 of 31, loss 0.250, about 40 s left\n" in stream.getvalue()
    progress(evaluated(erm, 1000.0))
    screen = Console(file=io.StringIO(), width=120, color_system=None)
    with screen.capture() as captured:
        screen.print(progress._screen())
    assert "latest: ID 0.900  OOD 0.700, cost 100 % of ERM" in captured.get()
    progress({"event": "ended", "work": erm, "why": None, "seconds": 30.0})
    assert f"{erm.title}: finished in 30 s: ID 0.900  OOD 0.700, cost 100 % of ERM\n" in stream.getvalue()
    assert not progress.latest and not progress.begun

    # With the baseline's own cell there, that is the unit of cost.
    plan = make_plan(suite, {erm.key: finished(erm.key, 4000)}, {})
    progress({"event": "plan", "plan": plan})
    assert "1 cells finished, 1 to come, about 30 s left" in stream.getvalue()
    progress({"event": "started", "work": random})
    progress(evaluated(random, 3000.0))
    assert progress.latest[random.key] == "ID 0.900  OOD 0.700, cost 75 % of ERM"
