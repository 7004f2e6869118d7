"""Trains a tiny classifier with the recorder attached; started by test_recorder_processes.py in two processes."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from ftft.bridges.recorder import DynamicsRecorder
from ftft.errors import UserError

N = 13


class Spy(BertForSequenceClassification):
    """Keeps what every training forward pass said."""

    def forward(self, input_ids=None, labels=None, **rest):
        outputs = super().forward(input_ids=input_ids, labels=labels, **rest)
        if self.training:
            self.__dict__.setdefault("passes", []).append((input_ids[:, 0].tolist(), outputs.logits.tolist()))
        return outputs


def train(folder: Path, mode: str, resume: Path | None = None) -> Spy:
    torch.manual_seed(0)
    model = Spy(
        BertConfig(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
            max_position_embeddings=16,
        )  # fmt: skip
    )
    g = np.random.default_rng(0)
    ids = [[5 + row, *g.integers(5, 50, 4).tolist()] for row in range(N)]
    data = datasets.Dataset.from_dict(
        {"guid": [f"x{i}" for i in range(N)], "input_ids": ids, "label": g.integers(0, 3, N).tolist()}
    )
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=2, num_train_epochs=2, use_cpu=True, report_to=[], disable_tqdm=True,
        learning_rate=1e-2, logging_strategy="no", save_strategy="steps", save_steps=3, ddp_find_unused_parameters=False,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=data)
    recorder = DynamicsRecorder(mode=mode, folder=folder).attach(trainer)
    try:
        recorder.dynamics()
    except UserError as error:
        assert "complete only when" in str(error)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    assert recorder.dynamics().seen.all()
    return model


def leave() -> None:
    """End together, with nothing that still holds a process group: its threads would abort in the interpreter's end."""
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    model = train(folder / "straight", "online")
    rank = torch.distributed.get_rank()
    (folder / f"log_{rank}.json").write_text(json.dumps(model.passes))
    train(folder / "resumed", "online", resume=folder / "straight" / "checkpoint-3")
    train(folder / "epoch_end", "epoch_end")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
