"""What a stage with a trainer of TRL cannot have beside it is refused in one sentence before anything is read."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ftft.errors import UserError
from ftft.run import trainer_combinations
from ftft.run.reading import recipe_from_dict, recipe_to_dict

STAGE: dict[str, Any] = {"model": {"stage": "sft"}, "trainer": "dpo", "data": {"path": "pairs.jsonl"}}


def recipe_with(stage: dict[str, Any], **changes: Any) -> Any:
    raw = {
        "task": {"name": "causal_language_modelling"},
        "data": {"train": {"path": "train.jsonl"}},
        "stages": {"sft": {"model": {"path": "model"}, "dynamics": {"mode": "online"}}, "it": {**STAGE, **stage}},
    }
    return recipe_from_dict({**raw, **changes})


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"trainer": "dop"}, 'stages.it.trainer.name: there is no trainer "dop"; did you mean "dpo"?'),
        ({"trainer": {"name": "dpo", "beta": 0}}, "stages.it.trainer.beta: "),
        ({"trainer": {"name": "dpo", "loss": "exo_pair"}}, "stages.it.trainer.label_smoothing must be above 0 for the loss"),
        ({"trainer": None}, "stages.it.data is only for a stage with a trainer"),
        ({"data": None}, "stages.it.data is missing: dpo learns from rows of its own (prompt, chosen and rejected)"),
        (
            {"trainer": "kto", "data": None},
            "stages.it.data is missing: kto learns from rows of its own (prompt, completion",
        ),
        ({"trainer": "grpo"}, "stages.it.trainer.reward: neither it nor task.answer says how answers are compared"),
        ({"data": {"path": "a", "columns": {"inputs": {"prompt": "q"}}}}, "stages.it.data: columns.inputs names prompt; this"),
        ({"data": {"path": "a", "hub": "b"}}, "stages.it.data has path and hub"),
        ({"model": {"stage": "other"}}, 'stages.it.model.stage: there is no earlier stage "other"'),
        ({"model": {"stage": "it"}}, "stages.it.model.stage names the stage itself"),
        ({"model": {"stage": "sft", "path": "model"}}, "stages.it.model has path and stage"),
        ({"model": {"path": None}}, "stages.it.model names no source"),
        ({"objective": {"name": "l2_sp"}}, "stages.it.objective: dpo minimises its own objective; leave l2_sp out"),
        ({"select": {"name": "infobatch"}}, "stages.it.select: infobatch selects by what the engine shows it of data.train"),
        (
            {"select": {"name": "top", "score": "loss", "fraction": 0.5}, "use_dynamics_of": "sft"},
            "stages.it.select: top selects by what the engine shows it of data.train, and dpo is run by TRL; use all or random",
        ),
        (
            {"select": {"name": "random", "fraction": 0.5}, "use_dynamics_of": "sft"},
            "stages.it.use_dynamics_of: dpo learns from all of its rows, or some at random",
        ),
        *(
            (
                {"select": {"name": "random", "fraction": 0.5, "apply": apply}, **trainer},
                f"stages.it.select.apply: {name} takes each row that it learns from once an epoch and weights all alike",
            )
            for apply in ("copies", "weights")
            for name, trainer in (("dpo", {}), ("grpo", {"trainer": {"name": "grpo", "reward": "text"}, "data": None}))
        ),
        ({"adapt": "eva"}, "stages.it.adapt: eva adapts by batches of the engine, or while it trains, and dpo is run by TRL"),
        ({"adapt": "lift"}, "stages.it.adapt: lift adapts"),
        ({"optimize": "sam"}, "stages.it.optimize: sam takes steps that only the engine takes, and dpo is run by TRL; use"),
        ({"optimize": "mezo"}, "stages.it.optimize: mezo takes steps that only the engine takes"),
        ({"optimize": "lisa"}, "stages.it.optimize: lisa takes steps that only the engine takes"),
        ({"combine": "best"}, "stages.it.combine: best combines checkpoints that only the engine measures"),
        ({"combine": "uniform_soup", "use_models_of": ["sft"]}, "stages.it.combine: uniform_soup combines checkpoints"),
        ({"stop": {"patience": 2}}, "stages.it.stop: dpo runs to its planned end"),
        ({"train": {"evaluate_every": 5}}, "stages.it.train.evaluate_every: only the engine does that"),
        ({"train": {"end_at": 0.5}}, "stages.it.train.end_at: only the engine does that"),
        (
            {
                "search": {
                    "trials": 2,
                    "steps": 2,
                    "on": ["validation"],
                    "space": {"optimize.learning_rate": {"low": 1e-5, "high": 1e-3}},
                }
            },
            "stages.it.search: its trials are trained by the engine",
        ),
        (
            {"combine": "emulated_fine_tuning", "other_models": {"target": {"path": "model"}}},
            "stages.it.combine: emulated_fine_tuning combines",
        ),
        ({"train": {"pack": True}}, "stages.it.train.pack: dpo pads its rows; leave pack out"),
        ({"create": "s3ft"}, "stages.it.create: dpo learns from the rows it is given; leave s3ft out"),
        ({"train": {"precision": "fp64"}}, "stages.it.train.precision: TRL's trainers compute in fp32 or bf16"),
        ({"dynamics": {"mode": "epoch_end"}}, "stages.it.dynamics.mode: of dpo dynamics are recorded online only"),
        (
            {"trainer": "kto", "train": {"batch_size": 8, "micro_batch_size": 4}},
            "stages.it.train.micro_batch_size: in kto the loss of an example depends on its batch",
        ),
        ({"trainer": "kto", "train": {"batch_size": 1}}, "stages.it.train.batch_size: kto compares the rows of a batch"),
    ],
)
def test_what_a_trainer_cannot_work_with_is_refused_in_one_sentence(stage: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe_with(stage)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_what_a_trainer_records_selects_for_no_other_stage() -> None:
    model, select = {"path": "model"}, {"name": "top", "score": "loss", "fraction": 0.5}
    stages = {
        "sft": {"model": model},
        "it": {**STAGE, "dynamics": {"mode": "online"}},
        "main": {"model": model, "select": select, "use_dynamics_of": "it"},
    }
    with pytest.raises(UserError, match='stages.main.use_dynamics_of: no score is made of what dpo records in the stage "it"'):
        recipe_with({}, stages=stages)


def test_a_trainer_serves_language_models_only() -> None:
    with pytest.raises(UserError, match="stages.it.trainer: dpo serves the task causal_language_modelling and not"):
        recipe_with({}, task="text_classification")


def test_without_trl_the_recipe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find = trainer_combinations.find_spec
    monkeypatch.setattr(trainer_combinations, "find_spec", lambda name: None if name == "trl" else find(name))
    with pytest.raises(UserError, match=r"stages.it.trainer: dpo is .* trl, which is not installed; install ftft\[trl\]"):
        recipe_with({})


@pytest.mark.parametrize(
    "stage",
    [
        {},
        {"adapt": {"name": "lora", "rank": 4}, "optimize": {"name": "sgd"}, "select": {"name": "random", "fraction": 0.5}},
        {"adapt": "lora", "optimize": "lora_pro", "combine": {"name": "wise_ft"}, "dynamics": {"mode": "online"}},
        {"trainer": {"name": "grpo", "reward": "number"}, "data": None},
        {"trainer": None, "data": None},  # the engine goes on from the other stage's model
    ],
)
def test_what_goes_together_is_a_recipe_that_reads_back_equal(stage: dict[str, Any]) -> None:
    recipe = recipe_with(stage)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_reading_a_recipe_with_a_trainer_imports_neither_torch_nor_trl() -> None:
    code = (
        "import sys; from ftft.run.reading import recipe_from_dict\n"
        f"recipe_from_dict({{'task': 'causal_language_modelling', 'data': {{'train': {{'path': 'a'}}}}, "
        f"'stages': {{'sft': {{'model': {{'path': 'model'}}}}, 'it': {STAGE!r}}}}})\n"
        "assert not {'torch', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
