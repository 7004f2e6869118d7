"""Selection files: what is written is read back, and a damaged or foreign file is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection
from ftft.methods.selection import read_selection, select, sidecar, write_selection

IDS = ["007", "plain", 'comma, "quote"', "line\nbreak", "ümlaut", "", "None"]


@pytest.fixture
def selection() -> Selection:
    return Selection(
        ids=pa.array(IDS),
        weights=np.array([1, 0.1, 1 / 3, 2, 1, 1, 1e-17]),
        rule={"name": "top", "score": "variability", "fraction": 0.33, "epochs": None},
        scores=np.array([0.1, 1 / 3, np.nan, 1e300, -2.5, 0.0, 5]),
        counts={"pool": 20, "selected": 7, "classes": {"ümlaut": {"pool": 3, "selected": 1}}},
        dynamics_fingerprint="ab" * 32,
    )


@pytest.mark.parametrize("name", ["s.parquet", "s.csv", "s.jsonl"])
def test_rows_round_trip_exactly(tmp_path: Path, selection: Selection, name: str) -> None:
    write_selection(selection, tmp_path / "new" / name)
    again = read_selection(tmp_path / "new" / name)
    assert again.ids.to_pylist() == IDS
    np.testing.assert_array_equal(again.weights, selection.weights)
    np.testing.assert_array_equal(again.scores, selection.scores)
    assert not [path for path in (tmp_path / "new").iterdir() if path.suffix == ".tmp"]


def test_parquet_keeps_the_rule_the_counts_and_the_fingerprint(tmp_path: Path, selection: Selection) -> None:
    write_selection(selection, tmp_path / "s.parquet")
    again = read_selection(tmp_path / "s.parquet")
    assert (again.rule, again.counts, again.dynamics_fingerprint) == (selection.rule, selection.counts, "ab" * 32)
    document = json.loads(sidecar(tmp_path / "s.parquet").read_text(encoding="utf-8"))
    assert (document["format"], document["format_version"]) == ("ftft/selection", 1)
    assert pq.read_table(tmp_path / "s.parquet").column_names == ["id", "score", "weight"]


def test_a_real_selection_of_random_and_of_top_round_trips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dynamics = Dynamics(
        pa.array([f"{i}" for i in range(50)]),
        (0, 1, 2),
        np.ones((3, 50), dtype=bool),
        gold=(np.arange(50) % 2).astype(np.int32),
        logits=rng.normal(size=(3, 50, 2)).astype(np.float32),
    )
    written = select(dynamics, fraction=0.2, balance="class", apply="weights")
    write_selection(written, tmp_path / "s.parquet")
    again = read_selection(tmp_path / "s.parquet")
    assert again.ids.equals(written.ids) and again.rule == written.rule and again.counts == written.counts
    write_selection(Selection(written.ids, written.weights, {"name": "all"}), tmp_path / "s.parquet")
    assert read_selection(tmp_path / "s.parquet").scores is None


def test_a_parquet_file_without_its_own_sidecar_is_refused(tmp_path: Path, selection: Selection) -> None:
    path = tmp_path / "s.parquet"
    write_selection(selection, path)
    kept = sidecar(path).read_bytes()
    write_selection(Selection(pa.array(["a"]), np.ones(1), {"name": "all"}), path)
    sidecar(path).write_bytes(kept)
    with pytest.raises(UserError, match="is not the file that s.parquet.json describes"):
        read_selection(path)
    sidecar(path).unlink()
    with pytest.raises(UserError, match="s.parquet.json does not exist"):
        read_selection(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", "id,weight\na,1\n"),
        ("s.csv", "id,score,weight\na,high,1\n"),
        ("s.csv", "id,score,weight\na\n"),
        ("s.jsonl", '{"id": "a", "score": 1'),
        ("s.jsonl", '{"id": "a"}\n'),
        ("s.jsonl", '{"id": 3, "score": 1, "weight": 1}\n'),
        ("s.jsonl", "[1, 2]\n"),
    ],
)
def test_damaged_text_files_are_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is not a selection with the columns id, score and weight"):
        read_selection(tmp_path / name)


def test_other_endings_and_missing_files_are_refused(tmp_path: Path, selection: Selection) -> None:
    with pytest.raises(UserError, match=r'did you mean ".parquet"'):
        write_selection(selection, tmp_path / "s.parqet")
    with pytest.raises(UserError, match=r"\.csv"):
        write_selection(selection, tmp_path / "selection")
    for name in ("s.parquet", "s.csv"):
        with pytest.raises(UserError, match="does not exist"):
            read_selection(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_selection_prints_as_one_short_line(selection: Selection) -> None:
    assert repr(selection) == "Selection(7 rows from 20 examples; top rule: score variability, fraction 0.33)"
    ids = pa.array([f"{i}" for i in range(2000)])
    logits = np.random.default_rng(0).normal(size=(3, 2000, 2)).astype(np.float32)
    dynamics = Dynamics(ids, (0, 1, 2), np.ones((3, 2000), dtype=bool), np.zeros(2000, dtype=np.int32), logits=logits)
    chosen = select(dynamics, score="confidence", count=1000, largest=False)
    assert repr(chosen) == "Selection(1,000 rows from 2,000 examples; top rule: score confidence, count 1000, lowest first)"
    assert repr(Selection(ids=ids, weights=np.ones(2000), rule={"name": "file"})) == "Selection(2,000 rows; file rule)"
