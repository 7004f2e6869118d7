"""Exploration and claim apart: what a confirm suite refuses, lists and counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftft.cli.main import main
from ftft.comparison.cells import CellFolder
from ftft.comparison.protocol import begin, explorations, freeze, openings, suite_hashes
from ftft.comparison.reading import read_suite
from ftft.comparison.running import results_folder, stand
from ftft.errors import UserError


@pytest.fixture
def explored(tiny_suite: Callable[..., Path]) -> Path:
    """An exploration that has begun."""
    path = tiny_suite(["erm", "random"], name="explore")
    suite = read_suite(path)
    begin(suite, results_folder(suite))
    return path


def frozen(explored: Path, seeds: list[int]) -> Path:
    suite, target = read_suite(explored), explored.with_name("confirm.yaml")
    freeze(suite, stand(suite, CellFolder(results_folder(suite))), seeds, target)
    return target


def changed(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))
    return path


def test_a_frozen_suite_may_begin_lists_explorations_and_counts_openings(explored: Path) -> None:
    suite = read_suite(frozen(explored, [10, 11]))
    folder = results_folder(suite)
    assert suite.kind == "confirm" and suite_hashes(suite) == suite_hashes(read_suite(explored))
    begin(suite, folder)
    begin(suite, folder)  # going on after Ctrl-C opens nothing again
    assert len(openings(folder)) == 1
    assert [(one["suite"], one["seeds"]) for one in explorations(suite, folder)] == [("explore", [0, 1])]
    more = read_suite(changed(explored.with_name("confirm.yaml"), seeds=[10, 11, 12]))
    begin(more, folder)
    assert [opening["seeds"] for opening in openings(folder)] == [[10, 11], [10, 11, 12]]


def test_a_row_that_is_no_longer_what_was_frozen_is_refused(explored: Path) -> None:
    path = frozen(explored, [10])
    rows = yaml.safe_load(path.read_text())["rows"]
    rows["random"]["change"]["stages.main.select"]["fraction"] = 0.6
    with pytest.raises(UserError, match=r"rows\.random is no longer what was frozen"):
        begin(read_suite(changed(path, rows=rows)), path.parent / "results" / "confirm")


def test_the_sets_a_row_is_evaluated_on_are_not_frozen(explored: Path) -> None:
    path = frozen(explored, [10])
    recipe = explored.with_name("task.yaml")
    document = yaml.safe_load(recipe.read_text())
    document["data"]["evaluation"]["test"]["sample"] = 20
    recipe.write_text(yaml.safe_dump(document, sort_keys=False))
    begin(read_suite(path), path.parent / "results" / "confirm")


def test_a_seed_that_was_explored_is_refused(explored: Path) -> None:
    with pytest.raises(UserError, match="seed 1 was used in the exploration"):
        frozen(explored, [1, 10])
    path = changed(frozen(explored, [10]), seeds=[0, 10])
    with pytest.raises(UserError, match="seeds: 0 was used by the exploration explore"):
        begin(read_suite(path), path.parent / "results" / "confirm")


def test_a_seed_that_was_taken_out_of_an_exploration_stays_used(explored: Path) -> None:
    begin(read_suite(changed(explored, seeds=[7])), explored.parent / "results" / "explore")
    path = changed(frozen(explored, [10]), seeds=[1])
    with pytest.raises(UserError, match="seeds: 1 was used"):
        begin(read_suite(path), path.parent / "results" / "confirm")


def test_an_unfinished_search_cannot_be_frozen(tiny_suite: Callable[..., Path]) -> None:
    path = tiny_suite(["erm"], name="explore", search={"metric": "accuracy"})
    with pytest.raises(UserError, match="search of row erm on task feelings is not finished"):
        frozen(path, [10])
    assert not path.with_name("confirm.yaml").exists()


def test_the_command_freezes_and_never_overwrites(explored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = explored.with_name("claim.yaml")
    arguments = ["compare", str(explored), "--freeze", str(target), "--seeds", "10,11"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0 and read_suite(target).seeds == [10, 11]
    for wrong, expected in (
        (arguments, "exists already"),
        (arguments[:4], "belong together"),
        ([*arguments[:3], str(explored.with_name("x.yaml")), "--seeds", "ten"], "no list of whole numbers"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2 and expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_confirmation_evaluates_the_test_sets(explored: Path, run_here: Callable[..., Any]) -> None:
    table, _ = run_here(frozen(explored, [10]))
    assert [one["name"] for one in table["tasks"]["feelings"]["sets"]] == [
        "validation", "test", "ood", "ood_validation",
    ]  # fmt: skip
    means = table["tasks"]["feelings"]["rows"]["erm"]["means"]
    assert means["id"]["sets"] == ["test"] and means["ood"]["sets"] == ["ood"]
