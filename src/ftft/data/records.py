"""JSON Lines, CSV and TSV as records: one dictionary a row, with the line it starts on.

CSV follows RFC 4180 strictly: fields may stand in double quotes, a quote inside is doubled, and may then hold commas and
line breaks. TSV files of this field (GLUE and its kin) are mostly written without quoting, and full of lone quotes, so
there a quote is an ordinary character, unless the header line's own names stand in quotes or ``quotes: true`` says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ftft.data.streams import MAX_LINE_BYTES, text_lines
from ftft.errors import UserError

Record = tuple[int, dict[str, Any]]
_SEPARATORS = {";": '";"', "\t": "tabs", "|": '"|"', ",": "commas"}


def json_records(stream: BinaryIO, path: Path) -> Iterator[Record]:
    """(line number, object) of every line that is not blank; UserError with the line for whatever is not one object."""
    decode = json.JSONDecoder().decode
    number = 0
    for number, line in enumerate(text_lines(stream, path), start=1):
        if line.isspace():
            continue
        try:
            value = decode(line)
        except json.JSONDecodeError as error:
            raise UserError(_json_sentence(path, number, line, error)) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} cannot be read as JSON ({error})") from None
        if not isinstance(value, dict):
            kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
            raise UserError(
                f"{path}, line {number} is {kind}, not a JSON object; every line must be one object like " + '{"text": ...}'
            )
        yield number, value
    if number == 0:
        raise UserError(f"{path} is empty; a data file with at least one row is needed")


def _json_sentence(path: Path, number: int, line: str, error: json.JSONDecodeError) -> str:
    if line.strip() in ("{", "["):
        return f"{path}, line {number} opens JSON that goes on over several lines; write one object on each line (JSON Lines)"
    if not line.endswith("\n"):
        what = f"its last line ({number}) is not complete JSON ({error.msg.removesuffix(' starting at')})"
        return f"{path} is truncated: {what}; copy the file again or remove that line"
    return f"{path}, line {number} is not valid JSON: {error.msg} at column {error.colno}"


def delimited_records(
    stream: BinaryIO, path: Path, *, delimiter: str, header: Sequence[str] | None, quotes: bool | None
) -> Iterator[Record]:
    """(line number, fields by column name) of every row; blank lines are skipped.

    ``header``: the column names of a file without a header line. ``quotes``: None is yes for CSV, no for TSV (see above).
    UserError with the line for a wrong number of fields and for broken quoting.
    """
    lines = text_lines(stream, path)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{path} is empty; a data file with at least one row is needed")
    if header is None and (other := _other_separator(first, delimiter)) is not None:
        raise UserError(f"{path} {_wrongly_separated(other, delimiter)}")
    if quotes is None:
        quotes = delimiter == "," or (header is None and _all_quoted(first.rstrip("\r\n").split(delimiter)))
    rows = _rows(_chain(first, lines), path, delimiter, quotes)
    if header is None:
        _, names = next(rows, (0, []))
        if not names:
            raise UserError(f"{path} has no header line; name its columns with `header:`")
    else:
        names = list(header)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        where = "its header line" if header is None else "`header:`"
        raise UserError(f'{path}: {where} names the column "{repeated[0]}" twice; column names must differ')
    for number, fields in rows:
        if len(fields) != len(names):
            hint = ""
            if len(fields) == 1 and (other := _other_separator(fields[0], delimiter)) is not None:
                hint = f"; it {_wrongly_separated(other, delimiter)}"
            elif not quotes and any(field.startswith('"') for field in fields):
                hint = "; if its fields stand in quotes, set `quotes: true`"
            where = "the header" if header is None else "`header:`"
            raise UserError(f"{path}, line {number} has {len(fields)} fields where {where} has {len(names)}{hint}")
        yield number, dict(zip(names, fields))


def _other_separator(line: str, delimiter: str) -> str | None:
    """What separates the fields of a line that holds no ``delimiter`` at all; None where nothing does."""
    return None if delimiter in line else next((other for other in _SEPARATORS if other in line), None)


def _wrongly_separated(other: str, delimiter: str) -> str:
    kind, right = ("CSV", "commas") if delimiter == "," else ("TSV", "tabs")
    ways = {",": "name it .csv or set `format: csv`", "\t": "name it .tsv or set `format: tsv`"}
    way = ways.get(other, f"save it with {right}")
    return f"looks separated by {_SEPARATORS[other]}, and ftft reads {kind} with {right} between the fields; {way}"


def _all_quoted(fields: Sequence[str]) -> bool:
    return all(len(field) > 2 and field[0] == field[-1] == '"' for field in fields)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _rows(lines: Iterator[str], path: Path, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    if not quotes:
        for number, line in enumerate(lines, start=1):
            if line.rstrip("\r\n"):
                yield number, line.rstrip("\r\n").split(delimiter)
        return
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        # The csv module keeps one limit for the whole process (128 KiB): ours holds only while it parses a row.
        before = csv.field_size_limit(MAX_LINE_BYTES)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(_csv_sentence(path, start, reader.line_num, str(error))) from None
        finally:
            csv.field_size_limit(before)
        if fields:
            yield start, fields


def _csv_sentence(path: Path, start: int, line: int, message: str) -> str:
    if "unexpected end of data" in message or "field larger" in message:
        return f"{path}: a quote opened in the row at line {start} is never closed; double a quote that is part of the text"
    if "expected after" in message:
        return f"{path}, line {line} has text after a closing quote; double a quote that is part of the text"
    return f"{path}, line {line} cannot be read: {message}"
