"""A recipe with the model in shards: what cannot go together with it is refused in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ftft.cli.main import main
from ftft.engine.processes import Processes
from ftft.engine.settings import ModelSettings, TrainSettings
from ftft.engine.sharding import Shards
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.header import MethodHeader
from ftft.run.recipe import Stage
from ftft.run.sharding import check_sharding

SHARDED = {"steps": 3, "batch_size": 8, "precision": "fp32", "sharding": "fsdp2"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adapt": "lift"}, r"stages\.erm\.adapt: lift does not work on weights in shards; use one of .*full, .*lora"),
        (
            {"objective": "l2_sp"},
            r"stages\.erm\.objective: l2_sp does not .*cross_entropy, .*stages\.erm\.train\.sharding: none",
        ),
        (
            {
                "search": {
                    "trials": 2,
                    "steps": 2,
                    "on": ["validation"],
                    "space": {"optimize.learning_rate": {"low": 1e-5, "high": 0.1}},
                }
            },
            r"stages\.erm\.train\.sharding: the trials of a search are trained whole",
        ),
        ({"optimize": "mezo"}, r"stages\.erm\.optimize: mezo does not .* use one of adamw, "),
    ],
)
def test_a_method_that_does_not_work_on_shards_is_refused(
    changes: dict[str, Any], sentence: str, tiny_recipe: Callable[..., Any], tiny_bert_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": SHARDED, **changes}})
    tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": {**SHARDED, "sharding": "none"}, **changes}})


def test_what_meets_no_shards_need_not_say_anything(
    monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Any], tiny_bert_folder: Path, tmp_path: Path
) -> None:
    """A selector of another package, that says nothing, works before there are shards; one that goes by losses does not."""
    stages = {"erm": {"train": SHARDED, "select": {"name": "random", "fraction": 0.5}, "combine": "best"}}
    stage: Stage = tiny_recipe(tmp_path, tiny_bert_folder, stages).stages["erm"]
    task = registry.build_task("text_classification")
    own = registry.header

    def silent(needs: tuple[str, ...]) -> Callable[..., MethodHeader]:
        def header(question: str, name: str, where: str = "") -> MethodHeader:
            found = own(question, name, where)
            return MethodHeader(**{**found.__dict__, "sharded": None, "needs": needs}) if question == "select" else found

        return header

    monkeypatch.setattr("ftft.run.sharding.header", silent(()))
    check_sharding(stage, task, "stages.erm")
    monkeypatch.setattr("ftft.run.sharding.header", silent(("losses",)))
    with pytest.raises(
        UserError, match=r"stages\.erm\.select: random does not work on weights in shards; use one of infobatch"
    ):
        check_sharding(stage, task, "stages.erm")


def test_texts_are_not_written_with_a_model_in_shards() -> None:
    task = registry.build_task({"name": "causal_language_modelling", "answer": "number"})
    stage = Stage(ModelSettings(path="m"), TrainSettings(sharding="fsdp2"))
    check_sharding(stage, task, "stages.sft")
    with pytest.raises(UserError, match="with task.answer every evaluation writes texts"):
        check_sharding(dataclasses.replace(stage, combine={"name": "best"}), task, "stages.sft")


def test_a_parameter_that_is_one_number_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="scale of Linear is a single number; train with sharding: none"):
        Shards(model, Processes(0, 2))


def test_list_says_which_methods_work_on_shards(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("adapt.lora", "yes"), ("optimize.mezo", "no"), ("select.top", "yes")):
        with pytest.raises(SystemExit):
            main(["list", name])
        assert f"works on weights in shards: {said}" in capsys.readouterr().out
