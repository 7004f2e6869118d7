"""Where averaging weights helps: which of three models is right on which test examples, from a finished run's predictions.

    python benchmarks/averaged_answers.py runs/bang --before before --tuned erm --averaged wise_ft [--out FILE]

Three stages: the model before training (a stage with ``train: {steps: 1}`` and ``combine: {name: wise_ft, alpha: 0.0}``), the
fine-tuned one, and their average (the same stage with ``combine: wise_ft``). For each evaluation set the counts of the eight
cells, named by who is right: ``false, false, true`` are the examples that only the average gets right (FalseFalseTrue of Lin et
al. 2023, arXiv 2309.17230). Beside the three accuracies that of the mean of the first two models' probabilities: what an
ensemble gives without averaging weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftft.errors import UserError
from ftft.run.evaluating import read_predictions

ROLES = ("before", "tuned", "averaged")


def cells(right: Sequence[np.ndarray]) -> dict[str, int]:
    """How many examples each of the eight cells has, from bool [N] of each of the three models; they sum to N."""
    code = sum(one.astype(np.int64) << (2 - place) for place, one in enumerate(right))
    counts = np.bincount(code, minlength=8)
    names = itertools.product(("false", "true"), repeat=3)
    return {", ".join(name): int(count) for name, count in zip(names, counts, strict=True)}


def of_set(paths: Sequence[Path]) -> dict[str, Any]:
    """The figures of one evaluation set from the predictions of the three stages; UserError where they are of other rows."""
    found = [read_predictions(path) for path in paths]
    ids, labels, _ = found[0]
    for path, (others, *_) in zip(paths, found):
        if not others.equals(ids):
            raise UserError(f"{path} is of other examples than {paths[0]}; give three stages of one run")
    probabilities = [one for *_, one in found]
    right = [one.argmax(axis=1) == labels for one in probabilities]
    counts = cells(right)
    accuracies = {role: float(one.mean()) for role, one in zip(ROLES, right)}
    ensemble = (probabilities[0] + probabilities[1]).argmax(axis=1) == labels
    return {
        "examples": len(labels),
        "accuracy": {**accuracies, "mean_of_probabilities": float(ensemble.mean())},
        "cells": counts,
        "false_false_true": counts["false, false, true"] / len(labels),
    }


def measured(run: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Of every evaluation set that all three stages have predictions of."""
    folders = [run / "stages" / stage / "predictions" for stage in stages]
    for folder, stage in zip(folders, stages):
        if not folder.is_dir():
            raise UserError(f'{run} has no predictions of a stage "{stage}"; name a finished stage of the run')
    names = sorted(set.intersection(*({path.stem for path in folder.glob("*.parquet")} for folder in folders)))
    return {name: of_set([folder / f"{name}.parquet" for folder in folders]) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    for role in ROLES:
        parser.add_argument(f"--{role}", required=True, metavar="STAGE")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    try:
        found = measured(given.run, [getattr(given, role) for role in ROLES])
    except UserError as error:
        parser.error(str(error))
    text = json.dumps({"run": given.run.resolve().name, "sets": found}, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
