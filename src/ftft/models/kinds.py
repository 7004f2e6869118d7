"""The kinds of models that tasks ask for, and the class of transformers that loads each."""

from __future__ import annotations

from dataclasses import dataclass

from ftft.errors import UserError, did_you_mean


@dataclass(frozen=True)
class ModelKind:
    """``loader``: the class of transformers whose ``from_pretrained`` loads it. ``said``: what messages call it.
    ``pipeline``: what model hubs call its use (``pipeline_tag`` of a card).
    ``labelled``: its last layer gives a logit for each class and may be drawn anew; otherwise the checkpoint must have every
    weight. ``reads``: what comes with the model to make inputs of rows (:data:`ftft.models.processors.READS`)."""

    loader: str
    said: str
    pipeline: str
    labelled: bool
    reads: tuple[str, ...] = ("tokenizer",)


KINDS: dict[str, ModelKind] = {
    "sequence_classification": ModelKind(
        "AutoModelForSequenceClassification", "a classifier", "text-classification", labelled=True
    ),
    "image_classification": ModelKind(
        "AutoModelForImageClassification",
        "an image classifier",
        "image-classification",
        labelled=True,
        reads=("image_processor",),
    ),
    "two_tower": ModelKind(
        "AutoModel",
        "a model of images and texts",
        "zero-shot-image-classification",
        labelled=False,
        reads=("image_processor", "tokenizer"),
    ),
    "causal_language_model": ModelKind("AutoModelForCausalLM", "a causal language model", "text-generation", labelled=False),
}


def kind_of(name: str) -> ModelKind:
    """The kind a task names; UserError for one that is not known."""
    if name not in KINDS:
        raise UserError(f'there is no kind of model "{name}"{did_you_mean(name, KINDS)}')
    return KINDS[name]
