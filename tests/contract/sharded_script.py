"""Started in two processes: short trainings with the model in shards, one for each method named; what they came to is left in a
folder for test_sharded.py."""

from __future__ import annotations

import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from contract_trial import Trial
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftft.engine.processes import Processes, processes_of
from ftft.state.shards import in_shards, own_part


def tried(folders: dict[str, str], asked: dict[str, Any], processes: Processes, *, sharded: bool) -> Trial:
    """A trial of the methods asked for, on the models in ``folders`` (architecture -> folder)."""

    def model(architecture: str, **changes: Any) -> torch.nn.Module:
        return AutoModelForSequenceClassification.from_pretrained(folders[architecture], **changes).eval()

    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    given = {"kind": asked["kind"], "processes": processes, "sharded": sharded}
    return Trial(model, tokenizer, asked["parts"], asked["rate"], **given)


def shares(parameters: list[torch.nn.Parameter]) -> list[float]:
    """Of each parameter what part of its numbers this process holds."""
    return [own_part(parameter).numel() / parameter.numel() for parameter in parameters]


def main(out: Path) -> None:
    processes = processes_of(Accelerator(cpu=True))
    given = json.loads((out / "asked.json").read_text())
    for name, asked in given["trials"].items():
        said: dict[str, Any] = {}
        try:
            trial = tried(given["folders"], asked, processes, sharded=True)
            trained = trial.train(asked["steps"])
            adapted, shards = trained.assembled.adapted, trained.assembled.shards
            assert shards is not None and in_shards(adapted.model)
            said["shares"] = shares(list(adapted.model.parameters()))
            shards.leave()
            said["losses"] = trained.losses
            if processes.is_first:
                said["logits"] = trial.logits(adapted.model).tolist()  # alone: nothing of the others is needed any more
                save_file({key: value.contiguous() for key, value in adapted.merged().items()}, out / f"{name}.safetensors")
        except Exception:
            said["error"] = traceback.format_exc()
        # One that failed in one process alone leaves the other waiting in its next step: both stop together, or here.
        failed = processes.gather("error" in said)
        (out / f"{name}-{processes.index}.json").write_text(json.dumps(said))
        if any(failed) and not all(failed):
            break
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
