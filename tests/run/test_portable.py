"""No folder of a machine in what is published: paths as the recipe writes them, else their last part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftft.run.portable import portable_model, portable_path, portable_sentences
from ftft.run.recipe import Recipe


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("${DATA}/x/train.csv", "${DATA}/x/train.csv"),
        ("data/train.csv", "data/train.csv"),
        ("~/models/small", "~/models/small"),
        ("/mnt/disk/models/small", "small"),
        ("/mnt/disk/models/small/", "small"),
        ("name/of-a-hub-model", "name/of-a-hub-model"),
        ("/", "/"),
    ],
)
def test_only_absolute_paths_are_cut(path: str, expected: str) -> None:
    assert portable_path(path) == expected


def test_paths_below_the_current_folder_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable_path(str(tmp_path / "recipes" / "train.csv")) == "recipes/train.csv"


def test_a_models_names_are_portable_and_each_stands_once() -> None:
    found = portable_model({"source": "/a/b/MiniLM", "lineage": ["/a/b/MiniLM", "/c/MiniLM", "hub/MiniLM"], "layers": 6})
    assert found == {"source": "MiniLM", "lineage": ["MiniLM", "hub/MiniLM"], "layers": 6}


def test_sentences_keep_everything_but_folders(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTFT_TEST_DATA", str(tmp_path))
    tiny_recipe(tmp_path, Path("m"), {"erm": {}})
    recipe = tiny_recipe(tmp_path, Path("m"), {"erm": {}}, data={"train": {"path": "${FTFT_TEST_DATA}/train.csv"}})
    given = [
        f"{tmp_path}/train.csv, line 3: a text",
        f"{tmp_path}/train.csv.gz is another file, and {tmp_path}/test.csv one more",
        "read and/or write, 1/2, entailment/neutral; see https://example.org/a/b and n/a",
        "a checkpoint in /mnt/some-disk/.store/ab12/checkpoints is damaged",
    ]
    assert portable_sentences(given, recipe) == [
        "${FTFT_TEST_DATA}/train.csv, line 3: a text",
        "train.csv.gz is another file, and test.csv one more",
        "read and/or write, 1/2, entailment/neutral; see https://example.org/a/b and n/a",
        "a checkpoint in checkpoints is damaged",
    ]
