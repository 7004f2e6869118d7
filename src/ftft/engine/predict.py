"""Evaluation-mode outputs of a model over a set of examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ftft.engine.flops import FlopCounter
from ftft.engine.precision import Precision, autocast
from ftft.tasks.contract import Batch, Prepared, Task


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on ``device``; ids stay where they are."""
    if device.type == "cpu":
        return batch
    return Batch(
        ids=batch.ids,
        rows=batch.rows,
        labels=batch.labels.to(device, non_blocking=True),
        weights=batch.weights.to(device, non_blocking=True),
        inputs={name: value.to(device, non_blocking=True) for name, value in batch.inputs.items()},
    )


def predict_batches(
    model: torch.nn.Module,
    task: Task,
    data: Prepared,
    *,
    rows: np.ndarray | None = None,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | None = None,
    flops: FlopCounter | None = None,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Evaluation-mode outputs of the examples at ``rows`` (all by default), in batches of similar length.

    Dropout is off and no random number is drawn, so a training run continues as if this had not happened.
    """
    device = device or next(model.parameters()).device
    rows = np.arange(len(data)) if rows is None else rows
    order = rows[np.argsort(data.lengths[rows], kind="stable")]
    was_training = model.training
    model.eval()
    counter = flops or FlopCounter()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = to_device(task.collate(data, order[start : start + batch_size]), device)
                size, length = batch.inputs["input_ids"].shape
                with counter.count("predict", size, length), autocast(precision, device):
                    outputs = task.forward(model, batch)
                yield batch, outputs
    finally:
        model.train(was_training)


def predict(
    model: torch.nn.Module,
    task: Task,
    data: Prepared,
    *,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | None = None,
    flops: FlopCounter | None = None,
) -> np.ndarray:
    """Probabilities of every example in the data's own order, float32 [N, C]."""
    result: np.ndarray | None = None
    batches = predict_batches(model, task, data, batch_size=batch_size, precision=precision, device=device, flops=flops)
    for batch, outputs in batches:
        probabilities = task.probabilities(outputs).numpy()
        if result is None:
            result = np.zeros((len(data), probabilities.shape[1]), dtype=np.float32)
        result[batch.rows.cpu().numpy()] = probabilities
    assert result is not None, "there is nothing to predict"
    return result
