"""Evaluation-mode outputs of a model over a set of examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ftft.engine.flops import FlopCounter
from ftft.engine.precision import Precision, autocast
from ftft.engine.processes import ALONE, Processes
from ftft.state.shards import in_shards
from ftft.tasks.contract import Batch, Prepared, Task, written_by


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
        extra={name: value.to(device, non_blocking=True) for name, value in batch.extra.items()},
    )


def padded_lengths(task: Task, prepared: Prepared) -> np.ndarray:
    """How many tokens wide a batch is whose longest example is this one, for every example: int32 [N]."""
    distinct, first, of = np.unique(prepared.lengths, return_index=True, return_inverse=True)
    widths = [task.collate(prepared, first[index : index + 1]).shape[1] for index in range(len(distinct))]
    return np.array(widths, dtype=np.int32)[of.reshape(-1)]


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
    processes: Processes = ALONE,
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Evaluation-mode outputs of the examples at ``rows`` (all by default), in batches of similar length.

    Dropout is off and no random number is drawn, so a training run continues as if this had not happened. With several
    ``processes`` each one gets its share of the very batches that one process would get. Of a model in shards all of them must
    take all they get: one that has no batch left computes along with the others, for its shards.
    """
    device = device or next(model.parameters()).device
    rows = np.arange(len(data)) if rows is None else rows
    order = rows[np.argsort(data.lengths[rows], kind="stable")]
    was_training = model.training
    model.eval()
    counter = flops or FlopCounter()
    together = in_shards(model)
    try:
        with torch.no_grad():
            for start in range(processes.index * batch_size, len(order), processes.count * batch_size):
                batch = to_device(task.collate(data, order[start : start + batch_size]), device)
                size, length = batch.shape
                with counter.count("predict", size, length), autocast(precision, device):
                    outputs = task.forward(model, batch)
                yield batch, outputs
            left_over = -(-len(order) // batch_size) % processes.count
            if together and 0 < left_over <= processes.index:
                with autocast(precision, device):
                    task.forward(model, to_device(task.collate(data, order[:1]), device))
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
    processes: Processes = ALONE,
) -> np.ndarray:
    """What the task predicts of every example (of a classifier: probabilities), in the data's own order, float32 [N, K].

    Several ``processes`` share the batches, and all get the whole; ``flops`` counts this process' share.
    """
    counter = flops or FlopCounter()
    batches = predict_batches(
        model, task, data, batch_size=batch_size, precision=precision, device=device, flops=counter, processes=processes
    )
    own = []
    for batch, outputs in batches:
        values = task.predictions(outputs, batch)
        with autocast(precision, batch.labels.device):
            more = written_by(task, model, data, batch, counter.count)
        own.append((batch.rows.cpu().numpy(), (values if more is None else torch.cat([values, more], dim=1)).numpy()))
    parts = [part for theirs in processes.gather(own) for part in theirs]
    assert parts, "there is nothing to predict"
    result = np.zeros((len(data), parts[0][1].shape[1]), dtype=np.float32)
    for rows, predictions in parts:
        result[rows] = predictions
    return result
