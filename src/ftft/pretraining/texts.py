"""Plain text as a stream of pieces: ``.txt`` (a file is one document) and JSONL (a row's column is one), gzip'd or not.

Only one piece, of at most ``PIECE`` characters (a JSONL row: one line of the file), is in memory at a time.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftft.data.records import json_records
from ftft.data.streams import open_bytes, require_file
from ftft.errors import UserError, did_you_mean

PIECE = 1 << 16  # characters handed on at a time
PLAIN, ROWS = (".txt", ".text"), (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Piece:
    """A part of a document, cut where a line or a word ends; ``last``: the document ends with it."""

    text: str
    last: bool


def require_texts(paths: Sequence[Path]) -> None:
    """UserError where a file is missing, empty, a folder, or neither plain text nor JSONL by its name."""
    for path in paths:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder; name the text files themselves ({', '.join((*PLAIN, *ROWS))}, each also with .gz)"
            )
        require_file(path)
        _ending(path)


def pieces_of(paths: Sequence[Path], column: str) -> Iterator[Piece]:
    """The text of the files in the order given, in pieces; line breaks ``\\r\\n`` become ``\\n``.

    Raises UserError, one sentence with file and line, for text that is not UTF-8, and for a JSONL row without text.
    """
    for path in paths:
        if _ending(path) in PLAIN:
            yield from _plain(path)
        else:
            yield from _rows(path, column)


def _ending(path: Path) -> str:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in (*PLAIN, *ROWS):
        told = f'has the unknown ending "{ending}"' if ending else "has no ending"
        raise UserError(f"{path} {told}; pretraining reads {', '.join((*PLAIN, *ROWS))}, each also with .gz")
    return ending


def _plain(path: Path) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, lines, first = "", 1, True
    with open_bytes(path) as stream:
        while True:
            raw = stream.read(PIECE)
            if first and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                seen = bytes(error.object)
                line = lines + seen[: error.start].count(b"\n")
                what = f"byte 0x{seen[error.start]:02x}"
                raise UserError(f"{path}, line {line} is not valid UTF-8 ({what}); save the file as UTF-8") from None
            lines += text.count("\n")
            rest += text.removeprefix("\ufeff") if first else text
            first = False
            if not raw:
                break
            cut = _end_of_line_or_word(rest)
            if cut:
                yield Piece(rest[:cut].replace("\r\n", "\n"), last=False)
                rest = rest[cut:]
    yield Piece(rest.replace("\r\n", "\n"), last=True)


def _rows(path: Path, column: str) -> Iterator[Piece]:
    with open_bytes(path) as stream:
        for line, row in json_records(stream, path):
            if column not in row:
                raise UserError(f'{path}, line {line} has no column "{column}"{did_you_mean(column, row)}')
            text = row[column]
            if not isinstance(text, str):
                raise UserError(f'{path}, line {line}: the column "{column}" holds no text; every row needs a string there')
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(
                    f'{path}, line {line}: the column "{column}" holds half a surrogate pair, which is not valid Unicode text'
                ) from None
            text = text.replace("\r\n", "\n")
            while len(text) > PIECE:
                cut = _end_of_line_or_word(text[:PIECE])
                yield Piece(text[:cut], last=False)
                text = text[cut:]
            yield Piece(text, last=True)


def _end_of_line_or_word(text: str) -> int:
    """Where to cut so that no word is cut in two: after the last line break, else before the last space, else at the end, but
    never between the two characters of a line break."""
    line = text.rfind("\n") + 1
    space = text.rfind(" ")
    return line or (space if space > 0 else len(text) - text.endswith("\r"))
