"""Training dynamics from checkpoints that a run has left: forward passes only, one epoch of the table per checkpoint."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftft.bridges.forward import Cost
from ftft.bridges.outputs import STATISTICS, sequence_statistics
from ftft.bridges.saved_models import SavedModel, open_saved
from ftft.bridges.texts import PreparedTexts, count_longer, prepare_texts
from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import sha256_file
from ftft.models.folder import TOKENIZER_FILES
from ftft.tasks.text_classification import TextClassification

STEP = re.compile(r"-(\d+)$")
LONGEST = 512  # tokens, where neither the caller, the tokenizer nor the model says how long a text may be
UNLIMITED = 10**9


def dynamics_from_checkpoints(
    checkpoints: Sequence[Path | str],
    examples: Examples,
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    max_classes: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Dynamics:
    """What each checkpoint says about every one of N ``examples``, in evaluation mode and float32.

    ``checkpoints``: folders that a ``transformers.Trainer``, peft or TRL run saved; sorted by their step they become the
    epochs 0..E-1. Classifiers read the inputs ``text`` (and ``text_pair``) and give logits; causal language models read
    ``prompt`` and ``completion`` (or ``text``) and give the statistics of ``outputs.py`` over the completion (the text).
    ``max_length``: tokens per example, by default all that the model has positions for: give what training used, which the
    checkpoints do not tell. ``progress`` is told the number of examples done and of all (E x N). The metadata hold the
    ``steps``, the ``max_length`` and how many texts were ``cut`` there, the ``cost`` (seconds with loading, examples, tokens
    without padding, counted forward FLOPs) and the data's fingerprint.

    Raises UserError for a folder that is no checkpoint or whose step is unknown, for weights that are not safetensors,
    and for models that do not fit the data.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    if len(examples) == 0:
        raise UserError("there are no examples to compute the dynamics of")
    ordered = sort_by_step(checkpoints)
    started, cost = time.perf_counter(), Cost()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    buffer: DynamicsBuffer | None = None
    architectures, prepared, tokenized_by = [], None, None
    for epoch, (_, folder) in enumerate(ordered):
        saved = open_saved(folder, examples.label_names)
        architectures.append(saved.architecture)
        if buffer is None:
            buffer = _new_buffer(saved, examples, max_classes)
        elif (buffer.num_classes is None) != (saved.kind == "language_model"):
            raise UserError(
                f"{folder} holds a {saved.kind.replace('_', ' ')} and the others do not; give the checkpoints of one run"
            )
        tokenizer = _tokenizer_hash(saved.tokenizer_folder)
        if prepared is None or tokenizer != tokenized_by:
            prepared, tokenized_by = _prepare(saved, examples, max_length), tokenizer
        done = epoch * len(examples)
        tell = None if progress is None else partial(_tell, progress, done, len(ordered) * len(examples))
        _one_checkpoint(saved, prepared, epoch, buffer, batch_size=batch_size, device=device, cost=cost, tell=tell)
    assert buffer is not None and prepared is not None
    cost.seconds = time.perf_counter() - started
    table = buffer.dynamics()
    table.metadata |= {
        "source": "checkpoints",
        "model": architectures[-1],
        "steps": [step for step, _ in ordered],
        "checkpoints": [folder.name for _, folder in ordered],
        "cost": cost.as_dict(),
        "data_fingerprint": examples.fingerprint,
        "max_length": prepared.max_length,
        "cut": prepared.cut,
    }
    if buffer.num_classes is not None:
        table.metadata["label_names"] = list(examples.label_names)
    return table


def sort_by_step(checkpoints: Sequence[Path | str]) -> list[tuple[int, Path]]:
    """(step, folder) by step, which the Trainer's state or else the folder's name (``...-<step>``) tells."""
    folders = [Path(path) for path in checkpoints]
    if not folders:
        raise UserError("no checkpoints were given; name at least one folder that a training run saved")
    steps: dict[int, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"the checkpoint {folder} {'is a file, not' if folder.exists() else 'does not exist; give'} a folder"
            )
        step = _step(folder)
        if step in steps:
            raise UserError(f"{steps[step]} and {folder} are both of step {step}; give each checkpoint of one run once")
        steps[step] = folder
    return sorted(steps.items())


