"""Packing in a recipe: the same stage at less cost, and refused where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ftft.dynamics.parquet import read_dynamics
from ftft.errors import UserError
from ftft.run.checking import check_models_and_data
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.recipe import LATER_IN_STAGE, Recipe, without_later
from ftft.run.runner import read_result, run_recipe

WORDS = ["good", "great", "happy", "bad", "terrible", "boring", "the", "film", "movie", "plot", "dog", "cat", "people"]
DEADLINE = 400.0  # seconds
TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp64", "shuffle": "plain"}


def model_folder(made: Any, tokenizer: Any, folder: Path) -> Path:
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    return folder


@pytest.fixture(scope="module")
def llama(tiny_config: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    made = LlamaForCausalLM(tiny_config("llama"))
    return model_folder(made, tiny_tokenizer, tmp_path_factory.mktemp("llama") / "model")


def recipe_of(folder: Path, model: Path, stages: dict[str, Any], **changes: Any) -> Recipe:
    source = random.Random(0)
    for name, size in (("train", 44), ("validation", 12)):
        rows = [
            {
                "id": f"{name}-{row}",
                "prompt": source.choice(WORDS),
                "completion": " ".join(source.choices(WORDS, k=1 + row % 14)),
            }
            for row in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = {"validation": {"path": str(folder / "validation.jsonl"), "role": "id", "split": "validation"}}
    usual = {"model": {"path": str(model)}, "evaluate": {"name": "language_modelling", "resamples": 0}}
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 32},
        "data": {"train": {"path": str(folder / "train.jsonl")}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {name: {**usual, **stage} for name, stage in stages.items()},
        "output": str(folder / "runs"),
    }
    return recipe_from_dict({**raw, **changes}, default_name="packing")


def test_a_packed_stage_is_the_padded_one_at_less_cost(tmp_path: Path, llama: Path) -> None:
    online = {"mode": "online"}
    stages = {
        "padded": {"train": TRAIN, "dynamics": online},
        "packed": {"train": {**TRAIN, "pack": True}, "dynamics": online},
    }
    recipe = recipe_of(tmp_path, llama, stages)
    assert list(check_models_and_data(recipe))[-1] == "the recipe is sound"
    folder = run_recipe(recipe)
    result = read_result(folder)["stages"]
    padded, packed = (result[name] for name in ("padded", "packed"))
    np.testing.assert_allclose(packed["training"]["losses"], padded["training"]["losses"], rtol=0, atol=1e-8)
    one, other = (read_dynamics(folder / f"stages/{name}/dynamics.parquet") for name in ("padded", "packed"))
    assert one.ids.equals(other.ids) and one.seen.all() and other.seen.all()
    for name, values in one.statistics.items():
        np.testing.assert_allclose(other.statistics[name], values, rtol=0, atol=1e-5)
    books = [stage["ledger"]["effective"]["training"] for stage in (padded, packed)]
    assert books[1]["flops"] < 0.8 * books[0]["flops"]
    assert all(books[0][name] == books[1][name] for name in ("examples", "tokens", "steps"))


@pytest.mark.processes
@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_pack_their_parts_of_a_batch(tmp_path: Path, llama: Path, fork_processes: Any, sharding: str) -> None:
    stage = {"model": {"path": str(llama), "dropout": 0.0}, "dynamics": {"mode": "online"}}
    (tmp_path / "one").mkdir()
    one = run_recipe(recipe_of(tmp_path / "one", llama, {"main": {**stage, "train": {**TRAIN, "pack": True}}}))
    stages = {"main": {**stage, "train": {**TRAIN, "pack": True, "sharding": sharding}}}
    recipe = recipe_to_dict(recipe_of(tmp_path, llama, stages))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    process = fork_processes("run", str(tmp_path / "recipe.yaml"))
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output[-3000:]
    alone, both = (read_result(folder)["stages"]["main"] for folder in (one, tmp_path / "runs" / "packing"))
    np.testing.assert_allclose(both["training"]["losses"], alone["training"]["losses"], rtol=0, atol=1e-10)
    assert both["ledger"]["effective"]["training"]["tokens"] == alone["ledger"]["effective"]["training"]["tokens"]
    recorded = [read_dynamics(folder / "stages/main/dynamics.parquet") for folder in (one, tmp_path / "runs" / "packing")]
    assert recorded[0].ids.equals(recorded[1].ids) and all(one.seen.all() for one in recorded)
    for name, values in recorded[0].statistics.items():
        np.testing.assert_allclose(recorded[1].statistics[name], values, rtol=0, atol=1e-6)


def test_what_plain_fine_tuning_packed_alike_would_cost_is_estimated_as_it_is_measured(tmp_path: Path, llama: Path) -> None:
    train = {**TRAIN, "pack": True, "shuffle": "bucketed", "batch_size": 16, "micro_batch_size": 8}
    stages = {"erm": {"train": train}, "some": {"train": train, "select": {"name": "random", "fraction": 0.7}}}
    recipe = recipe_of(tmp_path, llama, stages, baseline="erm", main="some")
    measured = read_result(run_recipe(recipe))["stages"]["some"]["cost"]
    alone = dataclasses.replace(recipe, stages={"some": recipe.stages["some"]}, baseline=None)
    estimated = read_result(run_recipe(alone))["stages"]["some"]["cost"]
    assert estimated["erm_source"].startswith("estimated") and measured["erm_source"].startswith("measured")
    assert estimated["erm_flops"] == pytest.approx(measured["erm_flops"], rel=1e-9)


def test_a_task_whose_examples_stand_alone_refuses(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError, match="^stages.erm.train.pack: the examples of text_classification cannot share a row"):
        tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": {"steps": 2, "pack": True}}})


def test_a_model_that_mixes_is_refused_before_anything_is_trained(tmp_path: Path, tiny_tokenizer: Any, llama: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 64}
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = OPTConfig(vocab_size=len(tiny_tokenizer), word_embed_proj_dim=16, init_std=0.2, **special, **sizes)
    opt = model_folder(OPTForCausalLM(config), tiny_tokenizer, tmp_path / "opt")
    stages = {"first": {"train": TRAIN}, "main": {"model": {"path": str(opt)}, "train": {**TRAIN, "pack": True}}}
    recipe = recipe_of(tmp_path, llama, stages)
    sentence = "^stages.main.train.pack: in one row OPTForCausalLM does not keep sequences apart"
    with pytest.raises(UserError, match=sentence):
        list(check_models_and_data(recipe))
    with pytest.raises(UserError, match=sentence):
        run_recipe(recipe)
    assert not list((tmp_path / "runs").glob(".store/*/stage.json"))


def test_an_adapter_that_loses_the_positions_is_refused(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftft.methods.adapt.full import Full

    whole = Full.adapt

    def adapt(self: Any, model: Any, calibration: Any) -> Any:
        adapted = whole(self, model, calibration)
        inner = adapted.model.forward
        adapted.model.forward = lambda **given: inner(
            **{name: value for name, value in given.items() if name != "position_ids"}
        )
        return adapted

    monkeypatch.setattr(Full, "adapt", adapt)
    with pytest.raises(UserError, match="^stages.main.train.pack: in one row LlamaForCausalLM does not keep sequences apart"):
        run_recipe(recipe_of(tmp_path, llama, {"main": {"train": {**TRAIN, "pack": True}}}))


def test_a_stage_that_does_not_pack_is_keyed_as_before() -> None:
    assert without_later({"train": {"steps": 2, "end_at": None, "pack": False}}, LATER_IN_STAGE) == {"train": {"steps": 2}}
    assert without_later({"train": {"pack": True}}, LATER_IN_STAGE) == {"train": {"pack": True}}
