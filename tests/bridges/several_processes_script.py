"""Trainings with the recorder that test_recorder_several_processes.py starts in two processes, and repeats in one."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from ftft.bridges.recorder import DynamicsRecorder
from ftft.dynamics.parquet import write_dynamics

EPOCHS = 2


class Spy(BertForSequenceClassification):
    """Keeps the first token and the logits of every row of every training forward pass, and the mean loss."""

    def forward(self, input_ids=None, labels=None, **rest):
        outputs = super().forward(input_ids=input_ids, labels=labels, **rest)
        if self.training:
            self.__dict__.setdefault("passes", []).append((input_ids[:, 0].tolist(), outputs.logits.tolist()))
        return outputs


class LossTrainer(Trainer):
    """Keeps the loss of every micro-batch; gives the rows in ``order``, epoch by epoch, where there is one."""

    order = None

    def _get_train_sampler(self, *args):
        return super()._get_train_sampler(*args) if self.order is None else EpochOrder(self.order)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.__dict__.setdefault("losses", []).append(loss.item())
        return loss


class EpochOrder(torch.utils.data.Sampler):
    def __init__(self, order: list[list[int]]) -> None:
        self.order, self.epoch = order, 0

    def __len__(self) -> int:
        return len(self.order[0])

    def __iter__(self):
        self.epoch += 1
        return iter(self.order[self.epoch - 1])


def rows(n: int) -> datasets.Dataset:
    g = np.random.default_rng(0)
    ids = [[5 + row, *g.integers(5, 50, 4).tolist()] for row in range(n)]
    return datasets.Dataset.from_dict(
        {"guid": [f"x{i}" for i in range(n)], "input_ids": ids, "label": g.integers(0, 3, n).tolist()}
    )


def make(
    folder: Path,
    *,
    n: int = 13,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    accumulation: int = 2,
    order: list[list[int]] | None = None,
    **changed: object,
) -> LossTrainer:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    settings = {
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "num_train_epochs": EPOCHS,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "learning_rate": 1e-2, "logging_strategy": "no",
        "save_strategy": "no", "ddp_find_unused_parameters": False, "adam_epsilon": 1e-3,
        "average_tokens_across_devices": False,  # BERT's loss is a mean whatever it is told, so this would double it
    } | changed  # fmt: skip
    trainer = LossTrainer(Spy(config).to(dtype), TrainingArguments(str(folder), **settings), train_dataset=rows(n))
    trainer.order = order
    return trainer


def write(trainer: LossTrainer, recorder: DynamicsRecorder | None, name: str, folder: Path) -> None:
    rank = torch.distributed.get_rank()
    left = {"losses": trainer.losses, "passes": trainer.model.passes}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(left))
    save_file({key: value.clone() for key, value in trainer.model.state_dict().items()}, folder / f"{name}-{rank}.safetensors")
    if recorder is not None:
        write_dynamics(recorder.dynamics(), folder / f"{name}-{rank}.parquet")


RUNS = {
    "off": (None, {"dropout": 0.2, "dtype": torch.float32}),
    "on": ("online", {"dropout": 0.2, "dtype": torch.float32}),
    "on_epoch_end": ("epoch_end", {"dropout": 0.2, "dtype": torch.float32}),
    "online": ("online", {"save_strategy": "epoch"}),
    "epoch_end": ("epoch_end", {}),
    # 15 rows in batches of 2 without fill-ins: the second process' last batch is of one row
    "partial": ("online", {"n": 15, "accelerator_config": {"even_batches": False}}),
}


def leave() -> None:
    """End together, with nothing that still holds a process group: its threads would abort in the interpreter's end."""
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    for name, (mode, settings) in RUNS.items():
        trainer = make(folder / name, **settings)
        recorder = None if mode is None else DynamicsRecorder(mode=mode, folder=folder / name).attach(trainer)
        trainer.train()
        write(trainer, recorder, name, folder)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