def _step(folder: Path) -> int:
    state = folder / "trainer_state.json"
    if state.is_file():
        try:
            return int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
        except (ValueError, KeyError, TypeError, OSError):
            raise UserError(f"{state} is damaged: it holds no global_step; leave this checkpoint out") from None
    named = STEP.search(folder.name)
    if named is None:
        raise UserError(f"the step of the checkpoint {folder} is unknown; name the folder checkpoint-<step>")
    return int(named[1])


def _tokenizer_hash(folder: Path) -> tuple[str, ...]:
    return tuple(sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file())


def _new_buffer(saved: SavedModel, examples: Examples, max_classes: int) -> DynamicsBuffer:
    if saved.kind == "language_model":
        return DynamicsBuffer(examples.ids, None, statistics=STATISTICS)
    return DynamicsBuffer(examples.ids, examples.labels, num_classes=len(examples.label_names), max_classes=max_classes)


def _prepare(saved: SavedModel, examples: Examples, max_length: int | None) -> PreparedTexts:
    """Tokenised examples, for either kind."""
    positions = getattr(saved.model.config, "max_position_embeddings", None)
    limits = [saved.tokenizer.model_max_length, positions if isinstance(positions, int) and positions > 0 else UNLIMITED]
    longest = min(limits) if min(limits) < UNLIMITED else LONGEST
    length = longest if max_length is None else max_length
    special = saved.tokenizer.num_special_tokens_to_add(pair="text_pair" in examples.inputs)
    if length > min(limits) or length <= special:
        raise UserError(
            f"max_length is {length}; give more than the {special} special tokens of a text and at most the {longest} tokens "
            "that the model has positions for"
        )
    if saved.kind == "language_model":
        return prepare_texts(examples, saved.tokenizer, length)
    if "text" not in examples.inputs:
        raise UserError("a classifier's examples need the input text; these have " + ", ".join(sorted(examples.inputs)))
    task = TextClassification(max_length=length)
    prepared = task.prepare(examples, saved.tokenizer)
    cut = count_longer(examples, saved.tokenizer, prepared.lengths, length)
    return PreparedTexts(prepared.lengths, length, cut, lambda rows: dict(task.collate(prepared, rows).inputs))


def _one_checkpoint(
    saved: SavedModel,
    prepared: PreparedTexts,
    epoch: int,
    buffer: DynamicsBuffer,
    *,
    batch_size: int,
    device: torch.device,
    cost: Cost,
    tell: Callable[[int], None] | None,
) -> None:
    """Forward passes over all examples, in batches of similar length."""
    model = saved.model.to(device)
    cost.shapes.clear()  # another checkpoint may hold another model
    order = np.argsort(-prepared.lengths.astype(np.int64), kind="stable")
    done = 0
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = {name: value.to(device) for name, value in prepared.batch(rows).items()}
            labels = inputs.pop("labels", None)
            logits = cost.counted(inputs, partial(model, **inputs)).logits
            cost.count_batch(inputs, len(rows))
            if labels is None:
                buffer.observe(epoch, rows, {"logits": logits[:, list(saved.columns)].float().cpu().numpy()})
            else:
                seen = sequence_statistics(logits, labels, shifts=True)
                kept = seen.counted.cpu().numpy()
                buffer.observe(epoch, rows[kept], {name: value.cpu().numpy()[kept] for name, value in seen.values.items()})
            done += len(rows)
            if tell is not None:
                tell(done)
    buffer.start_epoch(epoch)


def _tell(progress: Callable[[int, int], None], before: int, total: int, done: int) -> Any:
    progress(before + done, total)
