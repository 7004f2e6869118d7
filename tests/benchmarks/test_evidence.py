"""docs/evidence.md is what its command makes of the committed tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def evidence(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("evidence")


def test_the_page_is_what_the_committed_tables_say(evidence: ModuleType) -> None:
    assert (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8") == evidence.evidence(ROOT / "results")


def test_the_readme_holds_the_summary_of_the_committed_tables(evidence: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert evidence.in_readme(text, ROOT / "results") == text


def test_every_finished_suite_has_a_section_under_one_title(evidence: ModuleType, tmp_path: Path) -> None:
    for name, finished in (("one", 3), ("two", 1), ("nothing", 0)):
        (tmp_path / name).mkdir()
        table = {"name": name, "kind": "explore", "tasks": {}, "cells": {"finished": finished, "pending": 0, "failed": 0}}
        (tmp_path / name / "table.json").write_text(json.dumps(table))
    page = evidence.evidence(tmp_path)
    assert [line for line in page.splitlines() if line.startswith(("# ", "## "))] == ["# Evidence", "## one", "## two"]


def test_the_readme_leaves_out_what_has_not_begun(evidence: ModuleType, tmp_path: Path) -> None:
    table = json.loads((ROOT / "results" / "standing" / "table.json").read_text(encoding="utf-8"))
    task = table["tasks"]["hate_speech"]
    task["rows"]["random_refunded"] |= {"seeds": [], "pending": [0, 1, 2]}
    unknown = {"value": None, "low": None, "high": None}
    for one in table["contrasts"]:
        if one["against"] == "random_refunded":
            one["difference"] = one["ranking"] = unknown
    table["tasks"]["later"] = {**task, "rows": {name: {**row, "seeds": []} for name, row in task["rows"].items()}}
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "table.json").write_text(json.dumps(table))
    said = evidence.summary(tmp_path)
    assert "| random_same_prior |" in said and "random_refunded" not in said and "later" not in said


def test_the_readme_names_an_experiment_of_single_methods_without_its_table(evidence: ModuleType, tmp_path: Path) -> None:
    table = json.loads((ROOT / "results" / "standing" / "table.json").read_text(encoding="utf-8"))
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "table.json").write_text(json.dumps({**table, "name": "methods"}))
    said = evidence.summary(tmp_path)
    assert said.splitlines() == [
        "Suite [methods](results/methods/table.md) (explore, direction only: 3 seeds): 6 rows, whose figures stand by method "
        "in [docs/methods.md](docs/methods.md)."
    ]
