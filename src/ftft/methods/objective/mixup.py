"""Mixup on input embeddings: train on blends of two texts, towards the same blend of their labels.

    x~_i = mu E(x_i) + (1 - mu) E(x_p(i)),   L = mean_i [ mu l(f(x~_i), y_i) + (1 - mu) l(f(x~_i), y_p(i)) ]

with E(x_i) [L, d] the word embeddings of text i, padding included, mu ~ Beta(a, a), and p a random permutation of the
micro-batch. Zhang et al. 2018, arXiv 1710.09412, section 2; mixing word embeddings is wordMixup of Guo, Mao and Zhang 2019,
arXiv 1905.08941. As in the authors' code there is one mu for a micro-batch, and a text may meet itself; a micro-batch of one
text is not mixed. BANG (Lin et al. 2023, arXiv 2309.17230) fine-tunes with mixup and label smoothing, then averages weights.

A blend is as long as the longer of the two: it attends wherever either has a token. What else is given for each token
(segments) is that of text i, and of text p(i) beyond the end of text i. So as alpha goes to 0 the loss becomes cross-entropy
where texts are of one length; a short text beside a long one is read with attended padding. Both losses are exactly
cross-entropy at alpha 0.

An example's loss is that of its own label, mu l(f(x~_i), y_i) + (1 - mu) l(f(x~_q), y_i) with p(q) = i: the same sum in
another order, so that weights apply exactly. An example of weight 0 teaches nothing of its label, but is blended into others.

The word embeddings are replaced where the model looks them up, not given as ``inputs_embeds``: decoders read the class off the
last token that is not padding, which they find in ``input_ids`` (without them they take the last position, padding or not), and
RoBERTa numbers its positions from them.

``outputs`` are the logits of the blends. No text is seen by itself, so they are not to be recorded as training dynamics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class Mixup:
    """Train on blends of two texts' word embeddings and of their labels."""

    alpha: float = setting(0.2, "both parameters of the Beta distribution of mu; 0: no mixing", origin="paper: ImageNet", ge=0)
    label_smoothing: float = setting(0.0, "share of each target spread evenly over the classes", origin="paper: 0", ge=0, lt=1)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification",)
    sharded: ClassVar[bool] = False
    coupling: ClassVar[str] = "batch"
    exceptions: ClassVar[dict[str, str]] = {"records": "the outputs are of blends of two examples"}
    paper: ClassVar[str] = "Zhang et al. 2018, arXiv 1710.09412; Guo et al. 2019, arXiv 1905.08941"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss; it draws from torch's global generator.

        Raises UserError where the model has no table of word embeddings, or does not read it in its forward pass.
        """
        from ftft.methods.contract import Loss

        embeddings = _embeddings(models.unwrapped)

        def loss_of(batch: Batch) -> Loss:
            mu, partner = self._draw(len(batch))
            partner = partner.to(batch.labels.device)
            embedded = embeddings(batch.inputs["input_ids"])
            mixed = mu * embedded + (1 - mu) * embedded[partner]
            with _replaced(embeddings, mixed):
                outputs = task.forward(models.main, _union(batch, partner))
            of_partner = outputs[partner.argsort()]  # row i: the blend in which text i stands second
            losses = mu * task.per_example_loss(outputs, batch, label_smoothing=self.label_smoothing)
            losses = losses + (1 - mu) * task.per_example_loss(of_partner, batch, label_smoothing=self.label_smoothing)
            share = batch.weights * task.units(batch)
            return Loss(
                total=(share * losses).sum(),
                per_example=losses.detach().float(),
                outputs=outputs,
                parts={"mu": mu},
            )

        return loss_of

    def _draw(self, size: int) -> tuple[float, torch.Tensor]:
        """mu, and for each text the index of the one it is mixed with, int64 [size]."""
        import torch

        if self.alpha == 0:
            return 1.0, torch.arange(size)
        # A Gamma(a) number is a Gamma(a + 1) number times u^(1/a), u uniform, and two of them give mu. In logarithms, because
        # torch's own Beta underflows for small a, and gives a half where it should give 0 or 1.
        shape = torch.full((2,), self.alpha, dtype=torch.float64)
        gammas = torch.distributions.Gamma(shape + 1, torch.ones_like(shape)).sample().log()
        first, second = gammas + torch.rand(2, dtype=torch.float64).log() / shape
        return float(torch.sigmoid(first - second)), torch.randperm(size)


def _embeddings(model: torch.nn.Module) -> Any:
    """The model's table of word embeddings."""
    try:
        found = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        found = None
    if found is None:
        raise UserError(f"objective: mixup mixes word embeddings, and {type(model).__name__} has no table of them")
    return found


@contextmanager
def _replaced(embeddings: torch.nn.Module, value: torch.Tensor) -> Iterator[None]:
    """The table gives ``value``, whatever it is asked for; UserError where the model did not ask it for just that."""
    asked = []

    def give(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        asked.append(output.shape)
        return value

    handle = embeddings.register_forward_hook(give)
    try:
        yield
    finally:
        handle.remove()
    if asked != [value.shape]:
        raise UserError(
            "objective: mixup replaces the word embeddings as the model looks them up, and this model does not look them up "
            "once a forward pass for the whole batch; use objective: cross_entropy with label_smoothing"
        )


def _union(batch: Batch, partner: torch.Tensor) -> Batch:
    """The batch whose rows are as long as the longer of text i and its partner: the partner's tokens beyond the end of i."""
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return batch
    own = (mask != 0) | (mask[partner] == 0)
    inputs = {
        name: value.where(own, value[partner]) if value.shape == mask.shape else value for name, value in batch.inputs.items()
    }
    return dataclasses.replace(batch, inputs=inputs)
