"""Text files in pieces: nothing is lost, a piece is bounded, and what cannot be read is one sentence with its line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from ftft.errors import UserError
from ftft.pretraining.texts import PIECE, pieces_of, require_texts


def read(*paths: Path, column: str = "text") -> list[str]:
    """The documents."""
    documents, current = [], ""
    for piece in pieces_of(paths, column):
        current += piece.text
        if piece.last:
            documents.append(current)
            current = ""
    assert not current
    return documents


def test_a_long_file_comes_whole_in_bounded_pieces_cut_at_lines(tmp_path: Path) -> None:
    # Characters of one to four bytes, so that some stand across the limits of what is read at a time.
    text = "".join(f"line {number} über 中文 😀 text\n" for number in range(12_000))
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    pieces = list(pieces_of([path], "text"))
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) > 4 and max(len(piece.text) for piece in pieces) <= 2 * PIECE
    assert all(piece.text.endswith("\n") for piece in pieces[:-1])
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("unit", ["word ", "x"], ids=["no line breaks", "no breaks at all"])
def test_text_without_line_breaks_is_bounded_too(unit: str, tmp_path: Path) -> None:
    text = unit * (5 * PIECE // len(unit))
    (tmp_path / "one.txt").write_text(text)
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text}) + "\n")
    for name in ("one.txt", "one.jsonl"):
        pieces = list(pieces_of([tmp_path / name], "text"))
        assert "".join(piece.text for piece in pieces) == text
        assert max(len(piece.text) for piece in pieces) <= 2 * PIECE
        if unit != "x":
            assert all(piece.text.startswith(" ") for piece in pieces[1:] if piece.text)  # no word is cut in two


def test_line_breaks_of_windows_and_a_mark_at_the_beginning_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert read(path) == ["one\ntwo\n"]


def test_gzip_and_jsonl_are_read_in_order(tmp_path: Path) -> None:
    plain, rows = tmp_path / "a.txt.gz", tmp_path / "b.jsonl.gz"
    plain.write_bytes(gzip.compress(b"first file\n"))
    rows.write_bytes(gzip.compress(b'{"body": "second"}\n\n{"body": "third\\r\\n"}\n'))
    assert read(plain, rows, column="body") == ["first file\n", "second", "third\n"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"good\n" * 30_000 + b"ca\xfft\n", "a.txt, line 30001 is not valid UTF-8 (byte 0xff)"),
        ("a.txt", "caf\u00e9".encode()[:-1], "a.txt, line 1 is not valid UTF-8 (byte 0xc3)"),
        ("a.txt", "text".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("a.txt.gz", b"plain", "is not a gzip file although its name ends in .gz"),
        ("a.jsonl", b'{"text": "x"}\n{"texts": "y"}\n', 'line 2 has no column "text"; did you mean "texts"?'),
        ("a.jsonl", b'{"text": null}\n', 'line 1: the column "text" holds no text'),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.jsonl", b"[1]\n", "line 1 is an array"),
    ],
)
def test_what_cannot_be_read_is_a_sentence_with_its_line(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        list(pieces_of([path], "text"))


def test_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "data.csv").write_text("a,b\n")
    for path, sentence in (
        (tmp_path / "missing.txt", "does not exist"),
        (tmp_path / "empty.txt", "is empty"),
        (tmp_path / "data.csv", 'has the unknown ending ".csv"; pretraining reads .txt'),
        (tmp_path, "is a folder; name the text files themselves"),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            require_texts([path])
