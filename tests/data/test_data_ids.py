"""Ids: unique, stable under reordering, made from the inputs alone; and fingerprints that see every change but the order."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.data.hashing import fingerprint_examples, framed_rows, hash_below, hex_strings, utf8_values
from ftft.data.ids import can_identify, column_ids, content_ids, find_id_column, require_unique
from ftft.errors import UserError

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=30)


def large(values: list[str]) -> pa.Array:
    return pa.array(values, pa.large_string())


def where(row: int) -> str:
    return f"a.csv, line {row + 2}"


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@given(texts)
@settings(max_examples=60, deadline=None)
def test_content_ids_are_unique_and_equal_content_is_numbered_in_order(values: list[str]) -> None:
    ids = content_ids([large(values)]).to_pylist()
    assert len(set(ids)) == len(ids)
    for value in set(values):
        rows = [row for row, other in enumerate(values) if other == value]
        stem = hashlib.sha256(b"%d:%b" % (len(value.encode()), value.encode())).hexdigest()[:16]
        assert [ids[row] for row in rows] == [stem, *(f"{stem}-{number}" for number in range(1, len(rows)))]


@given(texts, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_content_ids_do_not_depend_on_the_order_of_different_rows(values: list[str], seed: int) -> None:
    values = list(dict.fromkeys(values))
    before = dict(zip(values, content_ids([large(values)]).to_pylist()))
    random.Random(seed).shuffle(values)
    assert dict(zip(values, content_ids([large(values)]).to_pylist())) == before


def test_the_border_between_the_texts_of_a_pair_counts() -> None:
    ids = content_ids([large(["ab", "a", "1:a"]), large(["c", "bc", ""])]).to_pylist()
    assert len({identifier[:16] for identifier in ids}) == 3


def test_bytes_come_from_slices_and_across_blocks() -> None:
    values = [f"wört {i}" for i in range(70_000)]
    for kind in (pa.string(), pa.large_string()):
        assert list(utf8_values(pa.array(values, kind).slice(5, 66_000))) == [value.encode() for value in values[5:66_005]]
    assert list(utf8_values(pa.array([], pa.string()))) == [] and list(utf8_values(large(["", ""]))) == [b"", b""]
    assert list(framed_rows([large(["é"])])) == ["2:é".encode()]


def test_hex_strings_are_the_hash_in_hexadecimal() -> None:
    assert hex_strings(np.array([0, 255, 2**64 - 1], dtype=np.uint64)).to_pylist() == ["0" * 16, "0" * 14 + "ff", "f" * 16]


def test_id_columns_become_strings() -> None:
    assert column_ids(column([3, -1, 2**40]), "id", where).to_pylist() == ["3", "-1", str(2**40)]
    assert column_ids(column(["x", "007"]), "id", where).to_pylist() == ["x", "007"]
    assert column_ids(pa.chunked_array([["a"], ["b"]]), "id", where).to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None], 'a.csv, line 3: the id column "id" is null'),
        ([1, 2, None], 'a.csv, line 4: the id column "id" is null'),
        (["a", "b", ""], 'a.csv, line 4: the id column "id" is empty'),
        ([1.0, 2.0], 'the id column "id" holds double values; ids must be strings or integers'),
        ([True, False], 'the id column "id" holds bool values'),
    ],
)
def test_unusable_ids_are_refused_with_the_row(values: list[object], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        column_ids(column(values), "id", where)
    assert expected in str(caught.value)


def test_duplicate_ids_are_refused_with_both_rows() -> None:
    with pytest.raises(UserError) as caught:
        require_unique(pa.array(["a", "b", "c", "b", "a", "b"]), where)
    assert 'the id "a" occurs twice, at a.csv, line 2 and at a.csv, line 6 (and 1 more like it)' in str(caught.value)
    require_unique(pa.array(["a", "b"]), where)


def test_the_hash_of_an_id_splits_by_the_fraction_and_never_moves() -> None:
    ids = pa.array([f"row-{i}" for i in range(20_000)])
    tenth, third = hash_below(ids, 0.1), hash_below(ids, 0.3)
    assert abs(tenth.mean() - 0.1) < 0.01 and abs(third.mean() - 0.3) < 0.015
    assert not (tenth & ~third).any()
    assert hash_below(ids.slice(100, 50), 0.1).tolist() == tenth[100:150].tolist()
    digest = int.from_bytes(hashlib.sha256(b"row-7").digest()[:8], "big") / 2**64
    assert hash_below(pa.array(["row-7"]), digest + 1e-9).tolist() == [True]
    assert hash_below(pa.array(["row-7"]), digest - 1e-9).tolist() == [False]


def fingerprint(rows: list[tuple[str, str, str, int]], names: tuple[str, ...] = ("no", "yes")) -> str:
    ids, first, second, labels = zip(*rows)
    return fingerprint_examples(
        pa.array(list(ids)), {"text": large(list(first)), "text_pair": large(list(second))}, np.array(labels), names
    )


rows_of_pairs = st.lists(
    st.tuples(st.text("abc", max_size=3), st.text("abc", max_size=3), st.integers(0, 1)), min_size=1, max_size=12
)


@given(rows_of_pairs, st.randoms(use_true_random=False), st.data())
@settings(max_examples=60, deadline=None)
def test_fingerprint_ignores_the_order_and_sees_every_change(
    contents: list[tuple[str, str, int]], shuffler: random.Random, data: st.DataObject
) -> None:
    rows = [(f"id{i}", *content) for i, content in enumerate(contents)]
    before = fingerprint(rows)
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert fingerprint(shuffled) == before
    at = data.draw(st.integers(0, len(rows) - 1))
    key, first, second, label = rows[at]
    for changed in ((key, first + "x", second, label), (key, first, second + "x", label), (key, first, second, 1 - label)):
        assert fingerprint([*rows[:at], changed, *rows[at + 1 :]]) != before
    assert fingerprint([*rows[:at], ("other", first, second, label), *rows[at + 1 :]]) != before
    assert len(rows) == 1 or fingerprint(rows[:at] + rows[at + 1 :]) != before


def test_fingerprint_depends_on_the_label_name_not_on_its_number() -> None:
    assert fingerprint([("a", "x", "y", 0)], ("no", "yes")) == fingerprint([("a", "x", "y", 1)], ("yes", "no"))
    assert fingerprint([("a", "x", "y", 0)], ("no", "yes")) != fingerprint([("a", "x", "y", 0)], ("yes", "no"))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": ["a", "b"], "uid": ["x", "y"], "id": [2, 1]}, "id"),
        ({"uid": ["x", "y"], "id": [1, 1]}, "uid"),  # not unique
        ({"uid": ["x", "y"], "id": [1, None]}, "uid"),  # not complete
        ({"guid": ["x", ""], "idx": [1, 2]}, "idx"),  # an empty name
        ({"id": [0.5, 1.5], "pairID": ["x", "y"]}, "pairID"),  # no string, no integer; any case
        ({"id": [[1], [2]], "tweetid": [7, 8]}, "tweetid"),
        ({"": [0, 1], "n": [4, 5]}, ""),
        ({"a": [1, 2], "text": ["x", "y"]}, None),
        ({}, None),
    ],
)
def test_the_column_of_ids_is_the_first_usual_name_that_can_tell_the_rows_apart(
    columns: dict[str, list[object]], expected: str | None
) -> None:
    assert find_id_column(columns, lambda name: column(columns[name])) == expected
    assert find_id_column(columns, lambda name: None) is None


def test_uniqueness_is_that_of_the_whole_column() -> None:
    parts = [pa.array(["a", "b"]), pa.array(["c"])]
    assert can_identify(pa.chunked_array(parts)) and not can_identify(pa.chunked_array([*parts, pa.array(["a"])]))
