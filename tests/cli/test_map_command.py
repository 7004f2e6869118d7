"""`ftft map`: dynamics from anywhere become a page, with texts or without, and what cannot work is said in one sentence."""

from __future__ import annotations

import csv
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.cli.main import main
from ftft.dynamics.cartography import write_cartography
from ftft.dynamics.parquet import write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.methods.selection import select, write_selection
from ftft.report.map_points import MapPoints

N, E = 30, 3
EVIL = "<script>alert(1)</script>"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0), capsys.readouterr().err.strip()


def make(seed: int = 0, **metadata: Any) -> Dynamics:
    logits = np.random.default_rng(seed).standard_normal((E, N, 2)).astype(np.float32)
    gold = np.arange(N, dtype=np.int32) % 2
    ids = pa.array([f"e{row}" for row in range(N)])
    return Dynamics(ids, tuple(range(E)), np.ones((E, N), dtype=bool), gold, logits, metadata=metadata)


def data_of(path: Path) -> dict[str, Any]:
    source = path.read_text(encoding="utf-8")
    begin = source.index('id="ftft-map-data">') + len('id="ftft-map-data">')
    return dict(json.loads(source[begin : source.index("</script>", begin)]))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """The rows in another order than the dynamics have, with a column that only looks like ids."""
    path = tmp_path / "train.csv"
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["author_id", "guid", "text", "label"])
        for row in reversed(range(N)):
            writer.writerow([f"a{row % 3}", f"e{row}", f"words of row {row} {EVIL}", ["no", "yes"][row % 2]])
    return path


@pytest.mark.parametrize("here", [True, False])
def test_every_kind_of_dynamics_is_drawn_and_no_folder_of_the_machine_is_told(
    here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if here else tmp_path / "elsewhere")
    table = make()
    (tmp_path / "run" / "stages" / "reference").mkdir(parents=True)
    write_dynamics(table, tmp_path / "run" / "stages" / "reference" / "dynamics.parquet")
    write_dynamics(table, tmp_path / "own.parquet")
    write_cartography(table, tmp_path / "cartography")
    with open(tmp_path / "long.csv", "w", encoding="utf-8") as stream:
        stream.write("id,epoch,probability\n")
        stream.writelines(f"e{row},{epoch},0.{row:02d}{epoch}\n" for row in range(N) for epoch in range(E))
    for source in ("run", "own.parquet", "cartography", "long.csv"):
        out = tmp_path / f"{source}.html"
        assert call(capsys, "map", tmp_path / source, "--out", out) == (0, "")
        found = data_of(out)
        assert found["ids"] == [f"e{row}" for row in range(N)] and found["texts"] is None
        assert found["maps"][0]["source"] == source and len(found["maps"][0]["trajectory"]) == E
        assert str(tmp_path) not in out.read_text(encoding="utf-8")


def test_maps_of_one_name_are_told_apart_by_the_ends_of_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [tmp_path / "alice" / side / "run" / "d.parquet" for side in ("a", "b")]
    for seed, source in enumerate(sources):
        source.parent.mkdir(parents=True)
        write_dynamics(make(seed), source)
    out = tmp_path / "map.html"
    for pair, expected in (
        (sources, ["in a/run/d.parquet", "in b/run/d.parquet"]),
        ([sources[0], sources[0]], ["in d.parquet", "in d.parquet"]),
    ):
        assert call(capsys, "map", *pair, "--out", out) == (0, "")
        assert [one["name"] for one in data_of(out)["maps"]] == expected
        assert "alice" not in out.read_text(encoding="utf-8")


def test_names_that_are_no_utf_8_crash_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    write_dynamics(make(), tmp_path / "d.parquet")
    (tmp_path / "d.parquet").rename(folder / "dynamics.parquet")
    out = tmp_path / "map.html"
    for arguments in ((folder, "--out", out), (tmp_path, "--out", folder / "map.html")):
        code, said = call(capsys, "map", *arguments)
        assert code == 2 and said.startswith("error: the path '/") and "is not valid UTF-8" in said and not out.exists()
    monkeypatch.chdir(folder)
    assert call(capsys, "map", ".", "--out", out) == (0, "")
    assert data_of(out)["maps"][0]["name"] == "in r?"


