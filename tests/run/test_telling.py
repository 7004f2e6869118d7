"""What a result tells of its sets shows a model that gives one answer to everything, from the run to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.data.examples import EvaluationSet, Examples
from ftft.report.writing import write_report
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe
from ftft.run.telling import told_of_sets


def evaluation_set(name: str, labels: list[int], names: tuple[str, ...], merge: Any = None) -> EvaluationSet:
    ids = pa.array([str(row) for row in range(len(labels))])
    return EvaluationSet(name, Examples(ids, {}, np.array(labels), names, name), "ood", "test", merge)


def test_shares_of_predictions_and_the_majority_class_are_over_a_sets_own_labels() -> None:
    merged = evaluation_set("merged", [0, 1, 1, 1], ("yes", "no"), ((0,), (1, 2)))
    tied = evaluation_set("tied", [0, 2, 2, 0], ("a", "b", "c"))
    found = told_of_sets({"merged": merged, "tied": tied}, {"merged": np.zeros(4, int), "tied": np.array([1, 1, 1, 2])})
    assert found["predicted_classes"] == {"merged": {"yes": 1.0, "no": 0.0}, "tied": {"a": 0.0, "b": 0.75, "c": 0.25}}
    assert found["majority_class"]["merged"] == {"label": "no", "accuracy": 0.75}
    assert found["majority_class"]["tied"] == {"label": "a", "accuracy": 0.5}


def test_a_run_by_copies_of_the_lowest_aum_tells_what_it_learned_from_and_what_it_predicts(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    train = {"steps": 6, "batch_size": 16}
    select = {"name": "top", "score": "aum", "largest": False, "fraction": 0.25, "apply": "copies", "copies": 2}
    stages: dict[str, Any] = {
        "erm": {"train": train},
        "reference": {"train": train, "dynamics": {}},
        "main": {"train": train, "use_dynamics_of": "reference", "select": select},
    }
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm"))
    result = read_result(folder)
    main = result["stages"]["main"]
    for name, one in main["evaluation"].items():
        shares = main["predicted_classes"][name]
        assert list(shares) == list(one["class_prior"]) and abs(sum(shares.values()) - 1) < 1e-9
        assert main["majority_class"][name]["accuracy"] == max(one["class_prior"].values())
    counts = main["selection"]["counts"]
    n, chosen, rows = counts["pool"], counts["selected"], counts["rows"]
    assert rows == n + 2 * chosen and (main["diagnosis"] or {"fraction": 0.33})["fraction"] == 0.33
    page = write_report(folder).read_text(encoding="utf-8")
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert f"Learned from {rows} rows: {n} training examples and 2 extra copies of {chosen}." in card
    assert "(those with the lowest AUM)" in page and "most ambiguous training examples" not in page
