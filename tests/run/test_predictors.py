"""A stage may leave several models that answer together: what is saved, what they say, what it costs, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import ftft
from ftft.errors import UserError
from ftft.methods.predictors import is_predictor, load_finished
from ftft.models.loading import load_saved
from ftft.nn.emulation import EmulatedModel, emulated
from ftft.report.terminal import print_result
from ftft.report.writing import write_report
from ftft.run.checking import check_models_and_data
from ftft.run.evaluating_saved import evaluate_saved
from ftft.run.reading import recipe_from_dict, recipe_to_dict
from ftft.run.recipe import LATER_IN_STAGE, without_later
from ftft.run.runner import read_result, run_recipe
from ftft.run.verifying import verify_run

KIND = "causal_language_model"
WORDS = ["good", "great", "happy", "bad", "terrible", "boring", "film", "movie", "plot", "food"]
EFT = {"name": "emulated_fine_tuning"}


@pytest.fixture(scope="module")
def folders(tiny_config: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random language models with one tokenizer: a small one and a large one, and another large one whose tokenizer numbers two
    words the other way round."""
    from transformers import GPT2LMHeadModel, LlamaForCausalLM

    made = {}
    for seed, (name, kind, config) in enumerate(
        [
            ("small", LlamaForCausalLM, tiny_config("llama", num_hidden_layers=1)),
            ("large", GPT2LMHeadModel, tiny_config("gpt2", n_embd=24, n_head=3)),
        ]
    ):
        folder = made[name] = tmp_path_factory.mktemp(name) / name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        tokenizer = folder / "tokenizer_config.json"
        tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "eos_token": "[SEP]"}))
    made["foreign"] = tmp_path_factory.mktemp("foreign") / "foreign"
    shutil.copytree(made["large"], made["foreign"])
    path = made["foreign"] / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(document))
    return made


def recipe_of(folder: Path, folders: dict[str, Path], stages: dict[str, Any], **changes: Any) -> Any:
    sets = {}
    for name, size in (("train", 32), ("validation", 8), ("test", 12), ("ood", 8)):
        path = folder / f"{name}.jsonl"
        rows = []
        for row in range(size):
            one, other = WORDS[row % 10], WORDS[(3 * row + len(name)) % 10]
            rows.append({"id": f"{name}-{row}", "prompt": f"the {one} {other}", "completion": f"{other} {one}"})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[name] = {"path": str(path)}
    evaluation = {
        "validation": {**sets["validation"], "role": "id", "split": "validation"},
        "test": {**sets["test"], "role": "id"},
        "ood": {**sets["ood"], "role": "ood"},
    }
    usual = {
        "model": {"path": str(folders["small"])},
        "train": {"steps": 6, "batch_size": 8, "precision": "fp32"},
        "optimize": {"name": "adamw", "learning_rate": 1e-2},
        "evaluate": {"name": "language_modelling", "resamples": 20},
    }
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 32, "answer": "text", "answer_tokens": 4},
        "data": {"train": sets["train"], "columns": {"id": "id"}, "evaluation": evaluation},
        "stages": {name: {**usual, **stage} for name, stage in stages.items()},
        "output": str(folder / "runs"),
    }
    return recipe_from_dict({**raw, **changes}, default_name="tiny")


