"""A store and a run of the first release's formats (tests/data/first_release) are still what they were to today's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftft.cli.main import main
from ftft.engine.checkpoint import CheckpointFolder
from ftft.report.writing import write_report
from ftft.run.reading import load_recipe
from ftft.run.runner import read_result, run_recipe

HOME = Path(__file__).parents[1] / "data" / "first_release" / "home"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(HOME, tmp_path / "home")
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_its_stages_are_found_and_neither_trained_nor_predicted_again(home: Path) -> None:
    before = read_result(home / "results" / "first")
    events: list[dict[str, Any]] = []
    after = read_result(run_recipe(load_recipe("first.yaml"), notify=events.append))
    kinds = [event["event"] for event in events]
    assert kinds.count("reused") == 2 and not {"step", "selected", "predicted"} & {*kinds}
    assert not [event for event in events if event["event"] == "warning" and "damaged" in event["text"]]
    for name, stage in before["stages"].items():
        found = after["stages"][name]
        assert found["reused"] and found["key"] == stage["key"]
        for kept in ("training", "selection", "evaluation", "reporting_ledger"):
            assert found[kept] == stage[kept], (name, kept)
        assert found["ledger"]["effective"] == stage["ledger"]["effective"]


def test_every_command_reads_its_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = home / "results" / "first"
    assert write_report(run).is_file()
    assert call("select", "results/first", "--fraction", "0.5", "--out", "chosen.csv") == 0
    assert call("score", "results/first", "--out", "scores.csv") == 0
    assert call("export", "results/first", "--cartography", "cartography") == 0
    assert call("eval", "results/first/model", "first.yaml") == 0
    chosen = [line.split(",")[0] for line in (home / "chosen.csv").read_text().splitlines()[1:]]
    rows = [json.loads(line)["id"] for line in (home / "train.jsonl").read_text().splitlines()]
    assert len(chosen) == 12 and set(chosen) <= set(rows)
    capsys.readouterr()
    assert call("verify", "results/first") in (0, 1)  # another processor may round otherwise; it says so
    said = capsys.readouterr().out
    assert "reference: 5 of 6 steps" in said and "losses and weights" not in said  # that release kept no hash of weights
    assert "DIFFER" not in said or "different here" in said


def test_a_damaged_stage_of_it_is_trained_again_and_the_rest_is_kept(home: Path) -> None:
    (damaged,) = (home / "store").glob("*/dynamics.parquet")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 8
    damaged.unlink()
    damaged.write_bytes(content)
    events: list[dict[str, Any]] = []
    run_recipe(load_recipe("first.yaml"), notify=events.append)
    warned = [event["text"] for event in events if event["event"] == "warning"]
    assert any("dynamics.parquet does not fit its SHA-256" in text for text in warned), warned
    assert [event["stage"] for event in events if event["event"] == "reused"] == ["main"]
    assert not CheckpointFolder(damaged.parent / "checkpoints").steps()
