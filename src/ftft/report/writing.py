"""Write a finished run's report and model card from what its folder holds."""

from __future__ import annotations

from pathlib import Path

from ftft.data.loading import load_data
from ftft.files import write_text
from ftft.methods.registry import build_task
from ftft.report.card import model_card
from ftft.report.figures import dig
from ftft.report.map_payload import Texts
from ftft.report.page import page
from ftft.report.parts import load_parts
from ftft.run.reading import load_recipe
from ftft.run.runner import read_result


def write_report(folder: Path, *, texts: bool = False) -> Path:
    """Write ``report.html`` and, where the run left a model, ``model/README.md``, each atomically; returns the page's path.
    ``texts``: show those of the training rows, which are read anew by the run's recipe; it may ask for them itself.

    Raises UserError where the folder holds no readable ``result.json`` or cannot be written to, or the data cannot be read.
    """
    result = read_result(folder)
    shown = _texts(folder) if texts or dig(result, "recipe", "report_texts") is True else None
    if (folder / "model").is_dir():
        write_text(folder / "model" / "README.md", model_card(result))
    target = folder / "report.html"
    write_text(target, page(result, load_parts(folder, result), shown))
    return target


def _texts(folder: Path) -> Texts | None:
    """The training rows' texts (an image is none) by the recipe of the run; None where its task reads no text."""
    recipe = load_recipe(folder / "recipe.yaml", [])
    inputs = build_task(recipe.task).inputs
    train = load_data(recipe.data, inputs=inputs).train
    columns = {name: values.to_pylist() for name, values in train.inputs.items() if inputs.kind(name) != "image"}
    return Texts(tuple(columns), dict(zip(train.ids.to_pylist(), zip(*columns.values())))) if columns else None
