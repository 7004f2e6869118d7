"""``ftft report``: what it makes anew is what the run wrote, and it needs nothing but the run's own folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftft.cli.main import main
from ftft.dynamics.parquet import read_dynamics
from ftft.dynamics.table import Dynamics
from ftft.files import FolderLock

COMMITTED = Path(__file__).parents[2] / "results" / "standing"


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def moved(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run far from its data and its store, the model's weights taken out."""
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    (copy / "model" / "model.safetensors").unlink()
    return copy


def test_an_untouched_run_gets_the_same_bytes(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(moved)
    for name in ("report.html", "model/README.md"):
        (moved / name).write_text("spoilt")
    assert call("report", moved) == 0
    after = contents(moved)
    assert after.pop(".lock") is not None and before.pop(".lock") is not None  # it holds the number of the process
    assert after == before
    said = capsys.readouterr().out
    assert f"page: {moved / 'report.html'}" in said and "Minus erm" in said


def test_what_a_run_holds_is_read_once_for_page_and_terminal(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def once(path: Path) -> Dynamics:
        read.append(path)
        return read_dynamics(path)

    monkeypatch.setattr("ftft.report.parts.read_dynamics", once)
    assert call("report", moved) == 0
    assert read == [moved / "stages" / "reference" / "dynamics.parquet"]


def test_a_comparison_gets_its_page_and_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(COMMITTED / "table.json", tmp_path)
    assert call("report", tmp_path) == 0
    made = contents(tmp_path)
    assert made.keys() == {"table.json", "table.md", "table.html"}
    assert "random_refunded" in capsys.readouterr().out and b"random_refunded" in made["table.md"]
    (tmp_path / "table.md").unlink()
    assert call("report", tmp_path) == 0 and contents(tmp_path) == made


def test_several_are_named_and_all_are_judged_before_one_is_written(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "comparison").mkdir()
    shutil.copy(COMMITTED / "table.json", tmp_path / "comparison")
    assert call("report", tmp_path / "comparison", tmp_path / "nothing") == 2
    assert not (tmp_path / "comparison" / "table.md").exists()
    capsys.readouterr()
    assert call("report", moved, tmp_path / "comparison") == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(moved) in lines and str(tmp_path / "comparison") in lines


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "holds neither a run's result.json nor a comparison's table.json"),
        ({"below/result.json": "{}"}, "did you mean {folder}/below?"),
        ({"recipe.yaml": "x: 1"}, "is not finished, as it has no result.json"),
        ({"cells/a.json": "{}"}, "holds cells and no table.json"),
        ({"result.json": "{}"}, 'is not a file of the kind "ftft/result"'),
        ({"result.json": '{"format": "ftft/result", "format_version": 99}'}, "upgrade ftft"),
        ({"table.json": "["}, "is damaged"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_sentence(
    files: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert call("report", tmp_path) == 2
    said = capsys.readouterr()
    assert expected.format(folder=tmp_path) in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_file_is_refused_and_so_is_a_run_that_is_at_work(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", moved / "result.json") == 2
    assert "is a file; give the run's folder" in capsys.readouterr().err
    with FolderLock(moved):
        assert call("report", moved) == 2
    assert "another run" in capsys.readouterr().err
