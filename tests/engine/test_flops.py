"""Counted operations are those of the formula, for the paper's architectures, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftft.engine.flops import FlopCounter

EXAMPLES, LENGTH, LABELS, LAYERS, HIDDEN, INNER, EMBEDDING, BUCKETS = 4, 24, 3, 2, 16, 32, 8, 8
TOKENS = EXAMPLES * LENGTH
SETTINGS = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "intermediate_size": INNER}
V3 = {"conv_kernel_size": 0, "position_buckets": BUCKETS}

# Two operations for every multiplication in a matrix product. Of a layer: query, key, value, output and the two of the MLP.
PROJECTIONS = LAYERS * 2 * TOKENS * (4 * HIDDEN**2 + 2 * HIDDEN * INNER)
ATTENTION = LAYERS * 2 * 2 * TOKENS * LENGTH * HIDDEN  # scores, and their product with the values
HEAD = 2 * EXAMPLES * (HIDDEN**2 + HIDDEN * LABELS)  # a dense layer (BERT: the pooler) on one token, and the logits
# DeBERTa: keys and queries of 2 * BUCKETS relative positions, and the scores of both against the content.
POSITIONS = LAYERS * (2 * 2 * (2 * BUCKETS) * HIDDEN**2 + 2 * 2 * TOKENS * (2 * BUCKETS) * HIDDEN)
FORWARD = {
    "bert": PROJECTIONS + ATTENTION + HEAD,
    "electra": 2 * TOKENS * EMBEDDING * HIDDEN + PROJECTIONS + ATTENTION + HEAD,
    "deberta_v2": PROJECTIONS + ATTENTION + POSITIONS + HEAD,
}


def counted(model: Any, kind: str) -> int:
    counter = FlopCounter()
    ids = torch.arange(TOKENS).reshape(EXAMPLES, LENGTH) % 30 + 5
    with torch.set_grad_enabled(kind == "train"), counter.count(kind, EXAMPLES, LENGTH):
        logits = model.train(kind == "train")(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        if kind == "train":
            logits.sum().backward()
    return counter.known[kind, EXAMPLES, LENGTH]


@pytest.mark.parametrize("architecture", FORWARD)
def test_a_forward_pass_costs_its_matrix_products_and_a_training_step_three_times_that(
    architecture: str, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(architecture, LABELS, **SETTINGS, **(V3 if architecture == "deberta_v2" else {}))
    assert counted(model, "predict") == FORWARD[architecture]
    assert counted(model, "train") == 3 * FORWARD[architecture]


def test_training_without_dropout_is_counted_with_the_scores_it_computes_again(tiny_model: Callable[..., Any]) -> None:
    """The fused attention does not keep its scores: its backward pass computes them a second time."""
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_model("electra", LABELS, **SETTINGS, **without)
    assert counted(model, "train") == 3 * FORWARD["electra"] + ATTENTION // 2
