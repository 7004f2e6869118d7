"""From settings to training examples and evaluation sets: ids, labels, the held-out set, and what is refused or warned of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.data import inputs
from ftft.data.inputs import TaskInputs
from ftft.data.loading import load_data
from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile
from ftft.errors import UserError


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": ("no", "yes")[i % 2], **more} for i in range(start, start + count)]


def jsonl(path: Path, content: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> DataFile:
    return DataFile(path=jsonl(tmp_path / "train.jsonl", rows(200)))


@pytest.fixture
def dev(tmp_path: Path) -> EvaluationFile:
    return EvaluationFile(path=jsonl(tmp_path / "dev.jsonl", rows(20, 1000)), role="id", split="validation")


def refused(settings: DataSettings, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_data(settings, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bad_rows(tmp_path: Path, dev: EvaluationFile, content: list[dict[str, Any]], **columns: Any) -> str:
    file = DataFile(path=jsonl(tmp_path / "bad.jsonl", content))
    return refused(DataSettings(train=file, columns=Columns(**columns), evaluation={"dev": dev}))


def test_a_set_given_for_validation_leaves_training_whole(train: DataFile, dev: EvaluationFile) -> None:
    said: list[str] = []
    loaded = load_data(DataSettings(train=train, evaluation={"dev": dev}), progress=said.append)
    assert len(loaded.train) == 200 and list(loaded.evaluation) == ["dev"] and loaded.warnings == ()
    assert loaded.train.label_names == ("no", "yes") and loaded.train.labels.tolist() == [0, 1] * 100
    assert loaded.train.inputs["text"][3].as_py() == "text number 3" and list(loaded.train.inputs) == ["text"]
    assert loaded.evaluation["dev"].merge is None and loaded.evaluation["dev"].split == "validation"
    assert loaded.report["train"] == {
        "n": 200, "classes": {"no": 100, "yes": 100}, "empty_texts": 0, "fingerprint": loaded.train.fingerprint
    }  # fmt: skip
    assert loaded.report["evaluation"]["dev"]["duplicates"] == {"exact": 0, "normalised": 0, "train_rows": 0}
    json.dumps(loaded.report)
    assert said[0] == f"reading {train.path}"


def test_a_part_of_training_is_held_out_by_the_ids_hash(train: DataFile, tmp_path: Path) -> None:
    loaded = load_data(DataSettings(train=train, validation_fraction=0.2))
    held, kept = set(loaded.evaluation["validation"].examples.ids.to_pylist()), set(loaded.train.ids.to_pylist())
    assert len(held) + len(kept) == 200 and not held & kept and 20 < len(held) < 60
    assert (loaded.evaluation["validation"].role, loaded.evaluation["validation"].split) == ("id", "validation")
    grown = DataFile(path=jsonl(tmp_path / "grown.jsonl", rows(300)[::-1]))
    again = load_data(DataSettings(train=grown, validation_fraction=0.2))
    assert held <= set(again.evaluation["validation"].examples.ids.to_pylist())
    assert not kept & set(again.evaluation["validation"].examples.ids.to_pylist())
    assert loaded.train.fingerprint != again.train.fingerprint


def test_fingerprint_is_of_the_rows_whatever_their_order_and_format(tmp_path: Path, dev: EvaluationFile) -> None:
    pq.write_table(pa.Table.from_pylist(rows(50)[::-1]), tmp_path / "b.parquet")
    files = [DataFile(path=jsonl(tmp_path / "a.jsonl", rows(50))), DataFile(path=str(tmp_path / "b.parquet"))]
    found = [load_data(DataSettings(train=file, evaluation={"dev": dev})).train.fingerprint for file in files]
    assert found[0] == found[1]


def test_several_training_files_are_joined_and_equal_rows_told_apart(tmp_path: Path, dev: EvaluationFile) -> None:
    first = DataFile(path=jsonl(tmp_path / "a.jsonl", rows(5)))
    second = DataFile(path=jsonl(tmp_path / "b.jsonl", rows(5, group="g")), columns=Columns(group="group"))
    loaded = load_data(DataSettings(train=[first, second], evaluation={"dev": dev}))
    ids = loaded.train.ids.to_pylist()
    assert ids[5:] == [f"{identifier}-1" for identifier in ids[:5]]
    assert loaded.train.groups is not None and loaded.train.groups.to_pylist() == [""] * 5 + ["g"] * 5


def test_ids_must_be_unique_over_all_training_files_but_only_within_a_set(tmp_path: Path) -> None:
    numbered = [{**row, "id": i} for i, row in enumerate(rows(6))]
    first, second = (DataFile(path=jsonl(tmp_path / f"{name}.jsonl", numbered)) for name in "ab")
    message = refused(DataSettings(train=[first, second], columns=Columns(id="id")))
    assert f'the id "0" occurs twice, at {first.path}, line 1 and at {second.path}, line 1' in message
    dev = EvaluationFile(path=second.path, role="id", split="validation")
    loaded = load_data(DataSettings(train=first, columns=Columns(id="id"), evaluation={"dev": dev}))
    assert loaded.train.ids.to_pylist() == loaded.evaluation["dev"].examples.ids.to_pylist() == ["0", "1", "2", "3", "4", "5"]


def test_group_and_cluster_columns_become_strings(tmp_path: Path, dev: EvaluationFile) -> None:
    content = [{**row, "g": i % 2 or None, "c": f"c{i}"} for i, row in enumerate(rows(4))]
    file = DataFile(path=jsonl(tmp_path / "a.jsonl", content), columns=Columns(group="g", cluster="c"))
    loaded = load_data(DataSettings(train=file, evaluation={"dev": dev}))
    assert loaded.train.groups is not None and loaded.train.groups.to_pylist() == ["", "1", "", "1"]
    assert loaded.train.clusters is not None and loaded.train.clusters.to_pylist() == ["c0", "c1", "c2", "c3"]
    assert loaded.evaluation["dev"].examples.groups is None
    nested = DataFile(path=jsonl(tmp_path / "b.jsonl", [{**row, "g": [1]} for row in rows(4)]), columns=Columns(group="g"))
    assert 'the column "g" holds list' in refused(DataSettings(train=nested, evaluation={"dev": dev}))


def test_pairs_take_the_tasks_input_names(tmp_path: Path) -> None:
    content = [{"a": f"p{i}", "b": f"h{i}", "label": i % 2} for i in range(60)]
    settings = DataSettings(train=DataFile(path=jsonl(tmp_path / "a.jsonl", content)), columns=Columns(text=["a", "b"]))
    pair = TaskInputs(({"premise": "text", "hypothesis": "text"},))
    loaded = load_data(settings, inputs=pair)
    assert list(loaded.train.inputs) == ["premise", "hypothesis"]
    one = TaskInputs(({"text": "text"},))
    assert "columns.text names 2 columns; this task takes text" in refused(settings, inputs=one)
    single = EvaluationFile(path=jsonl(tmp_path / "c.jsonl", content[:4]), columns=Columns(text=["a"]))
    settings = DataSettings(train=settings.train, columns=settings.columns, evaluation={"single": single})
    assert "data.evaluation.single gives text where training gives text and text_pair" in refused(settings)


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        (rows(2) + [{"text": None, "label": "no"}], {}, 'line 3: the text column "text" is null or NaN'),
        (rows(2) + [{"text": float("nan"), "label": "no"}], {}, 'line 3: the text column "text" is null or NaN'),
        ([{"text": 1, "label": "no"}], {}, 'the text column "text" holds int64 values'),
        ([{"text": ["a"], "label": "no"}], {}, 'the text column "text" holds list<item: string> values'),
        (rows(2) + [{"text": "x", "label": None}], {}, 'line 3: the label column "label" is null or NaN'),
        (rows(3), {"id": "uid"}, 'has no column "uid"; it has text, label'),
        ([{"text": "x", "label": "no"}] * 3, {}, 'every training row has the label "no"'),
    ],
)
def test_bad_rows_are_refused(
    tmp_path: Path, dev: EvaluationFile, content: list[dict[str, Any]], columns: dict[str, Any], expected: str
) -> None:
    message = bad_rows(tmp_path, dev, content, **columns)
    assert expected in message and "bad.jsonl" in message


def test_absurd_length_is_refused_with_the_id(tmp_path: Path, dev: EvaluationFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_CHARACTERS", 30)
    fits = [{"text": "é" * 30, "label": "no", "id": "a"}, {"text": "x", "label": "yes", "id": "b"}]
    file = DataFile(path=jsonl(tmp_path / "fits.jsonl", fits), columns=Columns(id="id"))
    assert len(load_data(DataSettings(train=file, evaluation={"dev": dev})).train) == 2
    message = bad_rows(tmp_path, dev, [*fits, {"text": "x" * 31, "label": "no", "id": "long"}], id="id")
    assert 'bad.jsonl, line 3 (id long): the text column "text" has 31 characters' in message


def test_a_chat_has_the_same_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_CHARACTERS", 80)
    chats = [[{"role": "user", "content": "x" * size}, {"role": "assistant", "content": "y"}] for size in (15, 16)]
    assert len(json.dumps(chats[0], separators=(",", ":"))) == 80
    file = DataFile(path=jsonl(tmp_path / "bad.jsonl", [{"messages": chat} for chat in chats]))
    with pytest.raises(UserError, match=r'bad.jsonl, line 2 \(id none\): the messages column "messages" has 81 characters'):
        load_data(DataSettings(train=file), inputs=TaskInputs(({"messages": "messages"},), labelled=False))


def test_empty_texts_are_allowed_and_counted(tmp_path: Path, dev: EvaluationFile) -> None:
    file = DataFile(path=jsonl(tmp_path / "a.jsonl", [*rows(10), {"text": "", "label": "no"}, {"text": " \n", "label": "no"}]))
    loaded = load_data(DataSettings(train=file, evaluation={"dev": dev}))
    assert loaded.report["train"]["empty_texts"] == 2
    assert "the training set has 2 rows with an empty text" in " ".join(loaded.warnings)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, "must be above 0 and below 1"),
        (1.0, "must be above 0 and below 1"),
        (0.0001, "none of the 200 training rows is held out"),
    ],
)
def test_an_impossible_validation_fraction_is_refused(train: DataFile, fraction: float, expected: str) -> None:
    assert expected in refused(DataSettings(train=train, validation_fraction=fraction))


def test_a_class_lost_by_the_split_is_refused(tmp_path: Path) -> None:
    file = DataFile(path=jsonl(tmp_path / "a.jsonl", [*rows(100), {"text": "alone", "label": "rare"}]))
    message = refused(DataSettings(train=file, validation_fraction=0.3))
    assert "rows held out for validation" in message or "rows left for training" in message
    assert 'has the label "rare"; give an evaluation set with `role: id` and `split: validation`' in message


def test_the_name_of_the_held_out_set_is_taken(train: DataFile, dev: EvaluationFile) -> None:
    other = EvaluationFile(path=dev.path, role="ood", split="test")
    assert 'data.evaluation has a set named "validation"' in refused(
        DataSettings(train=train, evaluation={"validation": other})
    )


def test_evaluation_data_can_never_be_trained_on(tmp_path: Path, train: DataFile) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(str(train.path))
    for path in (str(train.path), f"{tmp_path}/../{tmp_path.name}/train.jsonl", str(link)):
        settings = DataSettings(train=train, evaluation={"same": EvaluationFile(path=path, limit=5)})
        assert "data.evaluation.same reads rows of" in refused(settings)
    assert "reads rows of hub dataset some/set" in refused(
        DataSettings(train=DataFile(hub="some/set"), evaluation={"same": EvaluationFile(hub="some/set")})
    )
    folded = jsonl(tmp_path / "folded.jsonl", rows(40, fold="train") + rows(20, 500, fold="dev"))
    both = DataFile(path=folded, where={"fold": "train"})
    apart = EvaluationFile(path=folded, where={"fold": "dev"}, role="id", split="validation")
    loaded = load_data(DataSettings(train=both, evaluation={"dev": apart}))
    assert (len(loaded.train), len(loaded.evaluation["dev"].examples)) == (40, 20)
    overlapping = EvaluationFile(path=folded, where={"label": "no"})
    assert "evaluation data cannot be trained on" in refused(DataSettings(train=both, evaluation={"dev": overlapping}))


def test_duplicates_are_reported_and_dropped_on_request(tmp_path: Path, train: DataFile) -> None:
    copies = [
        {"text": "text number 0", "label": "no"},
        {"text": "TEXT number-1!", "label": "yes"},
        {"text": "new", "label": "no"},
    ]
    dev = EvaluationFile(path=jsonl(tmp_path / "copies.jsonl", copies), role="id", split="validation")
    loaded = load_data(DataSettings(train=train, evaluation={"dev": dev}))
    assert loaded.report["evaluation"]["dev"]["duplicates"] == {"exact": 1, "normalised": 2, "train_rows": 2}
    assert "2 training rows are trained on" in loaded.warnings[0] and len(loaded.train) == 200
    dropped = load_data(DataSettings(train=train, evaluation={"dev": dev}, drop_duplicates_of_evaluation=True))
    assert len(dropped.train) == 198 and "2 training rows were left out of training" in dropped.warnings[0]
    assert "text number 1" not in dropped.train.inputs["text"].to_pylist()
    assert dropped.train.fingerprint != loaded.train.fingerprint
    whole = EvaluationFile(path=jsonl(tmp_path / "whole.jsonl", rows(200)), role="id", split="validation")
    message = refused(DataSettings(train=train, evaluation={"dev": whole}, drop_duplicates_of_evaluation=True))
    assert 'no training row with the label "no" is left' in message


def test_labels_agree_by_name_over_sets_and_merge_where_asked(tmp_path: Path) -> None:
    nli = ["entailment", "neutral", "contradiction"]
    train = DataFile(path=jsonl(tmp_path / "t.jsonl", [{"text": f"t{i}", "label": i % 3} for i in range(9)]), labels=nli)
    turned = jsonl(tmp_path / "d.jsonl", [{"text": f"d{i}", "label": i % 3} for i in range(3)])
    two = jsonl(tmp_path / "r.jsonl", [{"text": f"r{i}", "label": i % 2} for i in range(4)])
    evaluation = {
        "dev": EvaluationFile(path=turned, labels=["contradiction", "entailment", "neutral"], role="id", split="validation"),
        "rte": EvaluationFile(
            path=two, labels=["yes", "no"], merge_labels={"yes": ["entailment"], "no": ["neutral", "contradiction"]}
        ),
    }
    loaded = load_data(DataSettings(train=train, evaluation=evaluation))
    assert loaded.train.label_names == tuple(nli)
    assert loaded.evaluation["dev"].examples.labels.tolist() == [2, 0, 1]
    rte = loaded.evaluation["rte"]
    assert (rte.examples.label_names, rte.merge, rte.examples.labels.tolist()) == (("yes", "no"), ((0,), (1, 2)), [0, 1, 0, 1])
    missing = EvaluationFile(path=two, labels=["yes", "no"])
    assert 'the evaluation set "rte" has the unknown label "yes"' in refused(
        DataSettings(train=train, evaluation={"rte": missing, "dev": evaluation["dev"]})
    )


def test_unset_variable_is_named_with_its_key(train: DataFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET_FOLDER", raising=False)
    settings = DataSettings(train=train, evaluation={"far": EvaluationFile(path="$UNSET_FOLDER/a.jsonl")})
    assert refused(settings).startswith("data.evaluation.far.path: the environment variable UNSET_FOLDER")


def test_no_training_file_and_unequal_text_columns_are_refused(tmp_path: Path, train: DataFile) -> None:
    assert "data.train names no file" in refused(DataSettings(train=[]))
    pair = DataFile(path=jsonl(tmp_path / "p.jsonl", rows(4, other="x")), columns=Columns(text=["text", "other"]))
    assert "differ in how many text columns" in refused(DataSettings(train=[train, pair]))


def test_tsv_that_was_written_with_quoting_is_noticed(tmp_path: Path, dev: EvaluationFile) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"He said ""no"""\tno\nplain\tyes\n')
    loaded = load_data(DataSettings(train=DataFile(path=str(path)), evaluation={"dev": dev}))
    assert "one text looks as if written with quoting" in loaded.warnings[0]
    loaded = load_data(DataSettings(train=DataFile(path=str(path), quotes=True), evaluation={"dev": dev}))
    assert loaded.warnings == () and loaded.train.inputs["text"][0].as_py() == 'He said "no"'


