"""A folder of images as rows: ``FOLDER/class/picture.png``, or any pictures that ``FOLDER/metadata.csv`` lists.

A row has the columns ``image`` (the path in the folder), ``label`` (the name of the sub-folder), ``file_name`` (the same path;
it is the row's id) and those of metadata.csv, which names the pictures in its own column ``file_name`` as the library datasets
has it. Rows are in the order of their paths, those of metadata.csv in its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftft.data.images import ENDINGS
from ftft.data.records import Record, delimited_records
from ftft.data.streams import open_bytes
from ftft.errors import UserError

FILE_NAME, METADATA = "file_name", "metadata.csv"


def folder_records(folder: Path) -> Iterator[Record]:
    """(number from 1, values by column) of every picture; UserError where there is none, or one has no class."""
    if (folder / METADATA).is_file():
        yield from _listed(folder)
        return
    pictures = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()]
    pictures = [path for path in pictures if not any(part.startswith(".") for part in path.parts)]
    if not pictures:
        raise UserError(f"{folder} holds no picture ({', '.join(ENDINGS)}); an image folder is FOLDER/class/picture.png")
    for number, path in enumerate(sorted(pictures, key=lambda one: one.as_posix()), start=1):
        if len(path.parts) != 2:
            raise UserError(
                f"{folder}: {path.as_posix()} does not stand as class/picture in the folder, so that its class is not known; "
                f"name the folder of the classes, or list the pictures in {METADATA}"
            )
        yield number, {FILE_NAME: path.as_posix(), "image": path.as_posix(), "label": path.parts[0]}


def _listed(folder: Path) -> Iterator[Record]:
    path = folder / METADATA
    with open_bytes(path) as stream:
        listed = delimited_records(stream, path, delimiter=",", header=None, quotes=None)
        for number, (line, record) in enumerate(listed, start=1):
            name = record.get(FILE_NAME)
            if not name:
                raise UserError(f"{path}, line {line}: the column {FILE_NAME} does not name a picture")
            parent = Path(name).parent.name
            yield number, {**({"label": parent} if parent else {}), "image": name, **record}
