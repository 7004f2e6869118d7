"""YAML is read without surprises and without letting a small file grow into a large one."""

from __future__ import annotations

import pytest

from ftft.errors import UserError
from ftft.run.yaml_reading import parse_yaml


def test_keys_are_what_was_written() -> None:
    assert parse_yaml("on: 1\nno: 2\n3: x\n1.50: y\n2024-01-01: z\n", "r") == {
        "on": 1,
        "no": 2,
        "3": "x",
        "1.50": "y",
        "2024-01-01": "z",
    }


def test_dates_stay_text() -> None:
    assert parse_yaml("a: 2024-13-45\nb: 2024-01-02\n", "r") == {"a": "2024-13-45", "b": "2024-01-02"}


def test_few_aliases_and_merges_work() -> None:
    text = "base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\n"
    assert parse_yaml(text, "r") == {"base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 2}, "two": {"x": 1, "y": 3}}


def test_alias_bombs_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(UserError, match="aliases expand to more than"):
        parse_yaml("\n".join(lines), "r")


def test_merge_bombs_are_refused_quickly() -> None:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    with pytest.raises(UserError, match="aliases expand to more than"):
        parse_yaml("\n".join(lines), "r")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]", "an alias stands inside the value it names"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 'r, line 4: the key "b" was already given in line 2'),
        ("? [a, b]\n: 1\n", "a key must be a plain word"),
        ("a: *missing\n", "this is no valid YAML"),
        ("a: 1\n---\nb: 2\n", "this is no valid YAML"),
        ("a: " + "9" * 5000, "this is no valid YAML"),
        ("a: \x00", "this is no valid YAML"),
    ],
)
def test_unsound_text_is_one_sentence(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "r")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
