"""A comparison from its suite to its table, through the processes that compute its cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.comparison.cells import CellFolder
from ftft.comparison.reading import read_suite
from ftft.comparison.running import results_folder, stand

Run = Callable[[Path], tuple[dict[str, Any], list[dict[str, Any]]]]


@pytest.mark.slow
def test_rows_of_a_suite_become_a_table(tiny_suite: Callable[..., Path], run_here: Run) -> None:
    path = tiny_suite(["erm", "ftft", "random", "random_prior", "random_refunded"])
    table, told = run_here(path)

    rows = table["tasks"]["feelings"]["rows"]
    assert table["cells"] == {"finished": 10, "pending": 0, "failed": 0}
    assert [row["seeds"] for row in rows.values()] == [[0, 1]] * 5
    # An exploration looks at validation sets only.
    assert [one["name"] for one in table["tasks"]["feelings"]["sets"]] == ["validation", "ood_validation"]
    assert rows["erm"]["cost"]["charged"]["value"] == 1.0
    assert rows["random"]["cost"]["charged"]["value"] == pytest.approx(1.0)  # as many steps, of half the examples
    reference = rows["ftft"]["cost"]["parts"]["reference"]
    assert rows["ftft"]["cost"]["charged"]["value"] == pytest.approx(1.0 + reference)
    # The reference's cost given back as steps: the same bill as FTFT's, to within a step of 24.
    assert rows["random_refunded"]["cost"]["charged"]["value"] == pytest.approx(1.0 + reference, abs=1 / 24)
    assert rows["random_refunded"]["steps"][0] > 24
    assert rows["random_prior"]["class_prior"] == pytest.approx(rows["ftft"]["class_prior"], abs=0.02)
    # Each main seed has a reference of its own, which no other cell shares.
    assert rows["ftft"]["cost"]["amortised"]["value"] == pytest.approx(rows["ftft"]["cost"]["charged"]["value"])

    again, told = run_here(path)
    assert not [event for event in told if event["event"] == "started"]
    same = ("tasks", "contrasts", "cells")
    assert {key: again[key] for key in same} == {key: table[key] for key in same}


@pytest.mark.slow
def test_cells_finished_elsewhere_are_not_computed_again(
    tiny_suite: Callable[..., Path], run_here: Run, tmp_path: Path
) -> None:
    path = tiny_suite(["erm", "random"])
    table, _ = run_here(path)
    suite = read_suite(path)
    moved = tmp_path / "elsewhere"
    (tmp_path / "runs").rename(tmp_path / "runs-that-are-gone")
    results_folder(suite).parent.rename(moved)
    text = path.read_text().replace(str(tmp_path / "results"), str(moved))
    path.write_text(text)
    plan = stand(read_suite(path), CellFolder(moved / "suite"))
    assert plan.ready == [] and plan.finished == 4
    for file in (moved / "suite" / "cells").glob("*.json"):
        assert str(tmp_path) not in file.read_text()
    assert table["tasks"]["feelings"]["rows"]["random"]["versus"]["means"]["ood"]["accuracy"]["sign"] in "+-0"


@pytest.mark.slow
def test_a_search_extends_until_the_best_is_interior(tiny_suite: Callable[..., Path], run_here: Run) -> None:
    search = {"points": 3, "factor": 4.0, "at_most": 6, "metric": "accuracy"}
    low = {"about": "", "change": {"stages.main.optimize": {"name": "adamw", "learning_rate": 2e-5}}}
    path = tiny_suite({"erm": low}, search=search)
    table, told = run_here(path)
    found = table["tasks"]["feelings"]["rows"]["erm"]["learning_rate"]
    values = [point["learning_rate"] for point in found["curve"]]
    scores = [point["value"] for point in found["curve"]]
    assert values == sorted(values) and len(values) > 3
    assert found["chosen"] == values[scores.index(max(scores))]
    assert found["interior"] == (0 < scores.index(max(scores)) < len(values) - 1)
    assert found["on"] == ["validation"]
    # The chosen value's stage was trained as a trial; its own cell takes it from the store.
    own = [event["work"] for event in told if event["event"] == "started" and not event["work"].trial]
    reused = [event["work"].key for event in told if event["event"] == "reused"]
    assert [work.seed for work in own] == [0, 1] and own[0].key in reused and own[1].key not in reused
    costs = table["tasks"]["feelings"]["rows"]["erm"]["cost"]
    assert costs["searches"] == pytest.approx(len(values) - 1)  # the chosen one is the row's own training


@pytest.mark.slow
def test_a_failed_cell_is_told_and_does_not_stop_the_others(tiny_suite: Callable[..., Path], run_here: Run) -> None:
    diverges = {"about": "", "change": {"stages.main.optimize": {"name": "adamw", "learning_rate": 1e30}}}
    plain = {"about": "plain", "change": {}}
    path = tiny_suite({"erm": plain, "diverges": diverges}, seeds=[0])
    table, _ = run_here(path)
    rows = table["tasks"]["feelings"]["rows"]
    assert rows["erm"]["seeds"] == [0] and rows["diverges"]["seeds"] == []
    assert "the loss became nan at step" in rows["diverges"]["failed"][0]["why"]
    assert table["cells"]["failed"] == 1
    stored = json.loads(next(iter(path.parent.glob("results/suite/cells/*.failed.json"))).read_text())
    assert stored["why"] == rows["diverges"]["failed"][0]["why"]


@pytest.mark.slow
def test_a_cell_of_other_data_is_made_again(tiny_suite: Callable[..., Path], run_here: Run, tmp_path: Path) -> None:
    path = tiny_suite(["erm"], seeds=[0])
    run_here(path)
    train = tmp_path / "train.csv"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([*lines[:-1], lines[-1].replace("negative", "positive")]) + "\n")
    _, told = run_here(path)
    assert [event["work"].row for event in told if event["event"] == "started"] == ["erm"]
    assert any("computed from another" in event.get("text", "") for event in told)
