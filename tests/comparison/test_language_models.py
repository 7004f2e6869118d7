"""Language models under one protocol: cells keep statistics of rows, and a loss is better when it is lower."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from ftft.comparison.cells import CellFolder, SetData
from ftft.comparison.measuring import measure_rows
from ftft.comparison.suite import OF_SEQUENCES, read_suite
from ftft.errors import UserError
from ftft.report.comparison_page import comparison_page
from ftft.report.comparison_terminal import print_comparison
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.sequences import measure

WORDS = ("good", "terrible", "boring", "happy")


@pytest.fixture
def suite_path(tmp_path: Path, tiny_config: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A suite of ERM and a short training of a tiny Llama, its learning rate searched."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(tiny_config("llama")).save_pretrained(tmp_path / "llama")
    tiny_tokenizer.save_pretrained(tmp_path / "llama")
    for name, size in {"train": 32, "validation": 12, "ood": 12}.items():
        rows = [{"id": f"{name}{i}", "prompt": f"{name} {i % 4}", "completion": WORDS[i % 4]} for i in range(size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": {"name": "causal_language_modelling", "max_length": 32, "add_end": False},
        "data": {
            "train": {"path": str(tmp_path / "train.jsonl")},
            "columns": {"id": "id"},
            "evaluation": {
                "validation": {"path": str(tmp_path / "validation.jsonl"), "role": "id", "split": "validation"},
                "ood": {"path": str(tmp_path / "ood.jsonl"), "role": "ood", "split": "validation"},
            },
        },
        "stages": {
            "main": {
                "model": {"path": str(tmp_path / "llama")},
                "train": {"steps": 12, "batch_size": 8, "precision": "fp32"},
                "optimize": {"name": "adamw", "learning_rate": 3e-3},
                "evaluate": {"name": "language_modelling", "resamples": 20},
            }
        },
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(recipe))
    suite = {
        "tasks": {"words": {"recipe": "task.yaml"}},
        "rows": {"erm": {}, "short": {"change": {"stages.main.train.steps": 1}}},
        "seeds": [0, 1],
        "baseline": "erm",
        "headline": "loss",
        "contrasts": [
            {"row": "erm", "against": "short", "metric": "loss", "no_worse_by": 0.01},
            {"row": "short", "against": "erm", "metric": "loss", "no_worse_by": 0.01},
        ],
        "resamples": 100,
        "output": str(tmp_path / "runs"),
        "results": str(tmp_path / "results"),
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


def test_a_suite_of_language_models_is_measured_and_told_by_its_loss(suite_path: Path, run_here: Any) -> None:
    table, _ = run_here(suite_path)
    assert table["metrics"] == list(OF_SEQUENCES) and table["headline"] == "loss"
    rows = table["tasks"]["words"]["rows"]
    gap = rows["short"]["versus"]["means"]["ood"]["loss"]
    assert gap["value"] > 0.2 and gap["sign"] == "+", "one step leaves a higher loss"
    assert rows["erm"]["means"]["ood"]["exact_match"]["value"] is None
    verdicts = {one["row"]: one["holds"] for one in table["contrasts"]}
    assert verdicts == {"erm": True, "short": False}, "no worse means not higher"
    assert all(one["ranking"] is None for one in table["contrasts"])
    cells = list(CellFolder(Path(str(suite_path.parent / "results" / "suite"))).read().values())
    assert len(cells) == 4
    for cell in cells:
        kept, figures = cell.statistics("ood"), cell.sets["ood"]["figures"]["metrics"]
        assert kept is not None and kept.shape == (12, 3)
        for name, value in measure(kept).items():
            assert figures[name]["value"] == pytest.approx(float(value), rel=1e-6)
    out = StringIO()
    print_comparison(table, Console(file=out, width=160))
    assert f"{rows['erm']['means']['ood']['loss']['value']:.3f}" in out.getvalue() and "lower is better" in out.getvalue()
    page = comparison_page(table)
    assert "nats per token" in page and f"{gap['value']:+.3f}" in page and "prior-sensitive" not in page


def test_of_searched_rates_the_one_with_the_lowest_loss_is_taken(suite_path: Path, run_here: Any) -> None:
    raw = yaml.safe_load(suite_path.read_text())
    raw |= {"seeds": [0], "rows": {"erm": {}}, "contrasts": [], "search": {"metric": "loss", "at_most": 3, "factor": 10.0}}
    suite_path.write_text(yaml.safe_dump(raw))
    found = run_here(suite_path)[0]["tasks"]["words"]["rows"]["erm"]["learning_rate"]
    losses = {one["learning_rate"]: one["value"] for one in found["curve"]}
    assert min(losses, key=losses.__getitem__) == found["chosen"] and len(set(losses.values())) == 3


def test_a_metric_of_classifiers_is_refused_beside_a_loss(suite_path: Path) -> None:
    raw = yaml.safe_load(suite_path.read_text())
    suite_path.write_text(yaml.safe_dump({**raw, "contrasts": [{"row": "short", "against": "erm"}]}))
    with pytest.raises(UserError, match='contrasts.0.metric: there is no metric "macro_f1"'):
        read_suite(suite_path)
    suite_path.write_text(yaml.safe_dump({**raw, "search": {}}))
    with pytest.raises(UserError, match='search.metric: there is no metric "macro_f1"'):
        read_suite(suite_path)


def test_rows_are_measured_over_their_clusters_on_the_same_resamples() -> None:
    generator = np.random.default_rng(0)
    kept = np.column_stack([-generator.random(9), generator.random(9), generator.integers(1, 5, 9), generator.random(9) > 0.5])
    data = SetData(np.zeros(9, dtype=np.int64), np.repeat([0, 1, 2], 3))
    found = measure_rows(data, kept, CausalLanguageModelling(), name="ood", resamples=50)
    assert set(found) == set(OF_SEQUENCES) and len(set(found["loss"][1:].round(12))) <= 10, "three clusters, ten resamples"
    assert found["exact_match"][0] == kept[:, 3].mean()
