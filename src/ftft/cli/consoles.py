"""The console that a command's tables are printed on."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 140  # columns where the output is no terminal, so that names in tables are not cut


def output_console() -> Console:
    """Standard output: as wide as the terminal, and of a fixed width in a pipe or a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
