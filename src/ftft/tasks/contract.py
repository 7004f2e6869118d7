"""What a task is: how rows become batches, what the model says about them, and what the dynamics keep of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from ftft.data.inputs import TaskInputs

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples
    from ftft.tasks.metrics import Values


@dataclass
class Batch:
    """One micro-batch: ``ids`` (B strings), ``rows`` (int64 [B], positions in the training examples), ``labels``
    (int64 [B]), ``weights`` (float32 [B]), the model's ``inputs`` (``input_ids`` int64 [B, L], ...), and ``extra``, tensors
    that the task keeps for itself (the targets of every token)."""

    ids: Sequence[str]
    rows: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    inputs: dict[str, torch.Tensor]
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, and numbers per example in the first of the inputs (tokens of the padded length): batches of one shape
        cost the same."""
        first = next(iter(self.inputs.values()))
        return len(self.ids), first[0].numel()


@dataclass
class UnitLogits:
    """What the model says of every unit of a batch: ``logits`` [U, V] with gradient, ``targets`` int64 [U], and the position
    in the batch of the ``example`` that each unit belongs to, int64 [U]. In classification a unit is an example, in language
    modelling a target token."""

    logits: torch.Tensor
    targets: torch.Tensor
    example: torch.Tensor


@dataclass(frozen=True)
class Quantities:
    """What a task's numbers are called. ``predictions``: the K columns of ``predictions``; none where they are the
    probabilities of the classes. ``dynamics``: the per-example statistics of ``record``; none where it gives the logits of the
    classes. ``compared``: the scores of ``measure`` that models are compared by and reports show, the chief one first."""

    predictions: tuple[str, ...] = ()
    dynamics: tuple[str, ...] = ()
    compared: tuple[str, ...] = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Prepared:
    """Examples after tokenisation, ready to be batched in any order.

    ``lengths``: int32 [N], tokens of each example (what bucketing sorts by). ``storage``: whatever the task's
    ``collate`` needs (flat token arrays with offsets).
    """

    examples: Examples
    lengths: np.ndarray
    storage: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.examples)


def batch_of(examples: Examples, rows: np.ndarray, weights: np.ndarray | None, inputs: dict[str, torch.Tensor]) -> Batch:
    """The batch of the examples at ``rows`` (int64 [B]) with the model's ``inputs``; weights 1 where none are given."""
    import torch

    return Batch(
        ids=examples.ids.take(pa.array(rows)).to_pylist(),
        rows=torch.from_numpy(rows.copy()),
        labels=torch.from_numpy(np.asarray(examples.labels[rows], dtype=np.int64)),
        weights=torch.ones(len(rows)) if weights is None else torch.from_numpy(np.array(weights, dtype=np.float32)),
        inputs=inputs,
    )


@runtime_checkable
class Task(Protocol):
    """One file per task in ``tasks/``; the engine asks these questions and knows nothing else about the data.

    A task whose examples are not classified has ``quantities`` too (:func:`quantities_of`), one with settings that name files
    lists these settings in ``files``, and one whose models write has ``written`` (:func:`written_by`). One in which the loss of
    an example depends on its batch says ``coupling = "batch"`` (:func:`coupling_of`): its micro-batches are batches, and all of
    them of one size. One that cannot give the probabilities of classes that a set merges says ``merges = False``
    (:func:`merges_classes`).
    """

    name: ClassVar[str]
    inputs: ClassVar[TaskInputs]  # what it reads of a row
    model: ClassVar[str]  # the kind of model (:data:`ftft.models.kinds.KINDS`)
    evaluator: ClassVar[str]  # what measures it where a recipe does not say
    steering: ClassVar[tuple[str, ...]]  # the scores of `measure` that may stop a training, the usual one first

    @property
    def longest(self) -> int | None:
        """The most tokens an input has; None where inputs are not made of tokens."""
        ...

    def prepare(self, examples: Examples, processor: Any) -> Prepared:
        """Tokenise; ``processor`` is what came with the model (a tokenizer)."""
        ...

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]), padded to a common length."""
        ...

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The model's outputs for the batch (classification: logits [B, C])."""
        ...

    def per_example_loss(self, outputs: torch.Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> torch.Tensor:
        """Loss of each example, float32 (float64 if the model is) [B], with gradient."""
        ...

    def units(self, batch: Batch) -> torch.Tensor:
        """How many units each example's loss averages over, float32 [B]: ones, or target tokens in language modelling."""
        ...

    def unit_logits(self, outputs: torch.Tensor, batch: Batch) -> UnitLogits:
        """The outputs unit by unit, for objectives that look below the mean of an example."""
        ...

    def record(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """What the dynamics keep of each example, detached, float32 on the CPU (classification: ``logits`` [B, C])."""
        ...

    def predictions(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What is kept of each example for evaluation, float32 on the CPU [B, K] (classification: probabilities [B, C])."""
        ...

    def measure(self, labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None) -> Mapping[str, Values]:
        """The quick scores of predictions float64 [N, K] on examples with ``labels`` int64 [N], those of ``steering`` among
        them; with ``counts`` float64 [R, N], how often each example counts, R values of each."""
        ...


def quantities_of(task: Task) -> Quantities:
    """What a task's numbers are called: its ``quantities``, those of a classification where it has none."""
    found: Quantities = getattr(task, "quantities", Quantities())
    return found


def coupling_of(task: Task) -> str:
    """What the loss of an example depends on: "none", the example alone, or "batch"."""
    return str(getattr(task, "coupling", "none"))


def merges_classes(task: Task) -> bool:
    """Whether an evaluation set may merge classes of the model (``merge_labels``)."""
    return bool(getattr(task, "merges", True))


def files_of(task: Task) -> dict[str, str]:
    """The files that a task's settings name, by setting."""
    named = {name: getattr(task, name) for name in getattr(task, "files", ())}
    return {name: path for name, path in named.items() if path is not None}


def written_by(task: Task, model: torch.nn.Module, data: Prepared, batch: Batch, count: Any) -> torch.Tensor | None:
    """What a task finds in what the model writes to the rows of a batch, float32 [B, J] on the CPU: the last columns of its
    predictions. None for a task that lets nothing be written. ``count(kind, rows, tokens)`` charges the work inside."""
    written = getattr(task, "written", None)
    found: torch.Tensor | None = None if written is None else written(model, data, batch, count)
    return found
