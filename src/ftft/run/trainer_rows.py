"""The rows that stages learn from which a trainer of TRL runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ftft.data.duplicates import find_overlaps
from ftft.data.examples import Examples, LoadedData
from ftft.data.loading import load_examples, refuse_training_files, with_fingerprint
from ftft.data.prompting import asks, questions_of
from ftft.data.settings import Columns
from ftft.errors import UserError
from ftft.run.recipe import Recipe
from ftft.run.trainer_combinations import trainer_of

DESIRABLE = {"true": True, "1": True, "desirable": True, "false": False, "0": False, "undesirable": False}


def trainer_rows(
    recipe: Recipe, data: LoadedData, progress: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, LoadedData], list[str]]:
    """For every stage that a trainer runs the data with the rows it learns from as training rows; and warnings.

    UserError for bad rows, or rows of an evaluation set.
    """
    found: dict[str, LoadedData] = {}
    warnings: list[str] = []
    for name, stage in recipe.stages.items():
        if stage.trainer is None:
            continue
        trainer, where = trainer_of(recipe, name), f"stages.{name}.data"
        if stage.data is None:
            if data.train.inputs.keys() not in [layout.keys() for layout in trainer.inputs.layouts]:
                raise UserError(
                    f"{where} is missing: {trainer.name} learns from prompts with their answers, and the rows of data.train "
                    f"give {' and '.join(data.train.inputs)}; name a file of others"
                )
            rows = data.train
        else:
            refuse_training_files([stage.data], recipe.data.evaluation, where)
            progress(f"reading the rows of stage {name}")
            rows = load_examples(stage.data, Columns(), inputs=trainer.inputs, warnings=warnings)
            rows, sentences = _apart(rows, data, where, drop=recipe.data.drop_duplicates_of_evaluation)
            warnings += sentences
            if trainer.inputs.labelled:
                rows = _with_label_as_input(rows, where)
        if len(rows) == 0:
            raise UserError(f"{where} holds no row to learn from")
        found[name] = dataclasses.replace(data, train=rows)
    return found, warnings


def _with_label_as_input(rows: Examples, where: str) -> Examples:
    """Rows whose label says whether the answer is desirable, as rows without classes that have it as an input, bool [N]."""
    for name in rows.label_names:
        if name.lower() not in DESIRABLE:
            raise UserError(f'{where}: the label "{name}" does not say whether an answer is desirable; write true or false')
    meant = np.array([DESIRABLE[name.lower()] for name in rows.label_names])
    inputs = {**rows.inputs, "label": pa.array(meant[rows.labels])}
    return dataclasses.replace(rows, inputs=inputs, labels=np.zeros(len(rows), dtype=np.int64), label_names=())


def _apart(rows: Examples, data: LoadedData, where: str, *, drop: bool) -> tuple[Examples, list[str]]:
    """The rows, without those whose prompt an evaluation set asks (a chat: in its last question) where they are to be dropped;
    and a sentence for each such set."""
    asked = {name: questions_of(one.examples) for name, one in data.evaluation.items() if asks(one.examples)}
    overlaps = find_overlaps(
        {"prompt": rows.inputs["prompt"]},
        {name: {"prompt": pa.array(questions, pa.large_string())} for name, questions in asked.items()},
    )
    shared = {name: one.train_rows for name, one in overlaps.items() if len(one.train_rows)}
    done = "left out" if drop else "learned from all the same (data.drop_duplicates_of_evaluation leaves out such rows)"
    sentences = [
        f'{where}: rows whose prompt is in the evaluation set "{name}": {len(there):,}, {done}'
        for name, there in shared.items()
    ]
    if drop and shared:
        kept = np.setdiff1d(np.arange(len(rows)), np.concatenate(list(shared.values())))
        rows = with_fingerprint(rows.take(kept))
    return rows, sentences
