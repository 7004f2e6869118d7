"""Image classification: one image, one of C classes.

The model's own image processor makes its inputs (resizing, scaling, normalising); nothing is augmented, so that an example is
the same in every epoch and its training dynamics are about it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ftft.data.inputs import TaskInputs
from ftft.tasks.class_logits import ClassLogits
from ftft.tasks.contract import Batch, Prepared, batch_of, wide
from ftft.tasks.pixels import as_model, pixel_values, prepare_images

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples


@dataclass(frozen=True)
class ImageClassification(ClassLogits):
    """Assign one of C classes to an image."""

    name: ClassVar[str] = "image_classification"
    inputs: ClassVar[TaskInputs] = TaskInputs(({"image": "image"},))
    model: ClassVar[str] = "image_classification"

    @property
    def longest(self) -> None:
        """Images have no tokens."""
        return None

    def prepare(self, examples: Examples, processor: Any) -> Prepared:
        """Process every image, or get ready to; all lengths are 1, for every image costs the same."""
        storage = prepare_images(examples.inputs["image"], processor)
        return Prepared(examples=examples, lengths=np.ones(len(examples), dtype=np.int32), storage=storage)

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]): ``pixel_values`` float32 [B, C, H, W], weights 1 where none are
        given."""
        rows = np.asarray(rows, dtype=np.int64)
        return batch_of(prepared.examples, rows, weights, {"pixel_values": pixel_values(prepared.storage, rows)})

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [B, C]: float64 from a float64 model, else float32 (under autocast the model gives bfloat16)."""
        return wide(model(**as_model(model, batch.inputs)).logits)
