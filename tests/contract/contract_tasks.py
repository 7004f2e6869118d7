"""The tasks that methods are tried on, each with a few examples that a tiny model can learn in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.data.examples import Examples
from ftft.data.images import pack
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.image_classification import ImageClassification
from ftft.tasks.image_text import ImageText
from ftft.tasks.text_classification import TextClassification

EXAMPLES = 48
WORDS = {1: ("good", "great", "happy"), 0: ("bad", "terrible", "boring")}
FILLERS = ("the", "film", "movie", "plot", "acting", "food", "place", "dog")
PLACES = ("inside", "outside", "old", "young")  # of the bright square: top left, top right, bottom left, bottom right


def sentences() -> Examples:
    """Six words a sentence; one of them gives the label."""
    source = np.random.default_rng(5)
    texts, labels = [], np.arange(EXAMPLES) % 2
    for label in labels:
        words = [*source.choice(FILLERS, 5), source.choice(WORDS[int(label)])]
        texts.append(" ".join(source.permutation(words)))
    ids = pa.array([f"s{row}" for row in range(EXAMPLES)])
    return Examples(ids, {"text": pa.array(texts)}, labels, ("negative", "positive"), "generated")


def answers() -> Examples:
    """The same sentences as prompts, each with two answers."""
    texts = sentences().inputs["text"].to_pylist()[: EXAMPLES // 2]
    inputs = {
        "prompt": pa.array([text for text in texts for _ in range(2)]),
        "completion": pa.array([f"{word} {text.split()[0]}" for text in texts for word in ("happy film", "boring the place")]),
    }
    ids = pa.array([f"a{row}" for row in range(EXAMPLES)])
    return Examples(ids, inputs, np.zeros(EXAMPLES, dtype=np.int64), (), "generated answers")


def pictures() -> Examples:
    """A red or a blue square in one corner of a noisy 8 x 8 image, and a text that says so; the colour is the label. Of eight
    in a row no two have the same text."""
    source = np.random.default_rng(5)
    labels, places = np.arange(EXAMPLES) % 2, np.arange(EXAMPLES) // 2 % len(PLACES)
    pixels = source.integers(0, 60, (EXAMPLES, 8, 8, 3), dtype=np.uint8)
    for image, label, place in zip(pixels, labels, places):
        top, left = 4 * (place // 2), 4 * (place % 2)
        image[top : top + 4, left : left + 4, 2 * label] += 180
    texts = [f"the {('red', 'blue')[label]} dog sits {PLACES[place]}" for label, place in zip(labels, places)]
    inputs = {"image": pa.array([pack(one) for one in pixels], pa.large_binary()), "text": pa.array(texts)}
    ids = pa.array([f"p{row}" for row in range(EXAMPLES)])
    return Examples(ids, inputs, labels, ("red", "blue"), "generated pictures")


@dataclass(frozen=True)
class Tried:
    """A task, its examples, the architecture of its model, and what the model's configuration calls dropout."""

    task: Any
    examples: Callable[[], Examples]
    architecture: str
    dropouts: tuple[str, ...]


BOTH = ("hidden_dropout_prob", "attention_probs_dropout_prob")
CAPTIONS = {"red": "the red dog", "blue": "the blue dog"}
# By name. A method is tried on the first that it serves, and in what could differ there on the tasks of images too.
TRIED = {
    "text_classification": Tried(TextClassification(max_length=32), sentences, "bert", BOTH),
    "causal_language_modelling": Tried(
        CausalLanguageModelling(max_length=32, add_end=False), answers, "llama", ("attention_dropout",)
    ),
    "image_classification": Tried(ImageClassification(), pictures, "vit", BOTH),
    "image_text": Tried(ImageText(captions=CAPTIONS, max_length=32), pictures, "clip", ("attention_dropout",)),
}
OF_IMAGES = ("image_classification", "image_text")
