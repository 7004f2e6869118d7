"""`ftft schema`: the recipe's JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ftft.cli.outputs import check_output_file
from ftft.files import write_text
from ftft.run.schema import json_schema


def command(
    out: Annotated[Path | None, typer.Option(help="The file to write; by default the schema is printed.")] = None,
) -> None:
    """Write the recipe's JSON Schema, with the settings of every installed method, for editors."""
    if out is not None:
        check_output_file(out, "--out")
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n")
