"""DR-Tune: the head must also be right on the pretrained encoder's features, so that the encoder is free and the head is not.

On a batch of B examples with features z_i = f(x_i) of the encoder that is trained and a queue of K earlier examples,

    L = ( sum_i l(h(z_i), y_i) + sum_k l(h(zhat_k), y_k) ) / (B + K)

h is the label layer, f all before it (also a new dense layer of the head), and zhat_k [d] the feature of the queue's example k
under the frozen f_0, calibrated for how f has drifted. Per iteration, with s = mean_i ||z_i|| and P, Q [K, d] the queue's
features under f_0 and f, rows of length 1:

    (i)   every ``rotate_every``-th iteration: P <- (P - mean P) R', R the rotation best turning P - mean P onto Q - mean Q
    (ii)  for each class c: P_c <- P_c + sum_j a_j Q_cj - mean P_c,  a = softmax_j <Q_cj, w_c / ||w_c||>, w_c the row of h
    (iii) zhat = s P, rows of length 1

Then (z_i, f_0(x_i), y_i) enter the queue, and the oldest leave it. Gradients reach f through z_i alone. Zhou, Chen and Huang
2023, arXiv 2308.12058; read in the released code and followed there: its one mean over B + K gives the regulariser the weight
K / (B + K), and the paper's own form may weight it otherwise. With a queue much longer than the batch the batch counts little.

Ours: the code fills the queue before training with a pass over the data; here the first batches fill it, so that the first
one is ordinary fine-tuning and the regulariser's weight grows until K = ``queue_size``. Mended: a batch need not divide
``queue_size`` (the code writes slices); a class may have one example in the queue (the code squeezes its dimension away) or
none (its mean over no rows is no number). The turned cloud stays around 0, as in the code, whose translation after turning is
always 0; step (ii) alone puts it back in its place. An example brings its weight into the queue. An iteration
is a micro-batch, counted through the whole training (in the code: anew every epoch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class DRTune:
    """Cross-entropy on the batch and on a queue of the pretrained encoder's calibrated features."""

    queue_size: int = setting(2048, "examples in the queue; 0: ordinary fine-tuning", origin="code: CIFAR-10", ge=0)
    rotate_every: int = setting(10, "iterations from one rotation to the next", origin="code", ge=1)

    needs: ClassVar[tuple[str, ...]] = ("frozen_base",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification",)
    sharded: ClassVar[bool] = False
    coupling: ClassVar[str] = "history"
    paper: ClassVar[str] = "Zhou, Chen and Huang 2023, arXiv 2308.12058"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss; it keeps the queue. UserError where the label layer is not found."""
        return _Loss(self, models, task)


class _Loss:
    """``parts``: ``queue`` (the mean loss on the queue) and ``queue_length``."""

    def __init__(self, settings: DRTune, models: Models, task: Any) -> None:
        from ftft.modelmap import label_layer
        from ftft.nn.feature_queue import FeatureQueue

        self.settings, self.models, self.task = settings, models, task
        self.frozen = models.others["frozen"]
        labels = int(self.frozen.config.num_labels)  # type: ignore[union-attr, arg-type]
        self.head = label_layer(models.unwrapped, labels)[1]
        self.frozen_head = label_layer(self.frozen, labels)[1]
        self.queue = FeatureQueue(settings.queue_size)
        self.iteration = 0

    def __call__(self, batch: Batch) -> Loss:
        import torch

        from ftft.methods.contract import Loss

        outputs, features = self._forward(self.models.main, self.head, batch)
        losses = self.task.per_example_loss(outputs, batch)
        share = batch.weights * self.task.units(batch)
        units, parts = float(share.double().sum()), {"queue_length": float(len(self.queue))}
        total = (share * losses).sum()
        if len(self.queue):
            of_queue, weight = self._on_queue(batch, features)
            parts["queue"] = float(of_queue.detach()) / weight if weight else 0.0
            # The engine divides by the units of the step's batches: times them, one mean over batch and queue is left.
            total = (total + of_queue) * (units / (units + weight) if weight else 1.0)
        if self.settings.queue_size:
            with torch.no_grad():
                _, before = self._forward(self.frozen, self.frozen_head, batch)
            self.queue.push(features, before, batch.labels, share)
        self.iteration += 1
        return Loss(total, losses.detach().float(), outputs, parts)

    def _on_queue(self, batch: Batch, features: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The weighted sum of the losses on the calibrated queue, with gradient to the head alone, and the sum of weights."""
        from ftft.nn.feature_queue import calibrated

        queue, head = self.queue, self.head
        turned = self.iteration % self.settings.rotate_every == 0
        length = features.detach().norm(dim=1).mean()
        moved = calibrated(queue.frozen, queue.tuned, queue.labels, head.weight.detach(), length=length, rotate=turned)
        logits = head(moved.to(head.weight.dtype))
        known = dataclasses.replace(batch, ids=[""] * len(queue), labels=queue.labels, weights=queue.weights)
        losses = self.task.per_example_loss(logits.to(moved.dtype), known)
        return (queue.weights * losses).sum(), float(queue.weights.double().sum())

    def _forward(self, model: torch.nn.Module, head: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs [B, C] and what the label layer made them of [B, d], in float32 at least."""
        import torch

        from ftft.nn.feature_queue import input_of

        with input_of(head) as seen:
            outputs = self.task.forward(model, batch)
        features = seen[-1] if seen else torch.empty(0)
        if features.ndim == 3:  # a decoder reads every position, and takes the last that is not padding
            last = batch.inputs["attention_mask"].cumsum(dim=1).argmax(dim=1)
            features = features[torch.arange(len(batch), device=last.device), last]
        if self.iteration == 0:
            self._require_logits_of(model, head, features, outputs)
        return outputs, features.to(torch.promote_types(features.dtype, torch.float32))

    def _require_logits_of(self, model: Any, head: Any, features: torch.Tensor, outputs: torch.Tensor) -> None:
        """UserError where the model makes something else of its label layer's output."""
        import torch

        with torch.no_grad():
            if features.ndim == 2 and torch.allclose(head(features).to(outputs.dtype), outputs, rtol=0.05, atol=0.05):
                return
        raise UserError(
            f"objective: dr_tune needs a model whose label layer gives the logits, and {type(model).__name__} computes them "
            "otherwise; use objective: l2_sp to stay close to the pretrained model"
        )

    def state(self) -> dict[str, Any]:
        """The queue and the number of iterations."""
        return {"queue": self.queue.state(), "iteration": self.iteration}

    def load_state(self, state: dict[str, Any]) -> None:
        self.queue.load_state(state["queue"], self.head.weight.device)
        self.iteration = int(state["iteration"])
