"""One label map: names decide, integers only where a file says what they stand for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ftft.data.labels import FileLabels, merge_map, model_labels, read_labels, to_codes
from ftft.data.settings import DataFile, EvaluationFile
from ftft.errors import UserError

NLI = ["entailment", "neutral", "contradiction"]


def labels(values: list[Any], default_names: list[str] | None = None, **settings: Any) -> FileLabels:
    column = pa.chunked_array([pa.array(values)])
    return read_labels(
        column,
        "label",
        DataFile(path="f", **settings),
        "f.csv",
        lambda row: f"f.csv, line {row + 2}",
        default_names=default_names,
    )


def names_of(found: FileLabels) -> list[str]:
    return [found.names[code] for code in found.codes]


def model(*files: FileLabels, given: list[str] | None = None) -> tuple[str, ...]:
    return model_labels(files, given, [])


def refused(values: list[Any], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        labels(values, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        (["b", "a", "b"], {}, ("a", "b")),
        ([10, 2, 1], {}, ("1", "2", "10")),
        (["10", "2", "1"], {}, ("1", "2", "10")),
        (["1.0", "0.0"], {}, ("0", "1")),
        (["01", "1"], {}, ("01", "1")),
        ([1.0, 0.0, 1.0], {}, ("0", "1")),
        ([-1, 1], {}, ("-1", "1")),
        ([True, False], {}, ("False", "True")),
        ([2, 0, 1], {"labels": NLI}, tuple(NLI)),
        (["2", "0"], {"labels": NLI}, ("entailment", "contradiction")),
        (["neutral", "entailment"], {"labels": NLI}, ("entailment", "neutral")),
        ([0, 1, 2], {"labels": NLI, "rename_labels": {"neutral": "not", "contradiction": "not"}}, ("entailment", "not")),
        (["Pos", "neg"], {"rename_labels": {"Pos": "pos"}}, ("neg", "pos")),
    ],
)
def test_training_labels_give_the_names_in_order(
    values: list[Any], settings: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert model(labels(values, **settings)) == expected


def test_codes_follow_the_rows() -> None:
    assert names_of(labels([2, 0, 2, 1], labels=NLI)) == ["contradiction", "entailment", "contradiction", "neutral"]
    found = labels(["b", "a", "c", "a"], rename_labels={"c": "a"})
    assert names_of(found) == ["b", "a", "a", "a"]
    assert to_codes(found, ("a", "b"), owner="training").tolist() == [1, 0, 0, 0]


def test_files_that_number_the_classes_differently_agree_by_name() -> None:
    train = labels([0, 1, 2], labels=NLI)
    other = labels([0, 1, 2, 0], labels=["contradiction", "entailment", "neutral"])
    assert to_codes(other, model(train), owner="x").tolist() == [2, 0, 1, 2]
    assert model(train, other) == tuple(NLI)


def test_integers_without_names_of_their_own_index_data_labels() -> None:
    given = ["non-toxic", "toxic"]
    assert names_of(labels([1, 0], default_names=given)) == ["toxic", "non-toxic"]
    assert names_of(labels([1, 0], default_names=["1", "0"])) == ["1", "0"]
    with pytest.raises(UserError, match=r"line 3: the label 2 is outside data.labels, which names 2 labels \(0 to 1\)"):
        labels([1, 2], default_names=given)


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        (["a", None], {}, 'f.csv, line 3: the label column "label" is null or NaN'),
        ([0.0, 0.5], {}, 'f.csv, line 3: the label column "label" holds 0.5, which is not a class'),
        ([0.0, float("inf")], {}, 'line 3: the label column "label" holds inf'),
        (["a", "b", ""], {}, 'f.csv, line 4: the label column "label" is empty'),
        ([["a"], ["b"]], {}, 'the label column "label" holds list'),
        ([0, 3], {"labels": NLI}, "f.csv, line 3: the label 3 is outside `labels` of this file, which names 3 labels (0 to 2)"),
        ([0, -1], {"labels": NLI}, "f.csv, line 3: the label -1 is outside"),
        (["neutrl"], {"labels": NLI}, 'line 2: the label "neutrl" is not in `labels` of this file; did you mean "neutral"?'),
        ([0], {"labels": ["a", "a"]}, "`labels` of this file names a label twice"),
    ],
)
def test_bad_labels_are_refused_with_the_row(values: list[Any], settings: dict[str, Any], expected: str) -> None:
    assert expected in refused(values, **settings)


def test_one_class_and_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match='f.csv: every training row has the label "a"; training needs at least two classes'):
        model(labels(["a", "a"]))
    with pytest.raises(UserError, match="at least two classes"):
        model(labels(["a", "a"]), given=["a", "b"])
    with pytest.raises(UserError, match="has 150 distinct labels in 150 rows"):
        model(labels([f"text {i}" for i in range(150)]))


def test_data_labels_must_hold_every_training_label() -> None:
    with pytest.raises(UserError, match='line 3: the training label "b" is not in data.labels, which names 2 labels'):
        model(labels(["a", "b", "c"]), given=["a", "c"])
    with pytest.raises(UserError, match="data.labels names a label twice: a, b, a"):
        model(labels(["a", "b"]), given=["a", "b", "a"])
    warnings: list[str] = []
    assert model_labels([labels(["b", "a"])], ["b", "z", "a"], warnings) == ("b", "z", "a")
    assert warnings == ['no training row has the label "z" that data.labels names, so the model cannot learn it']


def test_a_rename_that_renames_nothing_in_training_is_refused() -> None:
    with pytest.raises(UserError, match='f.csv: rename_labels renames "poss", which no row has; did you mean "pos"?'):
        model(labels(["pos", "neg"], rename_labels={"poss": "positive"}))


def test_unknown_evaluation_label_says_where_and_what_is_near() -> None:
    with pytest.raises(UserError) as caught:
        to_codes(labels(["toxic", "Non-toxic"]), ("non-toxic", "toxic"), owner='the evaluation set "o"')
    assert 'f.csv, line 3: the evaluation set "o" has the unknown label "Non-toxic"; did you mean "non-toxic"?' in str(
        caught.value
    )
    with pytest.raises(UserError, match="name this file's integers with `labels`"):
        to_codes(labels([0, 1]), tuple(NLI), owner="x")


def test_merging_gives_the_sets_own_names_and_the_models_classes() -> None:
    warnings: list[str] = []
    file = EvaluationFile(path="f", merge_labels={"not": ["neutral", "contradiction"], "entailment": ["entailment"]})
    assert merge_map(file, tuple(NLI), "e", warnings) == (("not", "entailment"), ((1, 2), (0,)))
    assert warnings == []
    file = EvaluationFile(path="f", merge_labels={"no": ["contradiction"], "yes": ["entailment"]})
    assert merge_map(file, tuple(NLI), "e", warnings)[1] == ((2,), (0,))
    assert warnings == ["e: merge_labels leaves out the model's label neutral"]


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        (
            {"a": ["entailment"], "b": ["nuetral"]},
            'names "nuetral", which is not a label of the model; did you mean "neutral"?',
        ),
        (
            {"a": ["entailment"], "b": ["neutral", "entailment"]},
            'lists "entailment" under both "a" and "b"; it can count only once',
        ),
        ({"a": ["neutral", "neutral"], "b": ["entailment"]}, 'lists "neutral" under "a" twice'),
        ({"a": ["entailment"], "b": []}, 'lists no label of the model for "b"'),
        ({}, "merge_labels has 0 labels"),
        ({"a": ["entailment"]}, "merge_labels has 1 label;"),
    ],
)
def test_impossible_merges_are_refused(merge: dict[str, list[str]], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        merge_map(EvaluationFile(path="f", merge_labels=merge), tuple(NLI), "data.evaluation.e", [])
    assert expected in str(caught.value) and "data.evaluation.e: " in str(caught.value)
