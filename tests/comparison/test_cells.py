"""Cells are found again whatever wrote them, left out where they are damaged, and measure what the run measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftft.comparison.cells import Cell, CellFolder, cell_key
from ftft.comparison.making import cell_recipe
from ftft.comparison.measuring import Measures
from ftft.comparison.planning import make_plan
from ftft.comparison.reading import read_suite
from ftft.comparison.running import results_folder
from ftft.comparison.suite import METRICS, Suite
from ftft.files import read_json, write_json


@pytest.fixture
def finished(tiny_suite: Callable[..., Path], run_here: Callable[..., Any]) -> tuple[Suite, CellFolder]:
    """A suite with its one cell finished."""
    path = tiny_suite(["erm"], seeds=[0])
    run_here(path)
    suite = read_suite(path)
    return suite, CellFolder(results_folder(suite))


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.slow
def test_what_older_and_newer_versions_wrote_is_looked_up_by_its_meaning(finished: tuple[Suite, CellFolder]) -> None:
    suite, folder = finished
    key = cell_key(cell_recipe(suite, "feelings", "erm", 0), "feelings")
    (cell,) = folder.read().values()
    assert cell.key == key == cell.document["key"]

    # A setting that the version which wrote it did not have: it has its default.
    rewrite(cell.path, lambda document: document["recipe"]["stages"]["main"]["train"].pop("clip"))
    assert set(CellFolder(folder.folder).read()) == {key}
    # A default that has changed since: what was written out is what was done.
    rewrite(cell.path, lambda document: document["recipe"]["stages"]["main"]["train"].update(clip=0.5))
    assert key not in CellFolder(folder.folder).read()

    # A setting that there is no more: the cell is left out with a sentence, and to be made again.
    rewrite(cell.path, lambda document: document["recipe"]["stages"]["main"]["train"].update(gone=1))
    said: list[str] = []
    again = CellFolder(folder.folder, said.append)
    assert again.read() == {} and again.read() == {}
    assert len(said) == 1 and "is left out" in said[0] and "gone" in said[0]
    assert [work.key for work in make_plan(suite, again.read(), {}).ready] == [key]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "newer", "labels missing"])
def test_damaged_cells_are_left_out(damage: str, finished: tuple[Suite, CellFolder]) -> None:
    _, folder = finished
    (cell,) = folder.read().values()
    if damage == "truncated":
        cell.path.write_bytes(cell.path.read_bytes()[:100])
    elif damage == "newer":
        rewrite(cell.path, lambda document: document.update(format_version=99))
    else:
        next((folder.folder / "sets").iterdir()).unlink()
    said: list[str] = []
    assert CellFolder(folder.folder, said.append).read() == {}
    assert len(said) == 1 and cell.path.name in said[0]


@pytest.mark.slow
def test_measures_are_those_of_the_run(finished: tuple[Suite, CellFolder]) -> None:
    _, folder = finished
    (cell,) = folder.read().values()
    measures = Measures(folder, 100)
    for name, one in cell.sets.items():
        found = measures.of(cell, name)
        assert set(found) == set(METRICS) and all(len(values) == 101 for values in found.values())
        figures = one["figures"]
        for metric in METRICS:
            *group, last = metric.split(".")
            entry = figures[group[0]] if group else figures["metrics"]
            tolerance = 1e-12 if "accuracy" in metric or "f1" in metric else 2e-3
            assert found[metric][0] == pytest.approx(entry[last]["value"], abs=tolerance), (name, metric)
        assert np.nanstd(found["accuracy"][1:]) > 0


def test_cells_of_two_tasks_with_files_of_one_name_are_told_apart(tiny_suite: Callable[..., Path]) -> None:
    suite = read_suite(tiny_suite(["erm"], tasks={"one": "task.yaml", "two": "task.yaml"}))
    keys = {work.key for work in make_plan(suite, {}, {}).ready}
    assert len(keys) == 4  # two tasks under two seeds


def test_a_failure_is_kept_until_the_cell_is_there(tmp_path: Path) -> None:
    folder, key = CellFolder(tmp_path), "ab" * 32
    folder.write_failure(key, "the loss became nan")
    assert folder.failures() == {key: "the loss became nan"} and folder.read() == {}
    folder.write({"key": key, "task": "t", "recipe": {}, "sets": {}}, {})
    assert folder.failures() == {}


def test_a_cells_cost_per_step_holds_the_evaluations_on_the_way_and_nothing_that_is_spent_once(tmp_path: Path) -> None:
    phases = {"reference": 300, "creation": 50, "search": 30, "scoring": 20, "training": 540, "evaluation": 60}
    document = {"main": "main", "cost": {"flops": 1000, "phases": phases}, "training": {"steps": 20}}
    cell = Cell(document, tmp_path / "x.json", "k")
    assert cell.flops == 1000 and cell.flops_per_step == 30 and cell.flops_of(["reference", "scoring"]) == 320


def test_sets_are_kept_once(finished_sets: list[Path]) -> None:
    assert len(finished_sets) == len({path.read_bytes() for path in finished_sets}) == 1


@pytest.fixture
def finished_sets(tmp_path: Path) -> list[Path]:
    folder = CellFolder(tmp_path)
    for key in ("ab" * 32, "cd" * 32):
        folder.write({"key": key, "task": "t", "recipe": {}, "sets": {"s": {"set": "ef" * 32}}}, {"ef" * 32: {"labels": 1}})
    return list((tmp_path / "sets").iterdir())


def test_the_stored_document_names_its_format(tmp_path: Path) -> None:
    CellFolder(tmp_path).write({"key": "ab" * 32, "task": "t", "recipe": {}, "sets": {}}, {})
    path = next((tmp_path / "cells").iterdir())
    assert read_json(path, kind="cell")["format"] == "ftft/cell"
    write_json(path, {}, kind="other")
    assert CellFolder(tmp_path).read() == {}