def emulating(folders: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {"combine": EFT, "other_models": {"target": {"path": str(folders["large"])}}, **changes}


def test_an_emulated_large_model_is_saved_measured_paid_for_and_loads(tmp_path: Path, folders: dict[str, Path]) -> None:
    stages = {"sft": {}, "eft": emulating(folders)}
    recipe = recipe_of(tmp_path, folders, stages, baseline="sft", main="eft")
    lines = list(check_models_and_data(recipe))
    assert any(line.startswith("stage eft, target: GPT2LMHeadModel, 3 layers") for line in lines)
    folder = run_recipe(recipe)
    result = read_result(folder)
    model, tokenizer = ftft.load(folder / "model")
    assert isinstance(model, EmulatedModel) and not model.training
    assert is_predictor(folder / "model") and not is_predictor(folders["large"])

    # its parts are the pretrained models as they were, and what the same training left in the other stage
    parts = {name: load_saved(folder / "model" / name, KIND)[0] for name in ("target", "base", "tuned")}
    key = result["stages"]["sft"]["key"][:20]
    expected = {
        "target": load_saved(folders["large"], KIND)[0],
        "base": load_saved(folders["small"], KIND)[0],
        "tuned": load_saved(folder.parent / ".store" / key / "model", KIND)[0],
    }
    for name, part in parts.items():
        for weight, value in expected[name].state_dict().items():
            assert torch.equal(part.state_dict()[weight], value), (name, weight)
    assert not torch.equal(parts["base"].lm_head.weight, parts["tuned"].lm_head.weight)

    # the figures are those of the three together
    first = json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])
    prompt = tokenizer(first["prompt"], add_special_tokens=False)["input_ids"]
    tokens = [*prompt, *tokenizer(first["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    given = torch.tensor([tokenizer("a")["input_ids"][:1] * (tokenizer.bos_token_id is not None) + tokens])
    with torch.no_grad():
        said = {name: part(input_ids=given[:, :-1]).logits[0] for name, part in parts.items()}
    log_p = emulated(said["target"], [said["tuned"]], said["base"], [1.0])
    mean = float(log_p.gather(1, given[0, 1:, None])[len(given[0]) - len(tokens) + len(prompt) - 1 :].mean())
    table = pq.read_table(folder / "stages" / "eft" / "predictions" / "test.parquet")
    assert table["id"][0].as_py() == "test-0"
    assert table["mean_log_probability"][0].as_py() == pytest.approx(mean, abs=1e-5)
    assert result["stages"]["eft"]["evaluation"]["test"]["metrics"]["exact_match"]["value"] is not None

    # and so is the price of asking them: more than three small models' would be
    books = {name: result["stages"][name]["reporting_ledger"]["effective"]["evaluation"] for name in stages}
    assert books["eft"]["flops"] > 3 * books["sft"]["flops"]
    assert result["stages"]["eft"]["parameters"] == sum(p.numel() for part in parts.values() for p in part.parameters())
    assert result["stages"]["eft"]["artefact"] == {"kind": "predictor", "step": 6}
    print_result(result, Console(file=io.StringIO()))
    write_report(folder)
    assert "ftft.load" in (folder / "model" / "README.md").read_text(encoding="utf-8")
    again = read_result(run_recipe(recipe))
    assert all(stage["reused"] for stage in again["stages"].values())
    assert [one.mismatch for one in verify_run(folder)] == [None, None]
    measured = evaluate_saved(folder / "model", recipe)
    then = result["stages"]["eft"]["evaluation"]["ood"]["metrics"]["loss"]["value"]
    assert measured["ood"]["metrics"]["loss"]["value"] == pytest.approx(then, abs=1e-6)


def test_two_fine_tunes_are_mixed(tmp_path: Path, folders: dict[str, Path]) -> None:
    other = {"optimize": {"name": "adamw", "learning_rate": 3e-2}}
    eft = emulating(folders, use_models_of=["other"], combine={**EFT, "shares": [0.0, 1.0]})
    alone = emulating(folders, optimize=other["optimize"])
    folder = run_recipe(recipe_of(tmp_path, folders, {"other": other, "eft": eft, "alone": alone}, main="eft"))
    result = read_result(folder)
    mixed, single = (result["stages"][name]["evaluation"]["test"]["metrics"]["loss"]["value"] for name in ("eft", "alone"))
    assert mixed == pytest.approx(single, abs=1e-6)
    assert sorted(path.name for path in (folder / "model").iterdir() if path.is_dir()) == ["base", "target", "tuned", "tuned_2"]
    assert result["stages"]["eft"]["cost"]["uses"] == ["other"]


def test_another_target_is_another_stage(tmp_path: Path, folders: dict[str, Path]) -> None:
    down = emulating(folders, model={"path": str(folders["large"])}, other_models={"target": {"path": str(folders["small"])}})
    folder = run_recipe(recipe_of(tmp_path, folders, {"eft": emulating(folders), "down": down}, main="down"))
    stages = read_result(folder)["stages"]
    assert stages["eft"]["key"] != stages["down"]["key"]
    cut = emulating(folders, other_models={"target": {"path": str(folders["large"]), "keep_layers": 2}})
    folder = run_recipe(recipe_of(tmp_path, folders, {"eft": cut}))
    assert read_result(folder)["stages"]["eft"]["key"] != stages["eft"]["key"]
    model, _ = load_finished(folder / "model", KIND)
    assert len(model.target.transformer.h) == 2


def test_a_model_with_another_tokenizer_is_refused_before_anything_is_trained(tmp_path: Path, folders: dict[str, Path]) -> None:
    foreign = emulating(folders, other_models={"target": {"path": str(folders["foreign"])}})
    recipe = recipe_of(tmp_path, folders, {"eft": foreign})
    sentence = r"other_models.target: the models model and target have different tokenizers \(.*'bad' is not the same"
    with pytest.raises(UserError, match=sentence):
        list(check_models_and_data(recipe))
    with pytest.raises(UserError, match=sentence):
        run_recipe(recipe)
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"other_models": {}}, "stages.eft.combine: emulated_fine_tuning needs another pretrained model as its target"),
        ({"combine": "last"}, 'stages.eft.other_models: no method of the stage has the role "target" for a model; leave'),
        ({"other_models": {"targt": {"path": "x"}}}, 'has the role "targt" for a model; did you mean "target"?'),
        ({"other_models": {"target": {}}}, "stages.eft.other_models.target names no source"),
        ({"evaluate": ["intruder_dimensions"]}, "intruder_dimensions looks at the model's weights"),
    ],
    ids=["no target", "no role", "misspelt", "no source", "weights"],
)
def test_what_cannot_be_is_refused_by_check(
    changes: dict[str, Any], expected: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(UserError) as caught:
        recipe_of(tmp_path, folders, {"eft": emulating(folders, **changes)})
    assert expected in str(caught.value)


def test_nothing_takes_the_weights_of_a_stage_that_leaves_several_models(tmp_path: Path, folders: dict[str, Path]) -> None:
    soup = {"combine": "uniform_soup", "use_models_of": ["eft"]}
    with pytest.raises(UserError, match='use_models_of: the stage "eft" leaves several models that answer together'):
        recipe_of(tmp_path, folders, {"eft": emulating(folders), "soup": soup})


def test_a_recipe_keeps_its_other_models_and_a_stage_without_them_its_key(tmp_path: Path, folders: dict[str, Path]) -> None:
    recipe = recipe_of(tmp_path, folders, {"eft": emulating(folders)})
    assert recipe_from_dict(recipe_to_dict(recipe), default_name="x") == recipe
    assert without_later({"other_models": {}, "seed": 1}, LATER_IN_STAGE) == {"seed": 1}
    assert without_later({"other_models": {"target": {"path": "x"}}}, LATER_IN_STAGE) == {
        "other_models": {"target": {"path": "x"}}
    }


def test_one_model_loads_by_the_class_that_its_config_names(
    folders: dict[str, Path], tiny_bert_folder: Path, tmp_path: Path
) -> None:
    for name in ("small", "large"):
        model, tokenizer = ftft.load(folders[name])
        assert type(model) is type(load_saved(folders[name], KIND)[0]) and tokenizer is not None
    broken = tmp_path / "broken"
    shutil.copytree(folders["small"], broken)
    config = broken / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["T5ForConditionalGeneration"]}))
    with pytest.raises(UserError, match="no task here for a model of the class T5ForConditionalGeneration"):
        ftft.load(broken)


def test_probabilities_of_a_predictor_are_of_three_models_in_any_batch(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Prompts of other lengths beside it change nothing of what is said of a row."""
    recipe = recipe_of(tmp_path, folders, {"eft": emulating(folders)})
    folder = run_recipe(recipe)
    model, _ = ftft.load(folder / "model")
    tokens = torch.randint(5, 30, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        both = model(input_ids=tokens, attention_mask=mask).logits
        alone = model(input_ids=tokens[1:, :3]).logits
    np.testing.assert_allclose(both[1, :3].numpy(), alone[0].numpy(), rtol=0, atol=1e-5)
