"""SFT then DPO through the command line, killed with SIGKILL in the middle of DPO and run again: the model is that of an
undisturbed run, and transformers loads it where this package is not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl")
pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.processes]

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
DEADLINE = 400.0  # seconds
NUMBERS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
]

# `ftft run` in this process, which kills itself after the fourth step of the stage dpo.
KILLED = """
import os, signal, sys
from ftft.run.reading import load_recipe
from ftft.run.runner import run_recipe

def kill(event):
    if event["event"] == "step" and event["stage"] == "dpo" and event["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)

run_recipe(load_recipe(sys.argv[1]), notify=kill)
"""

LOADED = """
import json, sys
sys.modules["ftft"] = None  # importing it would fail
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
total, tokens = 0.0, 0
for line in open(sys.argv[2]):
    row = json.loads(line)
    prompt, answer = (tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "completion"))
    answer = [*answer, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
    tokens += len(answer)
print(total / tokens)
"""


def write_job(folder: Path, model: Path) -> Path:
    """Sums of numbers in words, pairs of a right and a wrong sum, and the recipe: SFT, then DPO of a low-rank update."""
    folder.mkdir()
    shutil.copytree(model, folder / "model")
    sums = [(one, other) for one in range(8) for other in range(8)]
    random.Random(0).shuffle(sums)
    rows = [(f"{NUMBERS[one]} and {NUMBERS[other]}", NUMBERS[one + other + 1]) for one, other in sums]
    sets = {"train": rows[:32], "validation": rows[32:40], "test": rows[40:48]}
    for name, chosen in sets.items():
        lines = [json.dumps({"prompt": prompt, "completion": right}) for prompt, right in chosen]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    pairs = [{"prompt": prompt, "chosen": right, "rejected": NUMBERS[0]} for prompt, right in rows[48:]]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in pairs))
    train = {"batch_size": 8, "precision": "fp32", "checkpoint_seconds": 1e-9}
    usual = {"optimize": {"name": "adamw", "learning_rate": 3e-3}, "evaluate": {"name": "language_modelling", "resamples": 20}}
    recipe = {
        "task": {"name": "causal_language_modelling", "max_length": 32},
        "data": {
            "train": {"path": "train.jsonl"},
            "evaluation": {
                "validation": {"path": "validation.jsonl", "role": "id", "split": "validation"},
                "test": {"path": "test.jsonl", "role": "id"},
            },
        },
        "baseline": "sft",
        "stages": {
            "sft": {**usual, "model": {"path": "model"}, "train": {**train, "steps": 6}},
            "dpo": {
                **usual,
                "model": {"stage": "sft"},
                "trainer": "dpo",
                "data": {"path": "pairs.jsonl"},
                "adapt": {"name": "lora", "rank": 2},
                "dynamics": {"mode": "online"},
                "train": {**train, "epochs": 4},
            },
        },
    }
    path = folder / "sums.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, timeout=DEADLINE, capture_output=True, text=True
    )


def test_a_killed_run_ends_as_an_undisturbed_one_and_its_model_loads_alone(
    command_server: Any, tmp_path: Path, tiny_llama_folder: Path
) -> None:
    def run(job: Path, **more: Any) -> tuple[int, str]:
        arguments = [job.name] if more else ["run", job.name]
        return command_server.start(job.parent, *arguments, modules=["trl.trainer.dpo_trainer", "peft"], **more).wait()

    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    undisturbed, killed = (write_job(tmp_path / name, tiny_llama_folder) for name in ("undisturbed", "killed"))
    assert run(undisturbed)[0] == 0
    assert run(killed, script=str(script))[0] == -9
    code, said = run(killed)
    assert code == 0, said
    folders = [path.parent / "runs" / "sums" for path in (undisturbed, killed)]
    one, other = (json.loads((folder / "result.json").read_text())["stages"] for folder in folders)
    assert other["sft"]["reused"] and len(other["dpo"]["training"]["losses"]) == 8
    for name in ("model/model.safetensors", "stages/dpo/dynamics.parquet"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert one["dpo"]["training"]["losses"] == other["dpo"]["training"]["losses"]
    assert other["dpo"]["ledger"]["effective"]["training"]["steps"] == 8 and other["dpo"]["resume_differences"] == []
    loaded = run_alone(tmp_path, "-c", LOADED, str(folders[1] / "model"), str(killed.parent / "test.jsonl"))
    assert float(loaded.stdout) == pytest.approx(other["dpo"]["evaluation"]["test"]["metrics"]["loss"]["value"], abs=1e-5)
