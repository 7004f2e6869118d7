"""Write a finished run's report and model card from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from ftft.files import write_text
from ftft.report.card import model_card
from ftft.report.page import page
from ftft.report.parts import load_parts
from ftft.run.runner import read_result


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and, where the run left a model, ``model/README.md``, each atomically; returns the page's path.

    Raises UserError where the folder holds no readable ``result.json`` or cannot be written to.
    """
    result = read_result(folder)
    if (folder / "model").is_dir():
        write_text(folder / "model" / "README.md", model_card(result))
    target = folder / "report.html"
    write_text(target, page(result, load_parts(folder, result)))
    return target
