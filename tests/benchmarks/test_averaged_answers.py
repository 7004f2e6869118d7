"""The table of who is right: eight cells that sum to the examples, and the run of three stages it is made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.run.evaluating import write_predictions
from ftft.run.runner import read_result, run_recipe

STAGES = ("base", "erm", "wise_ft")


@pytest.fixture(scope="module")
def answers(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("averaged_answers")


def test_the_eight_cells_sum_to_the_examples(answers: ModuleType) -> None:
    source = np.random.default_rng(0)
    right = [source.random(1000) < share for share in (0.5, 0.7, 0.8)]
    found = answers.cells(right)
    assert len(found) == 8 and sum(found.values()) == 1000
    for name, count in found.items():
        wanted = [part == "true" for part in name.split(", ")]
        assert count == sum(all(bool(one[row]) == want for one, want in zip(right, wanted)) for row in range(1000)) > 0
    assert answers.cells([np.zeros(3, dtype=bool)] * 3) == {name: 3 * (name == "false, false, false") for name in found}


def test_by_hand(answers: ModuleType, tmp_path: Path) -> None:
    """Four examples of class 0: the average alone is right on the first; the mean of probabilities, on the last two."""
    of_class_0 = {"base": [0.4, 0.1, 0.9, 0.8], "erm": [0.3, 0.2, 0.2, 0.6], "wise_ft": [0.7, 0.3, 0.6, 0.1]}
    for stage, values in of_class_0.items():
        (tmp_path / "stages" / stage / "predictions").mkdir(parents=True)
        probabilities = np.column_stack([values, 1 - np.array(values)])
        path = tmp_path / "stages" / stage / "predictions" / "test.parquet"
        write_predictions(path, pa.array(list("abcd")), np.zeros(4, dtype=np.int64), probabilities, {})
    found = answers.measured(tmp_path, STAGES)["test"]
    assert found["accuracy"] == {"before": 0.5, "tuned": 0.25, "averaged": 0.5, "mean_of_probabilities": 0.5}
    there = {name for name, count in found["cells"].items() if count}
    assert there == {"false, false, true", "false, false, false", "true, false, true", "true, true, false"}
    assert found["false_false_true"] == 0.25 and found["examples"] == 4


def test_of_a_run(
    answers: ModuleType,
    tmp_path: Path,
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = {"steps": 8, "batch_size": 8, "precision": "fp32"}
    stages = {
        "base": {"train": {**train, "steps": 1}, "combine": {"name": "wise_ft", "alpha": 0.0}},
        "erm": {"train": train, "optimize": {"name": "adamw", "learning_rate": 1e-2}},
    }
    stages["wise_ft"] = {**stages["erm"], "combine": {"name": "wise_ft", "alpha": 0.5}}
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, baseline="erm", main="wise_ft"))
    given = [f for role, stage in zip(answers.ROLES, STAGES) for f in (f"--{role}", stage)]
    answers.main([str(folder), *given, "--out", str(tmp_path / "out.json")])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["run"] == folder.name, "a name, no path of a machine"
    result = read_result(folder)
    for name, figures in found["sets"].items():
        assert sum(figures["cells"].values()) == figures["examples"]
        for role, stage in zip(answers.ROLES, STAGES):
            metric = result["stages"][stage]["evaluation"][name]["metrics"]["accuracy"]["value"]
            assert figures["accuracy"][role] == pytest.approx(metric)
    assert {"test", "ood"} <= found["sets"].keys()
    with pytest.raises(SystemExit):
        answers.main([str(folder), "--before", "base", "--tuned", "erm", "--averaged", "wise"])
    assert 'has no predictions of a stage "wise"' in capsys.readouterr().err
