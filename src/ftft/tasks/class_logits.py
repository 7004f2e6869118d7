"""What tasks share whose model gives a logit for each class of an example: loss, units, dynamics, predictions, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftft.tasks import metrics
from ftft.tasks.contract import Batch, UnitLogits

if TYPE_CHECKING:
    import torch


class ClassLogits:
    """The part of a :class:`ftft.tasks.contract.Task` that follows from outputs [B, C] and one label an example."""

    evaluator: ClassVar[str] = "classification"
    steering: ClassVar[tuple[str, ...]] = metrics.STEERING

    def per_example_loss(self, outputs: torch.Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> torch.Tensor:
        """-sum_c q_c log softmax(z)_c [B], with q = (1 - s) onehot(y) + s / C (Szegedy et al. 2016, section 7)."""
        import torch

        return torch.nn.functional.cross_entropy(outputs, batch.labels, reduction="none", label_smoothing=label_smoothing)

    def units(self, batch: Batch) -> torch.Tensor:
        """Ones [B]: every example counts as one."""
        import torch

        return torch.ones(len(batch), device=batch.labels.device)

    def unit_logits(self, outputs: torch.Tensor, batch: Batch) -> UnitLogits:
        """Every example is one unit: logits [B, C], its label."""
        import torch

        return UnitLogits(outputs, batch.labels, torch.arange(len(batch), device=batch.labels.device))

    def record(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``logits`` float32 [B, C]."""
        import torch

        return {"logits": outputs.detach().to("cpu", torch.float32)}

    def predictions(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """softmax(logits) in float32 [B, C]."""
        import torch

        return torch.softmax(outputs.detach().to("cpu", torch.float32), dim=-1)

    def measure(
        self, labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None
    ) -> Mapping[str, metrics.Values]:
        """:func:`ftft.tasks.metrics.steering_scores` of probabilities [N, C]."""
        return metrics.steering_scores(labels, predictions, counts)
