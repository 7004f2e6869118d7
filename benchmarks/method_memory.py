"""What methods that promise to save memory really take, as ratios to full fine-tuning with AdamW in one run of this script.

    python benchmarks/method_memory.py [--steps 3] [--out FILE]

MiniLM on batches of 32 examples of 64 tokens, each row in a fresh process. ``optimizer_state``: bytes of all tensors the
optimizer keeps. ``gradients``: bytes of all gradients at their largest. ``saved_activations``: bytes a forward pass keeps for
the backward one, parameters not counted. ``peak_over_model``: the process' peak resident memory beyond what it was with the
model loaded; for MeZO also against a forward pass without gradients, which is what its paper promises to stay at.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from typing import Any

import common
import numpy as np
import torch

from ftft.engine.assembly import assemble
from ftft.engine.calibrating import CountedCalibration
from ftft.engine.ledger import Ledger
from ftft.methods import registry
from ftft.tasks.text_classification import TextClassification

TOKENS, BATCH = 64, 32
ROWS: dict[str, dict[str, Any]] = {
    "full": {"optimize": "adamw"},
    "inference": {},
    "mezo": {"optimize": "mezo"},
    "lisa": {"optimize": {"name": "lisa", "layers": 2}},
    "lift": {"adapt": "lift", "optimize": "adamw"},
    "s2ft": {"adapt": "s2ft", "optimize": "adamw"},
    "lora": {"adapt": "lora", "optimize": "adamw"},
}


def measure(row: str, size: str, steps: int) -> dict[str, int]:
    """The bytes of one row, in this process."""
    subject = common.subject(size)
    length = TOKENS if size == "minilm" else 16
    task = TextClassification(max_length=length)
    data = task.prepare(common.sentence_pairs(steps * BATCH, subject.tokenizer, words=length), subject.tokenizer)
    batches = [task.collate(data, np.arange(start, start + BATCH)) for start in range(0, steps * BATCH, BATCH)]
    torch.set_num_threads(1)
    with torch.no_grad():
        task.forward(subject.model.eval(), replace_first(batches[0]))  # what the libraries take once
    loaded = peak()
    if row == "inference":
        with torch.no_grad():
            for batch in batches:
                task.forward(subject.model, batch)
        return {"optimizer_state": 0, "gradients": 0, "saved_activations": 0, "peak_over_model": peak() - loaded}
    parts = ROWS[row]
    calibration = CountedCalibration(task, data, np.arange(len(data)), 0, Ledger())
    methods = [
        registry.build(question, parts.get(question, default), question)
        for question, default in (("adapt", "full"), ("objective", "cross_entropy"), ("optimize", "adamw"))
    ]
    made = assemble(subject.model, *methods, calibration)
    loss_of = methods[1].start(made.models, task)
    found = {"gradients": 0, "saved_activations": 0}

    def closure_of(batch: Any) -> Any:
        def closure() -> float:
            made.optimizer.zero_grad(set_to_none=True)
            saved = Saved(made.adapted.model)
            with saved:
                loss = loss_of(batch)
            if torch.is_grad_enabled():
                (loss.total / float((batch.weights * task.units(batch)).sum())).backward()
            gradients = sum(size_of(p.grad) for p in made.adapted.model.parameters() if p.grad is not None)
            found["gradients"] = max(found["gradients"], gradients)
            found["saved_activations"] = max(found["saved_activations"], saved.bytes)
            return float(loss.total.detach())

        return closure

    for step, batch in enumerate(batches):
        made.adapted.model.train()
        for hook in made.before_step:
            hook(step, steps, made.optimizer)
        closure = closure_of(batch)
        if getattr(made.optimizer, "needs_closure", False):
            made.optimizer.step(closure)
        else:
            closure()
            made.optimizer.step()
    state = sum(size_of(v) for one in made.optimizer.state.values() for v in one.values() if isinstance(v, torch.Tensor))
    return {"optimizer_state": state, **found, "peak_over_model": peak() - loaded}


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of what a forward pass keeps, each storage once, those of parameters and buffers not at all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.bytes = 0
        self._known = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def replace_first(batch: Any) -> Any:
    """The first example of a batch alone."""
    return replace(batch, ids=batch.ids[:1], inputs={name: value[:1] for name, value in batch.inputs.items()})


def size_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def peak() -> int:
    """The peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_a_process(row: str, arguments: Namespace) -> dict[str, int]:
    command = [sys.executable, __file__, "--row", row, "--steps", str(arguments.steps)]
    done = subprocess.run(command + ["--smoke"] * arguments.smoke, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = common.parser(__doc__ or "", pairs=1, steps=3)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    job = common.job_of(arguments)
    if arguments.row:
        print(json.dumps(measure(arguments.row, job.size, arguments.steps)))
        return
    rows = {row: in_a_process(row, arguments) for row in ROWS}
    full, inference = rows["full"], rows["inference"]
    ratios = {
        row: {name: round(value / full[name], 4) if full[name] else None for name, value in found.items()}
        for row, found in rows.items()
    }
    against = round(rows["mezo"]["peak_over_model"] / max(1, inference["peak_over_model"]), 3)
    results = {"bytes": rows, "ratio_to_full": ratios, "mezo_peak_over_inference": against}
    common.report("method_memory", arguments, replace(job, batch_size=BATCH, steps=arguments.steps), results)


if __name__ == "__main__":
    main()
