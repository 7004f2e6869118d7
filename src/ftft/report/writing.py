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
    if (folder / "model").is_dir():
        write_text(folder / "model" / "README.md", model_card(result))
    target = folder / "report.html"
    shown = texts or dig(result, "recipe", "report_texts") is True
    write_text(target, page(result, load_parts(folder, result), _texts(folder) if shown else None))
    return target


def _texts(folder: Path) -> Texts:
    recipe = load_recipe(folder / "recipe.yaml", [])
    train = load_data(recipe.data, inputs=build_task(recipe.task).inputs).train
    columns = [column.to_pylist() for column in train.inputs.values()]
    return Texts(tuple(train.inputs), dict(zip(train.ids.to_pylist(), zip(*columns))))