def test_class_names_of_a_hub_dataset_are_used(monkeypatch: pytest.MonkeyPatch, dev: EvaluationFile) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **settings: dataset)
    loaded = load_data(DataSettings(train=DataFile(hub="some/set"), evaluation={"dev": dev}))
    assert loaded.train.label_names == ("yes", "no") and loaded.train.labels.tolist() == [1, 0]
    assert loaded.evaluation["dev"].examples.labels.tolist() == [1, 0] * 10


def test_a_sample_is_the_same_rows_in_any_order_and_grows_by_adding(tmp_path: Path, dev: EvaluationFile) -> None:
    content = [{"key": f"k{i}", **row} for i, row in enumerate(rows(300))]

    def sampled(content: list[dict[str, Any]], count: int, **columns: Any) -> list[str]:
        file = DataFile(path=jsonl(tmp_path / "pool.jsonl", content), sample=count, columns=Columns(**columns))
        return load_data(DataSettings(train=file, evaluation={"dev": dev})).train.ids.to_pylist()

    few, more = sampled(content, 50, id="key"), sampled(content, 120, id="key")
    assert len(few) == 50 and len(more) == 120 and set(few) < set(more) and few != [f"k{i}" for i in range(50)]
    assert few == sorted(few, key=lambda one: int(one[1:]))  # file order is kept
    assert set(sampled(content[::-1], 50, id="key")) == set(few)
    assert set(sampled(content, 50)) == set(sampled(content[::-1], 50))  # ids made from the content
    assert len(sampled(content, 1000, id="key")) == 300
