"""Duplicates between training and evaluation: exact, and up to case, punctuation and Unicode form, over all input columns."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.data.duplicates import Normaliser, find_overlaps


def single(*values: str) -> dict[str, pa.Array]:
    return {"text": pa.array(list(values), pa.large_string())}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World 2!", "helloworld2"),
        ("snake_case", "snakecase"),
        ("Straße", "strasse"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("cafe\u0301 – Café", "cafécafé"),
        ("ＨＡ！", "ha"),
        ("हिन्दी!", "हिन्दी"),
        ("3½ 日本語。", "31⁄2日本語".replace("⁄", "")),
        (":-)", ""),
    ],
)
def test_normalisation_keeps_letters_marks_and_digits(text: str, expected: str) -> None:
    assert Normaliser()(text.encode()).decode() == expected


@given(st.text(st.characters(max_codepoint=127), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_short_way_for_ascii_agrees_with_the_long_one(text: str) -> None:
    normalise = Normaliser()
    assert normalise((text + "é").encode()) == normalise(text.encode()) + "é".encode()


def test_exact_and_normalised_duplicates_are_counted_apart() -> None:
    train = single("A cat.", "a dog", "A cat.", "bird", "a DOG!")
    overlaps = find_overlaps(train, {"one": single("A cat.", "a cat", "a dog", "fish", "A cat."), "two": single("fish")})
    assert (overlaps["one"].exact, overlaps["one"].normalised) == (3, 4)
    assert overlaps["one"].train_rows.tolist() == [0, 1, 2, 4]
    assert (overlaps["two"].exact, overlaps["two"].normalised, overlaps["two"].train_rows.tolist()) == (0, 0, [])
    assert find_overlaps(train, {}) == {}


def test_rows_with_no_letter_are_compared_as_they_stand() -> None:
    overlap = find_overlaps(single(":-)", "!!!", ""), {"e": single("???", ":-)", " ")})["e"]
    assert (overlap.exact, overlap.normalised, overlap.train_rows.tolist()) == (1, 1, [0])


def test_pairs_are_duplicates_only_when_both_sides_are() -> None:
    def pair(*values: tuple[str, str]) -> dict[str, pa.Array]:
        return {
            name: pa.array([value[side] for value in values], pa.large_string())
            for side, name in enumerate(("text", "text_pair"))
        }

    overlap = find_overlaps(pair(("ab", "c"), ("x", "y"), ("x", "z")), {"e": pair(("a", "bc"), ("X", "y."), ("x", "z"))})["e"]
    assert (overlap.exact, overlap.normalised, overlap.train_rows.tolist()) == (1, 2, [1, 2])


@given(
    st.lists(st.sampled_from(["a", "A", "a!", "b", "B b", "bb", "!", ""]), max_size=15),
    st.lists(st.sampled_from(["a", "bb", "!", "?", ""]), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_comparing_every_pair_of_rows(train: list[str], evaluation: list[str]) -> None:
    def norm(text: str) -> str:
        return "".join(character for character in text.casefold() if character.isalnum()) or f"as it stands: {text}"

    overlap = find_overlaps(single(*train), {"e": single(*evaluation)})["e"]
    assert overlap.exact == sum(text in train for text in evaluation)
    assert overlap.normalised == sum(any(norm(text) == norm(other) for other in train) for text in evaluation)
    assert overlap.train_rows.tolist() == [
        i for i, text in enumerate(train) if any(norm(text) == norm(other) for other in evaluation)
    ]
