"""Methods of several questions in one recipe: run to the end, killed and resumed to the same weights, merged to one model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ftft.errors import UserError
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe

TRAIN = {"steps": 9, "batch_size": 8, "precision": "fp32", "shuffle": "plain", "checkpoint_seconds": 1e-6}
ADAMW = {"name": "adamw", "learning_rate": 1e-3}
REFERENCE = {"train": {**TRAIN, "steps": 24}, "optimize": ADAMW, "dynamics": {"mode": "online"}}
COMPOSED: dict[str, dict[str, Any]] = {
    "ftft x lora_ga x asft": {
        "reference": REFERENCE,
        "main": {
            "use_dynamics_of": "reference",
            "select": {"name": "top", "score": "variability", "fraction": 0.5},
            "adapt": {"name": "lora_ga", "rank": 2},
            "objective": {"name": "asft", "anchor": 0.1},
            "optimize": ADAMW,
            "train": TRAIN,
        },
    },
    "lift x label smoothing": {
        "main": {
            "adapt": {"name": "lift", "interval": 4, "filter_rank": 4},
            "objective": {"name": "cross_entropy", "label_smoothing": 0.1},
            "optimize": ADAMW,
            "train": TRAIN,
        }
    },
    "mezo x lora": {
        "main": {"adapt": "lora", "optimize": {"name": "mezo", "learning_rate": 1e-3}, "train": {**TRAIN, "clip": None}}
    },
    "lisa x soup": {
        "one": {"optimize": ADAMW, "train": TRAIN},
        "main": {
            "optimize": {"name": "lisa", "layers": 1, "interval": 2, "learning_rate": 1e-3},
            "combine": "uniform_soup",
            "use_models_of": ["one"],
            "train": TRAIN,
        },
    },
}


class Killed(Exception):
    """The process ended here, without warning."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_methods_resume_to_the_same_weights_and_merge_to_a_plain_model(
    name: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    def recipe(place: str) -> Recipe:
        return tiny_recipe(tmp_path, tiny_bert_folder, COMPOSED[name], main="main", output=str(tmp_path / place))

    straight = run_recipe(recipe("straight"))

    def kill_at(step: int) -> Callable[[dict[str, Any]], None]:
        def notify(event: dict[str, Any]) -> None:
            if event["event"] == "step" and (event.get("stage"), event["step"]) == ("main", step):
                raise Killed

        return notify

    for step in (4, 7):
        with pytest.raises(Killed):
            run_recipe(recipe("killed"), notify=kill_at(step))
    resumed = run_recipe(recipe("killed"))
    one, other = weights(straight), weights(resumed)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    loaded, info = AutoModelForSequenceClassification.from_pretrained(resumed / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    before = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder).state_dict()
    changed = {key for key, value in loaded.state_dict().items() if not torch.equal(value, before[key])}
    assert any("encoder" in key for key in changed), "more than the head was trained"
    books = json.loads((resumed / "result.json").read_text())["stages"]["main"]["ledger"]
    undisturbed = json.loads((straight / "result.json").read_text())["stages"]["main"]["ledger"]
    for phase, cost in undisturbed["effective"].items():
        kept = {key: value for key, value in cost.items() if key != "seconds"}
        assert {key: value for key, value in books["effective"][phase].items() if key != "seconds"} == kept, phase


@pytest.mark.slow
def test_the_merged_model_loads_where_this_package_is_not(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, COMPOSED["lift x label smoothing"]))
    code = (
        "import sys; sys.modules['ftft'] = sys.modules['peft'] = None\n"
        "from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer as Tokenizer\n"
        f"folder = {str(folder / 'model')!r}\n"
        "model, tokenizer = Model.from_pretrained(folder), Tokenizer.from_pretrained(folder)\n"
        "print(tuple(model(**tokenizer('a good film', return_tensors='pt')).logits.shape), model.config.id2label)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(1, 2) {0: 'negative', 1: 'positive'}" in done.stdout


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({"optimize": "lora_pro"}, "lora_pro steps on low-rank updates, and full makes none; adapt with one of"),
        (
            {"optimize": "lisa", "adapt": "probe_then_full"},
            "lisa and probe_then_full both say at every step which layers learn",
        ),
        ({"objective": "autoft", "adapt": "lora"}, "and lora trains others in their place; adapt with one of bias_only, full"),
        ({"objective": "mixup", "dynamics": {"mode": "online"}}, "record with stages.main.dynamics: {mode: epoch_end}"),
        ({"combine": "greedy_soup"}, "greedy_soup combines several models; name their stages"),
    ],
    ids=["pairs", "schedules", "own parameters", "recording", "members"],
)
def test_what_cannot_go_together_is_refused_before_training(
    stage: dict[str, Any], expected: str, tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError) as caught:
        tiny_recipe(tmp_path, tiny_bert_folder, {"main": {"train": TRAIN, **stage}})
    assert expected in str(caught.value) and "\n" not in str(caught.value)
