"""Files as lines of text: gzip, UTF-8, and the sentence for each way they are broken."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ftft.errors import UserError, nearest

MAX_LINE_BYTES = 64 * 2**20
FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def require_no_folder(path: Path) -> None:
    """UserError for a folder, naming a data file in it where there is one."""
    if not path.is_dir():
        return
    try:
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file() and is_data_name(entry.name))
    except OSError:
        inside = []
    hint = f", for instance {path / inside[0]}" if inside else f" ({', '.join(FORMATS)})"
    raise UserError(f"{path} is a folder, not a data file; name a file inside it{hint}")


def is_data_name(name: str) -> bool:
    """Whether a file of that name is one of data by its ending, gzip'd or not."""
    return name.lower().removesuffix(".gz").endswith(tuple(FORMATS))


def require_file(path: Path) -> None:
    """UserError when ``path`` is not a non-empty regular file, with the nearest existing name as a suggestion."""
    require_no_folder(path)
    if not path.exists():
        raise UserError(f"{path} does not exist{_suggestion(path)}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: permission was denied")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); a data file with at least one row is needed")


def _suggestion(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return f"; of its folders only {folder} exists"
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return ""
    near = nearest(path.name, names)
    return f'; did you mean "{near}"?' if near else f"; no file in {folder} has a name like it"


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, gunzipped where its name ends in ``.gz``; a damaged gzip is a UserError wherever it shows."""
    zipped = path.suffix.lower() == ".gz"
    try:
        with open(path, "rb") as raw:
            starts_as_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
            if not zipped and starts_as_gzip:
                raise UserError(f"{path} is compressed with gzip but not named so; rename it to {path.name}.gz")
            if not zipped:
                yield raw
                return
            if not starts_as_gzip:
                raise UserError(f"{path} is not a gzip file although its name ends in .gz; remove the ending or compress it")
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unzipped), 2**20))
    except EOFError:
        raise UserError(f"{path} is a truncated gzip file: it ends in the middle; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); copy or download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def text_lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    """The stream's lines as text, endings kept, a byte-order mark removed.

    Lines end at ``\\n`` only. Raises UserError with the line number for invalid UTF-8 and for a line above
    ``MAX_LINE_BYTES``, of which no more than that is ever held in memory.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise UserError(
                f"{path}, line {number} is longer than {MAX_LINE_BYTES // 2**20} MiB; is this a file with one example a line?"
            )
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number} is not valid UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); "
                "save the file as UTF-8"
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text
