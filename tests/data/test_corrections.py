"""Corrections of training rows: what they change, what they may not touch, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftft.data.corrections import read_corrections
from ftft.data.examples import LoadedData
from ftft.data.inputs import TaskInputs
from ftft.data.loading import load_data
from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile
from ftft.errors import UserError


def jsonl(path: Path, first: int, count: int) -> str:
    rows = [{"id": f"r{i}", "text": f"text number {i}", "label": ("no", "yes")[i % 2]} for i in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def settings(folder: Path, corrections: str | None, *, held_out: bool = False, **more: bool) -> DataSettings:
    """Rows r0 to r39 to train on and, unless validation is held out of them, r1000 to r1009 as a validation set."""
    evaluation = {}
    if not held_out:
        evaluation["dev"] = EvaluationFile(path=jsonl(folder / "dev.jsonl", 1000, 10), role="id", split="validation")
    file = None
    if corrections is not None:
        file = folder / "corrections.csv"
        file.write_text(corrections, encoding="utf-8")
    return DataSettings(
        train=DataFile(path=jsonl(folder / "train.jsonl", 0, 40)),
        columns=Columns(id="id"),
        evaluation=evaluation,
        validation_fraction=0.3,
        corrections=None if file is None else str(file),
        **more,
    )


def label_of(data: LoadedData, name: str) -> str:
    return data.train.label_names[data.train.labels[data.train.ids.to_pylist().index(name)]]


def test_rows_are_relabelled_and_dropped_and_counted(tmp_path: Path) -> None:
    before = load_data(settings(tmp_path, None))
    assert "corrections" not in before.report and label_of(before, "r2") == "no"
    text = "id,action,label,note\nr2,relabel,yes,typo\nr5,drop,,\nr7,relabel,yes,as it is\nr30,drop,,\n"
    data = load_data(settings(tmp_path, text))
    assert label_of(data, "r2") == "yes" and label_of(data, "r7") == "yes" and label_of(data, "r4") == "no"
    assert data.train.ids.to_pylist() == [f"r{i}" for i in range(40) if i not in (5, 30)]
    assert data.train.inputs["text"].to_pylist()[:3] == ["text number 0", "text number 1", "text number 2"]
    assert data.report["train"]["classes"] == {"no": 18, "yes": 20}
    counts = data.report["corrections"]
    assert (counts["relabelled"], counts["unchanged"], counts["dropped"]) == (1, 1, 2) and len(counts["fingerprint"]) == 64
    assert "relabels 1 of its rows (1 more had their label already) and drops 2" in data.warnings[0]
    assert before.train.fingerprint != data.train.fingerprint == data.report["train"]["fingerprint"]


def test_the_fingerprint_is_of_what_is_corrected(tmp_path: Path) -> None:
    def fingerprints(text: str, name: str = "corrections.csv") -> tuple[str, str]:
        asked = settings(tmp_path, text)
        data = load_data(asked)
        return data.train.fingerprint, data.report["corrections"]["fingerprint"]

    first = fingerprints("id,action,label\nr2,relabel,yes\nr5,drop,\n")
    assert fingerprints("label,id,action\n,r5,drop\nyes,r2,relabel\n") == first
    others = [
        fingerprints(f"id,action,label\n{line}\n") for line in ("r2,relabel,yes", "r5,drop,", "r4,relabel,yes", "r4,drop,")
    ]
    for index in (0, 1):
        assert len({first[index], *(other[index] for other in others)}) == 5
    (tmp_path / "again.csv").write_text("id,action,label\nr2,relabel,yes\nr5,drop,\n")
    assert read_corrections(tmp_path / "again.csv").fingerprint == first[1]


def test_they_come_before_duplicates_of_evaluation_are_left_out(tmp_path: Path) -> None:
    asked = settings(tmp_path, "id,action,label\nr0,drop,\nr1,relabel,no\n", drop_duplicates_of_evaluation=True)
    jsonl(tmp_path / "dev.jsonl", 0, 2)  # texts of the training rows r0 and r1
    data = load_data(asked)
    assert data.report["corrections"]["dropped"] == 1 and data.report["corrections"]["relabelled"] == 1
    assert len(data.train) == 38 and "1 training rows were left out" in data.warnings[1]


def test_rows_held_out_for_validation_are_not_corrected(tmp_path: Path) -> None:
    held = load_data(settings(tmp_path, None, held_out=True)).evaluation["validation"].examples.ids.to_pylist()
    with pytest.raises(UserError) as caught:
        load_data(settings(tmp_path, f"id,action,label\n{held[0]},drop,\n", held_out=True))
    assert f'the id "{held[0]}" is of the evaluation set "validation"' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "id,action,label\nr2,relable,yes\n",
            'line 2: the action "relable" is neither relabel nor drop; did you mean "relabel"?',
        ),
        ("id,action,label\nr2,,yes\n", 'line 2: the action "" is neither relabel nor drop; write one of the two'),
        ("id,action,label\nr2,relabel,yse\n", 'line 2: the training set has no class "yse"; did you mean "yes"?'),
        ("id,action,label\nr2,relabel,\n", "line 2: relabel needs the new class's name"),
        ("id,action,label\nr2,drop,yes\n", "line 2: drop takes no label"),
        ("id,action,label\n,drop,\n", "line 2 has no id"),
        ("id,action,label\nr2,drop,\nr3,drop,\nr2,drop,\n", 'line 4: the id "r2" stands at line 2 already'),
        ("id,action,label\nr2,drop,\nq1,drop,\nq2,drop,\n", 'line 3: no training row has the id "q1" (nor 1 more ids of it)'),
        ("id,action,label\nr1003,drop,\n", 'line 2: the id "r1003" is of the evaluation set "dev"'),
        ("id,action\nr2,drop\n", 'has no column "label"; its header is id,action,label'),
        ("id,action,label\nr2,drop\n", "line 2 has 2 fields where the header has 3"),
        ("id,action,label\n" + "".join(f"r{i},drop,\n" for i in range(0, 40, 2)), 'leaves no training row with the label "no"'),
        ("id,action,label\n" + "".join(f"r{i},relabel,no\n" for i in range(1, 40, 2)), 'no training row with the label "yes"'),
        ("", "is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_data(settings(tmp_path, text))
    assert expected in str(caught.value) and "corrections.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_rows_without_classes_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    texts = TaskInputs(({"text": "text"},), labelled=False)
    for name in ("train", "dev"):
        lines = [json.dumps({"id": f"{name}{row}", "text": f"{name} words {row}"}) + "\n" for row in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))

    def load(corrections: str) -> LoadedData:
        (tmp_path / "corrections.csv").write_text("id,action,label\n" + corrections)
        dev = EvaluationFile(path=str(tmp_path / "dev.jsonl"), role="id", split="validation")
        made = DataSettings(
            train=DataFile(path=str(tmp_path / "train.jsonl")),
            columns=Columns(id="id"),
            evaluation={"dev": dev},
            corrections=str(tmp_path / "corrections.csv"),
        )
        return load_data(made, inputs=texts)

    assert len(load("train1,drop,\n").train) == 3
    with pytest.raises(UserError, match=r"corrections.csv, line 2: the rows of this task have no classes to relabel them with"):
        load("train1,relabel,yes\n")
    with pytest.raises(UserError, match=r"corrections.csv leaves no training row; keep one at least$"):
        load("".join(f"train{row},drop,\n" for row in range(4)))
