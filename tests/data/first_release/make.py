"""Make the store and the run folder of the first release that test_first_release.py reads: a random model and generated data.

    python tests/data/first_release/make.py FOLDER       (with the release's own ftft on the path)

Never made anew for a later format: what it made once must stay readable.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path

WORDS = ["good", "bad", "film", "plot", "the", "a"]


def write_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends)
    names = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **names).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    positions = {"max_position_embeddings": 16, "vocab_size": len(vocabulary), "pad_token_id": 0}
    BertModel(BertConfig(**size, **positions)).save_pretrained(folder)


def write_data(folder: Path) -> None:
    source = random.Random(0)
    for name, count in (("train", 24), ("validation", 12), ("ood", 12)):
        rows = []
        for number in range(count):
            label = ("yes", "no")[number % 2]
            text = " ".join(["good" if label == "yes" else "bad", *source.choices(WORDS[2:], k=3)])
            rows.append({"id": f"{name}-{number}", "text": text, "label": label})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(folder: Path) -> None:
    train = {"batch_size": 8, "precision": "fp32"}
    common = {"model": {"path": "pretrained"}, "evaluate": {"name": "classification", "resamples": 5}}
    reference = {**common, "train": {**train, "steps": 6}, "dynamics": {"mode": "online"}}
    select = {"name": "top", "score": "variability", "fraction": 0.5}
    main = {**common, "train": {**train, "steps": 4}, "use_dynamics_of": "reference", "select": select}
    sets = {
        "validation": {"path": "validation.jsonl", "role": "id", "split": "validation"},
        "ood": {"path": "ood.jsonl", "role": "ood"},
    }
    columns = {"id": "id", "text": ["text"], "label": "label"}
    data = {"train": {"path": "train.jsonl"}, "columns": columns, "evaluation": sets}
    places = {"output": "results", "store": "store", "task": {"max_length": 16}}
    recipe = {"data": data, "stages": {"reference": reference, "main": main}, **places}
    (folder / "first.yaml").write_text(json.dumps(recipe, indent=1) + "\n")


def make(folder: Path) -> None:
    from ftft.run.reading import load_recipe
    from ftft.run.runner import run_recipe

    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "pretrained")
    write_data(folder)
    write_recipe(folder)
    os.chdir(folder)
    run_recipe(load_recipe("first.yaml"))
    for path in [*folder.rglob(".lock"), *folder.rglob("README.md")]:
        path.unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
