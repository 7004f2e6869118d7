"""Images and their texts, as CLIP learns them: in a batch, which text belongs to which image?

With unit embeddings u_i of image i and v_j of text j, temperature exp(s) and logits z_ij = exp(s) u_i . v_j over a batch of B:

    loss of pair i = (-log softmax_j(z_ij)[i] - log softmax_j(z_ji)[i]) / 2        (InfoNCE in both directions)

Radford et al. 2021, arXiv 2103.00020, figure 3. The loss of a pair depends on its batch: another batch size is another task,
which is why micro-batches and several processes are refused, and why the batch that holds the rest of an epoch is filled up
with other pairs of the epoch (CLIP's own training leaves it out; here every pair is to have its dynamics). As in CLIP a text
that stands in the batch twice counts as another's wrong partner; the dynamics count it as right.

What a model says of an image is a class of ``captions``: softmax over the classes of exp(s) u_i . v_c, with v_c the embedding
of the class' caption (zero-shot classification, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ftft.data.inputs import TaskInputs
from ftft.errors import UserError, did_you_mean
from ftft.settings import setting
from ftft.tasks.class_logits import ClassLogits
from ftft.tasks.contract import Batch, Prepared, Quantities, UnitLogits, batch_of
from ftft.tasks.pixels import as_model, pixel_values, prepare_images

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples


@dataclass(frozen=True)
class ImageText(ClassLogits):
    """Match images with their texts; classify images by captions of the classes."""

    captions: dict[str, str] = setting({}, "label -> what an image of it is said to be, to classify by", factory=dict)
    max_length: int = setting(77, "tokens of a text, special ones included", origin="CLIP", ge=2)

    name: ClassVar[str] = "image_text"
    offers: ClassVar[tuple[str, ...]] = ("recipes",)
    coupling: ClassVar[str] = "batch"
    merges: ClassVar[bool] = False  # a set is classified by the captions of its own labels
    inputs: ClassVar[TaskInputs] = TaskInputs(({"image": "image", "text": "text"},))
    model: ClassVar[str] = "two_tower"
    quantities: ClassVar[Quantities] = Quantities(dynamics=("mean_log_probability", "probability"))

    def __post_init__(self) -> None:
        if not self.captions:
            raise ValueError('captions is empty; give each label what an image of it is said to be, such as "a photo of a cat"')

    @property
    def longest(self) -> int:
        """The most tokens a text has."""
        return self.max_length

    def prepare(self, examples: Examples, processor: Any) -> Prepared:
        """Process the images, tokenise texts and captions. UserError for a label without a caption."""
        for label in examples.label_names:
            if label not in self.captions:
                raise UserError(f'task.captions has none for the label "{label}"{did_you_mean(label, self.captions)}')
        tokenizer = processor.tokenizer
        if self.max_length > tokenizer.model_max_length:
            limit = tokenizer.model_max_length
            raise UserError(
                f"task.max_length is {self.max_length}, but the model has positions for {limit} tokens; give at most {limit}"
            )
        tokens, lengths = self._tokens(tokenizer, examples.inputs["text"].to_pylist())
        captions, caption_lengths = self._tokens(tokenizer, [self.captions[label] for label in examples.label_names])
        storage = {
            **prepare_images(examples.inputs["image"], processor.image_processor),
            "tokens": tokens,
            "captions": captions,
            "caption_lengths": caption_lengths,
            "pad_token_id": int(tokenizer.pad_token_id),
        }
        return Prepared(examples=examples, lengths=lengths, storage=storage)

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]): ``pixel_values`` float32 [B, 3, H, W], ``input_ids`` and
        ``attention_mask`` int64 [B, L]; in ``extra`` the same of the C captions."""
        import torch

        rows = np.asarray(rows, dtype=np.int64)
        storage, lengths = prepared.storage, prepared.lengths[rows]
        ids, mask = _padded(storage["tokens"][rows], lengths, int(lengths.max()), storage["pad_token_id"])
        # The ids first: images are all of one size, so that batches of as many tokens cost the same.
        inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixel_values(storage, rows)}
        batch = batch_of(prepared.examples, rows, weights, inputs)
        width = max(int(lengths.max()), int(storage["caption_lengths"].max()))
        both = [
            _padded(tokens, long, width, storage["pad_token_id"])
            for tokens, long in ((storage["tokens"][rows], lengths), (storage["captions"], storage["caption_lengths"]))
        ]
        batch.extra["ids_and_captions"] = torch.cat([one[0] for one in both])
        batch.extra["mask_and_captions"] = torch.cat([one[1] for one in both])
        return batch

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits of the images for the batch's texts, [B, B], and in evaluation mode for the captions too, [B, B + C]: float64
        from a float64 model, else float32."""
        import torch

        inputs = as_model(model, batch.inputs)
        if not model.training:
            inputs |= {"input_ids": batch.extra["ids_and_captions"], "attention_mask": batch.extra["mask_and_captions"]}
        logits = model(**inputs).logits_per_image
        return logits if logits.dtype == torch.float64 else logits.float()

    def per_example_loss(self, outputs: torch.Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> torch.Tensor:
        """The loss of each pair among those of its batch, in nats [B]; smoothing spreads over the batch."""
        import torch

        units = self.unit_logits(outputs, batch)
        both = torch.nn.functional.cross_entropy(units.logits, units.targets, reduction="none", label_smoothing=label_smoothing)
        return both.view(2, len(batch)).mean(dim=0)

    def units(self, batch: Batch) -> torch.Tensor:
        """Two for every pair [B]: its text among the texts, its image among the images."""
        import torch

        return torch.full((len(batch),), 2.0, device=batch.labels.device)

    def unit_logits(self, outputs: torch.Tensor, batch: Batch) -> UnitLogits:
        """Logits [2 B, B]: of every image for the texts, then of every text for the images; the right one is its own."""
        import torch

        own = torch.arange(len(batch), device=outputs.device)
        pairs = outputs[:, : len(batch)]
        return UnitLogits(torch.cat([pairs, pairs.T]), own.repeat(2), own.repeat(2))

    def record(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """``probability`` float32 [B], the geometric mean of the right text's probability given the image and the right
        image's given the text, and ``mean_log_probability``, its logarithm. Partners with equal texts are all right."""
        import torch

        logits = outputs.detach()[:, : len(batch)].to(torch.float32)
        ids = batch.inputs["input_ids"]
        same = (ids[:, None, :] == ids[None, :, :]).all(dim=2)
        right = logits.masked_fill(~same, -torch.inf)
        text, image = (right.logsumexp(dim=dim) - logits.logsumexp(dim=dim) for dim in (1, 0))
        mean = (text + image) / 2
        return {"mean_log_probability": mean.cpu(), "probability": mean.exp().cpu()}

    def predictions(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The probability of each class by its caption, float32 [B, C]; of outputs in evaluation mode."""
        import torch

        return torch.softmax(outputs.detach()[:, len(batch) :].to("cpu", torch.float32), dim=-1)

    def _tokens(self, tokenizer: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int64 [N, longest], and how many each text has, int32 [N]."""
        encoded = tokenizer(texts, truncation=True, max_length=self.max_length, return_attention_mask=False)["input_ids"]
        lengths = np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded))
        tokens = np.zeros((len(encoded), int(lengths.max(initial=1))), dtype=np.int64)
        for row, one in enumerate(encoded):
            tokens[row, : len(one)] = one
        return tokens, lengths


def _padded(tokens: np.ndarray, lengths: np.ndarray, width: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask int64 [B, width] of rows that hold their tokens in front."""
    import torch

    mask = np.arange(width) < lengths[:, None]
    ids = np.full(mask.shape, pad, dtype=np.int64)
    shared = min(width, tokens.shape[1])
    ids[mask] = tokens[:, :shared][mask[:, :shared]]  # no row is longer than either
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
