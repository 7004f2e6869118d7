"""Batches are the tokenizer's own, whatever the order; an example's logits do not depend on its batch."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from ftft.data.examples import Examples
from ftft.errors import UserError
from ftft.tasks.contract import Task
from ftft.tasks.text_classification import CHUNK, TextClassification

TEXTS = [
    "the film was great",
    "a boring plot, very bad acting and terrible food in the film",
    "somebody sleeps",
    "the",
    "a man and a woman sit outside and it is not funny " * 3,
]
PAIRS = ["it is good", "no", "a dog runs inside the place and the man is happy", "a", "sad people"]


def examples(texts=TEXTS, pairs=None):
    inputs = {"text": pa.array(texts, type=pa.string())}
    if pairs is not None:
        inputs["text_pair"] = pa.array(pairs, type=pa.string())
    return Examples(
        ids=pa.array([f"row-{index}" for index in range(len(texts))]),
        inputs=inputs,
        labels=np.arange(len(texts), dtype=np.int64) % 2,
        label_names=("a", "b"),
        fingerprint="x",
    )


@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_batch_equals_the_tokenizers_own(tiny_tokenizer, pairs):
    task = TextClassification(max_length=24)
    data = examples(pairs=pairs)
    prepared = task.prepare(data, tiny_tokenizer)
    rows = np.array([3, 0, 4, 0])
    batch = task.collate(prepared, rows)
    columns = [[column[int(row)].as_py() for row in rows] for column in data.inputs.values()]
    expected = tiny_tokenizer(
        *columns, truncation="longest_first", max_length=24, padding="longest", pad_to_multiple_of=8, return_tensors="pt"
    )
    assert set(batch.inputs) == set(expected) == {"input_ids", "token_type_ids", "attention_mask"}
    for name, value in expected.items():
        assert batch.inputs[name].dtype == torch.int64 and torch.equal(batch.inputs[name], value)
    assert batch.ids == ["row-3", "row-0", "row-4", "row-0"] and len(batch) == 4
    assert batch.rows.tolist() == rows.tolist() and batch.labels.tolist() == [1, 0, 0, 0]
    assert prepared.lengths.dtype == np.int32
    columns = [column.to_pylist() for column in data.inputs.values()]
    whole = tiny_tokenizer(*columns, truncation="longest_first", max_length=24)["input_ids"]
    assert prepared.lengths.tolist() == [len(tokens) for tokens in whole]


def test_tokens_are_kept_flat_in_32_bits(tiny_tokenizer):
    prepared = TextClassification().prepare(examples(), tiny_tokenizer)
    tokens, offsets = prepared.storage["input_ids"], prepared.storage["offsets"]
    assert tokens.dtype == np.int32 and tokens.ndim == 1
    assert offsets.dtype == np.int64 and offsets[-1] == len(tokens) == prepared.lengths.sum()


@pytest.mark.parametrize(("max_length", "width"), [(64, 8), (20, 8), (6, 6)])
def test_width_is_a_multiple_of_8_within_the_limit(tiny_tokenizer, max_length, width):
    task = TextClassification(max_length=max_length)
    prepared = task.prepare(examples(["the film was great"]), tiny_tokenizer)  # 6 tokens
    assert task.collate(prepared, np.array([0])).inputs["input_ids"].shape == (1, width)


def test_width_does_not_pass_a_limit_that_is_no_multiple_of_8(tiny_tokenizer):
    task = TextClassification(max_length=20)
    prepared = task.prepare(examples(), tiny_tokenizer)
    assert task.collate(prepared, np.arange(5)).inputs["input_ids"].shape == (5, 20)


def test_weights_are_one_or_as_given(tiny_tokenizer):
    task = TextClassification()
    prepared = task.prepare(examples(), tiny_tokenizer)
    assert task.collate(prepared, np.array([1, 2])).weights.tolist() == [1, 1]
    batch = task.collate(prepared, np.array([1, 2]), np.array([0.5, 2.0]))
    assert batch.weights.dtype == torch.float32 and batch.weights.tolist() == [0.5, 2.0]
    assert task.units(batch).tolist() == [1, 1]


@pytest.mark.parametrize("architecture", ["bert", "deberta_v2", "qwen3", "gpt2"])
def test_logits_do_not_depend_on_the_batch(tiny_model, tiny_tokenizer, architecture):
    task, model = TextClassification(max_length=40), tiny_model(architecture, labels=3).double()
    prepared = task.prepare(examples(), tiny_tokenizer)
    if architecture in ("qwen3", "gpt2"):
        del prepared.storage["token_type_ids"]  # the loader takes it out of the tokenizer of such a model
    with torch.no_grad():
        together = task.forward(model, task.collate(prepared, np.arange(5)))
        alone = torch.cat([task.forward(model, task.collate(prepared, np.array([row]))) for row in range(5)])
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


def test_padding_stands_on_the_right_whatever_the_tokenizer_prefers(tiny_tokenizer):
    import copy

    left = copy.deepcopy(tiny_tokenizer)
    left.padding_side = "left"
    task = TextClassification()
    batch = task.collate(task.prepare(examples(), left), np.array([0, 1]))
    assert batch.inputs["attention_mask"][0].tolist() == [1] * 6 + [0] * (batch.inputs["input_ids"].shape[1] - 6)


def test_more_examples_than_one_chunk_keep_their_order(tiny_tokenizer):
    texts = [("a " * (1 + index % 5)).strip() for index in range(CHUNK + 10)]
    prepared = TextClassification().prepare(examples(texts), tiny_tokenizer)
    assert prepared.lengths.tolist() == [3 + index % 5 for index in range(CHUNK + 10)]


def test_empty_text_without_special_tokens_is_one_token(tiny_tokenizer):
    import copy

    from tokenizers.processors import TemplateProcessing

    bare = copy.deepcopy(tiny_tokenizer)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    bare.eos_token = "[SEP]"
    task = TextClassification()
    prepared = task.prepare(examples(["", "the film"]), bare)
    assert prepared.lengths.tolist() == [1, 2]
    batch = task.collate(prepared, np.array([0, 1]))
    assert batch.inputs["input_ids"][0, 0] == bare.eos_token_id and batch.inputs["attention_mask"][0, 0] == 1


def test_no_examples_are_no_error(tiny_tokenizer):
    assert len(TextClassification().prepare(examples([]), tiny_tokenizer)) == 0


def test_impossible_lengths_are_refused(tiny_tokenizer):
    with pytest.raises(UserError, match="max_length is 200, but the model has positions for 128"):
        TextClassification(max_length=200).prepare(examples(), tiny_tokenizer)
    with pytest.raises(UserError, match="3 special tokens leave no room .* at least 5"):
        TextClassification(max_length=3).prepare(examples(pairs=PAIRS), tiny_tokenizer)


def test_loss_is_cross_entropy_with_smoothed_targets():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
    batch = type("B", (), {"labels": torch.tensor([0, 2])})()
    for smoothing in (0.0, 0.3):
        expected = []
        for row, gold in zip(logits.tolist(), [0, 2]):
            log_z = math.log(sum(math.exp(value) for value in row))
            target = [(1 - smoothing) * (index == gold) + smoothing / 3 for index in range(3)]
            expected.append(-sum(q * (value - log_z) for q, value in zip(target, row)))
        loss = TextClassification().per_example_loss(logits, batch, label_smoothing=smoothing)
        torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_half_precision_outputs_are_raised_to_float32(tiny_model, tiny_tokenizer):
    task, model = TextClassification(), tiny_model("bert")
    batch = task.collate(task.prepare(examples(), tiny_tokenizer), np.array([0, 1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(**batch.inputs).logits.dtype == torch.bfloat16
        outputs = task.forward(model, batch)
    assert outputs.dtype == torch.float32
    recorded = task.record(outputs, batch)
    assert set(recorded) == {"logits"} and not recorded["logits"].requires_grad and recorded["logits"].dtype == torch.float32
    torch.testing.assert_close(task.predictions(outputs, batch), torch.softmax(outputs.detach(), -1))


def test_it_is_a_task():
    assert isinstance(TextClassification(), Task) and TextClassification.name == "text_classification"


@pytest.mark.pretrained
def test_real_pairs_are_tokenised_as_by_the_tokenizer(real_data, minilm):
    import gzip
    import json

    from ftft.models.loading import load_classifier

    with gzip.open(real_data / "nli_sick" / "dev.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    tokenizer = load_classifier(minilm, ("a", "b", "c")).processor
    data = examples([row["premise"] for row in rows], [row["hypothesis"] for row in rows])
    task = TextClassification(max_length=32)
    prepared = task.prepare(data, tokenizer)
    chosen = np.random.default_rng(0).choice(len(rows), 64, replace=False)
    batch = task.collate(prepared, chosen)
    expected = tokenizer(
        [rows[row]["premise"] for row in chosen], [rows[row]["hypothesis"] for row in chosen], truncation="longest_first",
        max_length=32, padding=True, pad_to_multiple_of=8, return_tensors="pt",
    )  # fmt: skip
    assert all(torch.equal(batch.inputs[name], expected[name]) for name in expected)
