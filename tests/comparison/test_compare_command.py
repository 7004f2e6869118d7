"""``ftft compare`` through real processes: several cells at once, Ctrl-C and resuming, and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 240.0
Run = Callable[[Path], tuple[dict[str, Any], list[dict[str, Any]]]]


def compare(path: Path, *options: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "ftft", "compare", str(path), *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(path: Path, *options: str, code: int = 0) -> tuple[str, str]:
    out, err = (process := compare(path, *options)).communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return out, err


@pytest.mark.slow
@pytest.mark.processes
def test_cells_at_once_leave_tables_and_a_page(tiny_suite: Callable[..., Path], run_here: Run, tmp_path: Path) -> None:
    contrasts = [{"row": "random", "against": "erm", "on": "ood", "metric": "accuracy", "no_worse_by": 0.9}]
    run_here(tiny_suite(["erm"], seeds=[0]))  # three of four cells are left: the third starts when one of two has ended
    path = tiny_suite(["erm", "random"], contrasts=contrasts)
    out, err = finished(path, "--jobs", "2")
    assert "4 cells finished, 0 to come" in err and "feelings / random / seed 1: finished in" in err
    assert err.count(": started") == 3
    assert "direction only: 2 seeds" in out
    left = tmp_path / "results" / "suite"
    assert {one.name for one in left.iterdir()} == {"cells", "sets", "suite.json", "table.json", "table.md", "table.html"}
    table = json.loads((left / "table.json").read_text())
    assert [contrast["holds"] for contrast in table["contrasts"]] == [True]
    assert "random" in (left / "table.md").read_text() and "<html" in (left / "table.html").read_text()

    (left / "table.json").unlink()
    again, err = finished(path, "--table")
    assert err == "" and again == out
    assert json.loads((left / "table.json").read_text())["tasks"] == table["tasks"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_local_ray_cluster_computes_the_same_cells(tiny_suite: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='ray is not installed; pip install "ftft[ray]" brings it')
    diverges = {"change": {"stages.main.optimize": {"name": "adamw", "learning_rate": 1e30}}}
    path = tiny_suite({"erm": {}, "diverges": diverges}, seeds=[0])
    out, err = finished(path, "--ray", "local", "--jobs", "2", code=1)
    assert "feelings / erm / seed 0: finished" in err and "the loss became nan" in out
    table = tmp_path / "results" / "suite" / "table.json"
    by_ray = json.loads(table.read_text())
    for folder in ("results", "runs"):
        shutil.rmtree(tmp_path / folder)
    finished(path, code=1)  # with one thread, as Ray's cells had: another number adds up in another order
    rows = [one["tasks"]["feelings"]["rows"]["erm"] for one in (by_ray, json.loads(table.read_text()))]
    assert rows[0]["sets"] == rows[1]["sets"] and rows[0]["cost"] == rows[1]["cost"]


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_interrupted_it_keeps_what_is_finished_and_goes_on(
    number: signal.Signals, tiny_suite: Callable[..., Path], tmp_path: Path
) -> None:
    half = {"stages.main.select": {"name": "random", "fraction": 0.5}}
    long = {"like": "erm", "change": {**half, "stages.main.train.steps": 400}}  # not over before the signal comes
    path = tiny_suite({"erm": {}, "random": long}, seeds=[0])
    first = compare(path)
    assert first.stderr is not None
    for line in first.stderr:  # until the second cell's process is at work
        if "random / seed 0: started" in line:
            break
    cells = tmp_path / "results" / "suite" / "cells"
    assert len(list(cells.glob("*.json"))) == 1
    kept = {one: one.stat().st_mtime_ns for one in cells.glob("*.json")}
    first.send_signal(number)
    _, said = first.communicate(timeout=PATIENCE)
    if number != signal.SIGKILL:
        assert first.returncode == 130 and "run the same command again" in said
    else:  # the cell's process sees that its parent is gone
        wait_for_no_process_in(tmp_path)
    _, err = finished(path)
    assert "2 cells finished, 0 to come" in err
    assert err.count(": started") == 1 and not list(cells.glob("*.failed.json"))
    assert {one: one.stat().st_mtime_ns for one in kept} == kept


def wait_for_no_process_in(folder: Path) -> None:
    """Until no worker has the folder's suite open: its run folders can be locked again."""
    from ftft.errors import UserError
    from ftft.files import FolderLock

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            for place in (folder / "runs").iterdir():
                with FolderLock(place):
                    pass
            return
        except UserError:
            os.sched_yield()
    raise AssertionError("a cell's process outlived its parent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no mapping"),
        ("tasks: {}\nrows: {}\nseeds: []\nbaseline: erm", "tasks: there is none"),
        ("tasks: {t: task.yaml}\nrows: {erm: {}}\nseeds: [0]\nbaseline: emr", 'there is no row "emr"; did you mean "erm"'),
        ("tasks: {t: task.yaml}\nrows: {erm: {like: erm}}\nseeds: [0]\nbaseline: erm", "need each other in a circle"),
        ("tasks: {t: task.yaml}\nrows: {erm: {chnage: {}}}\nseeds: [0]\nbaseline: erm", 'did you mean "change"'),
        ("tasks: {t: task.yaml}\nrows: {erm: row.yaml}\nseeds: [0]\nbaseline: erm", "there is no file"),
        ("tasks: {t: absent.yaml}\nrows: {erm: {}}\nseeds: [0]\nbaseline: erm", "absent.yaml"),
        ("tasks: {t: task.yaml}\nrows: {erm: {}}\nseeds: [0, 0]\nbaseline: erm", "stand there once"),
        ("tasks: {t: task.yaml}\nrows: {erm: {change: {stages.mian.seed: 1}}}\nseeds: [0]\nbaseline: erm", "mian"),
        ("tasks: {t: task.yaml}\nrows: {erm: {cost_of: erm}}\nseeds: [0]\nbaseline: erm", "needs like"),
        ("tasks: {t: task.yaml}\nrows: {erm: {}}\nseeds: [0]\nbaseline: erm\nkind: confirm", "is not frozen"),
        (
            "tasks: {t: task.yaml}\nrows: {erm: {}}\nseeds: [0]\nbaseline: erm\nheadline: loss",
            'headline: there is no metric "loss" of task t; it has macro_f1, accuracy, auroc',
        ),
    ],
)
def test_a_wrong_suite_is_refused_in_one_sentence(
    text: str, expected: str, tiny_suite: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ftft.cli.main import main

    tiny_suite(["erm"])  # for its task.yaml
    path = tmp_path / "wrong.yaml"
    places = f"\noutput: {tmp_path / 'runs'}\nresults: {tmp_path / 'results'}\n" if text else ""
    path.write_text(text + places)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(path)])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and said.startswith("error: ") and "\n" not in said
    assert expected in said
    assert not list((tmp_path / "results").glob("*/cells/*"))
