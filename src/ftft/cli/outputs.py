"""Where a command is asked to write, checked before it reads or computes anything."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ftft.errors import UserError
from ftft.files import explain_os_error


def check_output_file(path: Path, option: str, *, endings: Sequence[str] = (), inputs: Sequence[Path | None] = ()) -> None:
    """UserError where the file cannot be written, has none of the ``endings``, or would replace one of the ``inputs``.

    ``option`` names the option in the sentence (``--out``). A path that is no UTF-8 is refused too: not every reader opens it.
    """
    _refuse_undecodable([path, *inputs])
    if endings and path.suffix.lower() not in endings:
        what = f'the unknown ending "{path.suffix}"' if path.suffix else "no ending"
        raise UserError(f"{option}: {path} has {what}; give it one of {', '.join(endings)}")
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder; name the file itself")
    _refuse_input(path, option, inputs)
    _try_folder(path.parent, f"{option}: {path}")


def check_output_folder(path: Path, option: str, *, inputs: Sequence[Path | None] = ()) -> None:
    """UserError where a folder of that name cannot be written into, or is one of the ``inputs``; paths as above."""
    _refuse_undecodable([path, *inputs])
    if path.exists() and not path.is_dir():
        raise UserError(f"{option}: {path} is a file; name a folder")
    _refuse_input(path, option, inputs)
    _try_folder(path, f"{option}: {path}")


def _refuse_undecodable(paths: Sequence[Path | None]) -> None:
    for path in paths:
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"the path {str(path)!a} is not valid UTF-8; rename the file or folder") from None


def _refuse_input(path: Path, option: str, inputs: Sequence[Path | None]) -> None:
    for given in inputs:
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise UserError(f"{option}: {path} is what the command reads and would be lost; name another place to write to")


def _try_folder(folder: Path, what: str) -> None:
    """Write an unnamed file into the folder, or into the nearest one above it where it is still to be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = str(explain_os_error(error, folder)).removeprefix(f"cannot write {folder}: ")
        raise UserError(f"{what} cannot be written: {reason}") from None