def test_more_examples_than_a_page_takes_are_refused_as_a_page_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftft.report.parts.MOST_EXPLORED", N - 1)
    write_dynamics(make(), tmp_path / "own.parquet")
    code, error = call(capsys, "map", tmp_path / "own.parquet", "--out", tmp_path / "map.html")
    assert code == 2 and error.startswith(
        f"error: {tmp_path / 'own.parquet'} holds 30 examples, and a page to explore takes up to"
    )
    assert error.endswith("that ends in .png or .svg for a picture") and not (tmp_path / "map.html").exists()
    pytest.importorskip("matplotlib")
    assert call(capsys, "map", tmp_path / "own.parquet", "--out", tmp_path / "map.svg") == (0, "")


def test_texts_are_shown_and_left_out(tmp_path: Path, train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dynamics(make(), tmp_path / "d.parquet")
    out = tmp_path / "map.html"
    assert call(capsys, "map", tmp_path / "d.parquet", "--data", train, "--out", out)[0] == 0
    found = data_of(out)
    assert found["texts"] == [[f"words of row {row} {EVIL}"] for row in range(N)]
    assert found["text_columns"] == ["text"] and found["label_names"] == ["no", "yes"]
    assert EVIL not in out.read_text(encoding="utf-8")
    assert call(capsys, "map", tmp_path / "d.parquet", "--data", train, "--no-text", "--out", out)[0] == 0
    assert "words of row" not in out.read_text(encoding="utf-8")
    assert data_of(out)["label_names"] == ["no", "yes"]


def test_two_maps_and_a_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_dynamics(make(seed), tmp_path / f"{name}.parquet")
    write_selection(select(make(0), fraction=0.5), tmp_path / "half.parquet")
    out = tmp_path / "map.html"
    arguments = ("map", tmp_path / "a.parquet", tmp_path / "b.parquet", "--selection", tmp_path / "half.parquet", "--out", out)
    assert call(capsys, *arguments) == (0, "")
    first, second = data_of(out)["maps"]
    assert [one["name"] for one in first["selections"]] == ["selected in half.parquet"] and second["selections"] == []
    source = out.read_text(encoding="utf-8")
    assert "Do the dynamics transfer?" in source and "Data maps in a.parquet and in b.parquet" in source


def test_a_picture_is_written_by_the_static_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dynamics(make(), tmp_path / "d.parquet")
    drawn: list[tuple[MapPoints, Path]] = []
    module = types.ModuleType("ftft.report.static_map")
    module.write_static_map = lambda points, path: drawn.append((points, path))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftft.report.static_map", module)
    for ending in ("svg", "png"):
        out = tmp_path / f"map.{ending}"
        assert call(capsys, "map", tmp_path / "d.parquet", "--out", out)[0] == 0
        points, path = drawn.pop()
        assert path == out and len(points) == N and points.confidence.dtype == np.float32
        assert points.labels is not None and points.labels.tolist() == [0, 1] * (N // 2) and points.selected is None


def test_wrong_calls_are_one_sentence_and_leave_nothing(
    tmp_path: Path, train: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "d.parquet", tmp_path / "map.html"
    write_dynamics(make(), source)
    write_dynamics(make().only_epochs([1]), tmp_path / "one.parquet")
    (tmp_path / "foreign.csv").write_text("id,text,label\nq1,some words here,no\n", encoding="utf-8")
    (tmp_path / "foreign.jsonl").write_text('{"id": "q", "score": null, "weight": 1.0}\n', encoding="utf-8")
    cases = [
        (("--out", tmp_path / "map.pdf"), 'has the unknown ending ".pdf"'),
        (("--out", source), 'has the unknown ending ".parquet"'),
        (("--text", "text", "--out", out), "name columns of the file that --data gives"),
        (("--data", train, "--text", "tekst", "--out", out), 'has no column "tekst"; did you mean "text"'),
        (("--data", tmp_path / "foreign.csv", "--out", out), "none of the 30 examples is among the rows of"),
        (("--selection", tmp_path / "foreign.jsonl", "--out", out), "it is a selection of other data"),
        ((source, "--out", tmp_path / "map.svg"), "is a picture of one map"),
    ]
    for arguments, sentence in cases:
        code, said = call(capsys, "map", source, *arguments)
        assert code == 2 and sentence in said and len(said.splitlines()) == 1 and said.startswith("error: ")
    code, said = call(capsys, "map", tmp_path / "one.parquet", "--out", out)
    assert code == 2 and "at least 2 epochs" in said
    assert not out.exists()
