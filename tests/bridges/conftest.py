"""Tiny random models, tokenizers and datasets that the tests of the bridges share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

N, CLASSES = 37, 3
WORDS = [f"w{i}" for i in range(40)]


class SpyClassifier(BertForSequenceClassification):
    """Keeps every forward pass: whether with gradients, in which mode, the inputs and the logits."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **rest):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **rest)
        logits = (outputs["logits"] if isinstance(outputs, dict) else outputs[-1]).detach().clone()
        self.__dict__.setdefault("passes", []).append((torch.is_grad_enabled(), self.training, input_ids.clone(), logits))
        return outputs


def bert_config(classes: int = CLASSES) -> BertConfig:
    return BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, num_labels=classes,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose more to waiting threads than they gain, and each training collects garbage: what the
    imported libraries hold need not be looked at again."""
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture
def make_classifier():
    """A classifier with dropout and weights from a seed."""

    def make(seed: int = 0, classes: int = CLASSES) -> SpyClassifier:
        torch.manual_seed(seed)
        return SpyClassifier(bert_config(classes))

    return make


@pytest.fixture
def rows() -> datasets.Dataset:
    """37 tokenised rows of different lengths; the first token says which row it is."""
    g = np.random.default_rng(0)
    ids = [[5 + i, *g.integers(5, 50, g.integers(2, 8)).tolist()] for i in range(N)]
    return datasets.Dataset.from_dict(
        {
            "guid": [f"ex{i:02d}" for i in range(N)],
            "text": ["unused"] * N,
            "input_ids": ids,
            "label": g.integers(0, CLASSES, N).tolist(),
        }
    )


@pytest.fixture
def pad_rows():
    """A collator that knows input_ids and label only."""

    def collate(features: list[dict]) -> dict:
        width = max(len(feature["input_ids"]) for feature in features)
        ids = torch.tensor([list(f["input_ids"]) + [0] * (width - len(f["input_ids"])) for f in features])
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "labels": torch.tensor([int(f["label"]) for f in features]),
        }

    return collate


def word_tokenizer(folder: Path, *, bert: bool = True) -> PreTrainedTokenizerFast:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    names = ["[PAD]", "[UNK]", "[EOS]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate(names + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bert:
        from tokenizers.processors import BertProcessing

        inner.post_processor = BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **special)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def make_tokenizer(tmp_path):
    """A word-level tokenizer saved in a temporary folder; with [CLS] and [SEP] for BERT, or plain for decoders."""

    def make(*, bert: bool = True) -> PreTrainedTokenizerFast:
        return word_tokenizer(tmp_path / f"tokenizer_{bert}", bert=bert)

    return make


@pytest.fixture
def make_decoder():
    """A causal language model with weights from a seed."""

    def make(seed: int = 0) -> Qwen3ForCausalLM:
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=60,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                intermediate_size=16,
                max_position_embeddings=64,
                attention_dropout=0.0,
                pad_token_id=0,
                eos_token_id=2,
                bos_token_id=None,
            )  # fmt: skip
        )

    return make
