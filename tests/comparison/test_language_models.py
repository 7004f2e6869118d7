"""Language models under one protocol: cells keep statistics of rows, and a loss is better when it is lower."""

from __future__ import annotations

import json
import re
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
from ftft.comparison.metrics import shown_metrics
from ftft.comparison.reading import read_suite
from ftft.errors import UserError
from ftft.report.comparison_page import comparison_page
from ftft.report.comparison_terminal import print_comparison
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.sequences import measure

WORDS = ("good", "terrible", "boring", "happy")


@pytest.fixture
def suite_path(tmp_path: Path, tiny_config: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A suite of ERM and a short training of a tiny Llama, told by the task's own metric."""
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
    assert table["metrics"] == ["loss", "perplexity", "token_accuracy"] and table["headline"] == "loss"
    rows = table["tasks"]["words"]["rows"]
    gap = rows["short"]["versus"]["means"]["ood"]["loss"]
    assert gap["value"] > 0.2 and gap["sign"] == "+", "one step leaves a higher loss"
    assert "exact_match" not in rows["erm"]["means"]["ood"], "no answers are written"
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


@pytest.fixture
def changed(suite_path: Path) -> Callable[..., Path]:
    """``changed(headline="loss")``: the suite with other settings."""

    def change(**settings: Any) -> Path:
        suite_path.write_text(yaml.safe_dump({**yaml.safe_load(suite_path.read_text()), "contrasts": [], **settings}))
        return suite_path

    return change


ANSWERING = {"recipe": "task.yaml", "change": {"task.answer": "text"}}


def test_a_suite_that_names_no_metric_takes_the_chief_one_of_its_task(changed: Callable[..., Path]) -> None:
    asked = [{"row": "short", "against": "erm"}]
    suite = read_suite(changed(contrasts=asked, search={}))
    assert suite.search is not None
    assert suite.headline == suite.search.metric == suite.contrasts[0].metric == "loss"
    suite = read_suite(changed(contrasts=asked, search={}, tasks={"words": ANSWERING}))
    assert suite.search is not None
    assert suite.headline == suite.search.metric == suite.contrasts[0].metric == "exact_match"
    suite = read_suite(changed(headline="perplexity", tasks={"words": ANSWERING, "more": "task.yaml"}, search={}))
    assert suite.headline == "perplexity" and suite.search is not None and suite.search.metric == "loss"
    assert set(shown_metrics(suite)) == {"exact_match", "loss", "perplexity", "token_accuracy"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"headline": "macro_f1"},
            'headline: there is no metric "macro_f1" of task words; it has loss, perplexity, token_accuracy',
        ),
        ({"headline": "exact_match"}, 'headline: there is no metric "exact_match" of task words; it has loss,'),
        (
            {"headline": "exact_match", "tasks": {"words": ANSWERING, "more": "task.yaml"}},
            'headline: there is no metric "exact_match" of task more; it has loss,',
        ),
        (
            {
                "tasks": {"words": ANSWERING},
                "rows": {"erm": {}, "mute": {"change": {"task.answer": None}}},
                "headline": "exact_match",
            },
            'headline: there is no metric "exact_match" of task words; it has loss,',
        ),
        ({"search": {"metric": "exact_match"}}, 'search.metric: there is no metric "exact_match" of task words'),
        ({"search": {"metric": "macro_f1"}}, 'search.metric: there is no metric "macro_f1" of task words'),
        (
            {"contrasts": [{"row": "short", "against": "erm", "metric": "macro_f1"}]},
            'contrasts.0.metric: there is no metric "macro_f1" of task words',
        ),
        ({"line": ["erm", "short"]}, 'line: there is no metric "accuracy" of task words'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_metric_that_no_cell_would_have_is_refused(
    settings: dict[str, Any], sentence: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_suite(changed(**settings))


def test_a_contrast_may_ask_the_tasks_that_have_its_metric(changed: Callable[..., Path]) -> None:
    asked = {"row": "short", "against": "erm", "metric": "exact_match"}
    tasks = {"words": ANSWERING, "more": "task.yaml"}
    with pytest.raises(UserError, match='contrasts.0.metric: there is no metric "exact_match" of task more'):
        read_suite(changed(tasks=tasks, contrasts=[asked]))
    assert read_suite(changed(tasks=tasks, contrasts=[{**asked, "tasks": ["words"]}])).headline == "loss"


def test_tasks_that_have_no_metric_in_common_are_refused(changed: Callable[..., Path], tiny_suite: Callable[..., Path]) -> None:
    recipe = yaml.safe_load((path := changed()).with_name("task.yaml").read_text())
    path.with_name("words.yaml").write_text(yaml.safe_dump(recipe))
    both = tiny_suite(["erm"], tasks={"feelings": "task.yaml", "words": "words.yaml"}, headline="")
    said = "tasks: feelings is text_classification and words is causal_language_modelling, which have no metric in common"
    with pytest.raises(UserError, match=said):
        read_suite(both)


def test_a_metric_of_one_task_is_unknown_on_another(changed: Callable[..., Path], run_here: Any) -> None:
    """A table shows what any of its tasks measures."""
    path = changed(tasks={"words": ANSWERING, "more": "task.yaml"}, rows={"erm": {}}, seeds=[0])
    raw = yaml.safe_load(path.with_name("task.yaml").read_text())
    raw["task"]["answer_tokens"] = 2
    raw["stages"]["main"]["train"]["steps"] = 1
    path.with_name("task.yaml").write_text(yaml.safe_dump(raw))
    means = {name: task["rows"]["erm"]["means"]["ood"] for name, task in run_here(path)[0]["tasks"].items()}
    assert means["words"]["exact_match"]["value"] is not None and means["more"]["exact_match"]["value"] is None
    assert means["words"]["loss"] == means["more"]["loss"]


def test_rows_are_measured_over_their_clusters_on_the_same_resamples() -> None:
    generator = np.random.default_rng(0)
    kept = np.column_stack([-generator.random(9), generator.random(9), generator.integers(1, 5, 9), generator.random(9) > 0.5])
    data = SetData(np.zeros(9, dtype=np.int64), np.repeat([0, 1, 2], 3))
    found = measure_rows(data, kept, CausalLanguageModelling(answer="text"), name="ood", resamples=50)
    assert set(found) == {"exact_match", "loss", "perplexity", "token_accuracy"}
    assert len(set(found["loss"][1:].round(12))) <= 10, "three clusters, ten resamples"
    assert found["exact_match"][0] == kept[:, 3].mean()
