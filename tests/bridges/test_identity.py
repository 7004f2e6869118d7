"""`ftft init`, `ftft score` and the recorder name the same column as the id, so that what they write can be joined."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import yaml

from ftft.bridges.identity import example_ids
from ftft.data.ids import id_column_of
from ftft.data.loading import load_examples
from ftft.data.settings import Columns, DataFile
from ftft.data.sniffing import propose_recipe

N = 30
UNIQUE: dict[str, list[Any]] = {
    "id": [f"x{i}" for i in range(N)],
    "guid": list(range(100, 100 + N)),
    "idx": list(range(N)),
    "pairID": [f"{i}n" for i in range(N)],
    "tweetid": [f"t{i}" for i in range(N)],
}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"id": UNIQUE["id"], "guid": UNIQUE["guid"]}, "id"),
        ({"id": ["same"] * N, "guid": UNIQUE["guid"]}, "guid"),
        ({"id": [*UNIQUE["id"][:-1], None], "idx": UNIQUE["idx"]}, "idx"),
        ({"id": [i + 0.5 for i in range(N)], "pairID": UNIQUE["pairID"]}, "pairID"),
        ({"tweetid": UNIQUE["tweetid"]}, "tweetid"),
        ({"number": UNIQUE["idx"]}, None),
    ],
)
def test_the_same_column_is_taken_everywhere(tmp_path: Path, extra: dict[str, list[Any]], expected: str | None) -> None:
    columns = {"text": [f"this is sentence number {i} of them" for i in range(N)], "label": [i % 2 for i in range(N)], **extra}
    path = tmp_path / "train.jsonl"
    rows = [{name: values[row] for name, values in columns.items()} for row in range(N)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert yaml.safe_load(propose_recipe(path, [], None))["data"]["columns"]["id"] == expected
    read = Columns(text=["text"], label="label")
    assert id_column_of(DataFile(path=str(path)), read) == expected
    trainer = SimpleNamespace(train_dataset=datasets.Dataset.from_dict(columns), label_names=["labels"])
    ids, source = example_ids(trainer, None)
    assert source == (expected or "row")
    if expected is not None:
        scored = load_examples(DataFile(path=str(path)), Columns(text=["text"], label="label", id=expected))
        assert ids is not None and ids.to_pylist() == scored.ids.to_pylist()


def test_a_damaged_file_names_no_column_and_is_left_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": 0, "id": 1}\n{"text": "b", "la')
    assert id_column_of(DataFile(path=str(path)), Columns()) is None
