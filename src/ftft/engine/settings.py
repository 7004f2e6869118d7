"""The recipe's settings of the training loop and of the models; no heavy import here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftft.models.settings import ModelSettings as ModelSettings
from ftft.settings import setting


@dataclass(frozen=True)
class TrainSettings:
    """How long and in what batches."""

    epochs: float | None = setting(3.0, "passes over the selected examples; the schedule is fitted to this length", gt=0)
    steps: int | None = setting(None, "optimizer steps, instead of epochs", ge=1)
    batch_size: int = setting(32, "examples per optimizer step, over all processes and accumulated micro-batches", ge=1)
    micro_batch_size: int | None = setting(None, "examples per forward pass; by default the whole batch", ge=1)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "how the learning rate decays after warm-up")
    warmup: float = setting(0.1, "share of the steps over which the learning rate rises from 0", origin="FTFT code", ge=0, lt=1)
    clip: float | None = setting(1.0, "largest global gradient norm; null switches clipping off", origin="FTFT code", gt=0)
    end_at: float | None = setting(
        None,
        "end after this share of the steps, the learning rate as if all of them followed: a checkpoint of the whole",
        gt=0,
        le=1,
    )
    precision: Literal["auto", "fp32", "bf16", "fp64"] = setting(
        "auto", "auto: bf16 autocast where the processor has native bf16 and is faster with it, else fp32"
    )
    evaluate_every: float | None = setting(
        None,
        "steps between evaluations on the validation sets (below 1: a share of the planned steps); by default each epoch",
        gt=0,
    )
    checkpoint_seconds: float = setting(60.0, "seconds between checkpoints for resuming", gt=0)
    sharding: Literal["none", "fsdp2"] = setting(
        "none", "what each of several processes holds while it trains: none: a copy of the model; fsdp2: its shard of it"
    )
    pack: bool = setting(
        False, "several short examples in one row, kept apart: the same losses and dynamics at less padding (language models)"
    )
    shuffle: Literal["bucketed", "plain"] = setting(
        "bucketed", "bucketed: random batches of similar length (less padding); plain: a random order"
    )


@dataclass(frozen=True)
class StopSettings:
    """When to stop before the planned end."""

    patience: int = setting(
        2, "evaluations without improvement before stopping", origin="FTFT, section on early stopping", ge=1
    )
    on: list[str] = setting((), "validation sets whose mean score decides; by default every set with role id", factory=list)
    metric: str | None = setting(None, "the score that is compared; by default the task's first (classification: accuracy)")
    minimum_improvement: float = setting(0.0, "an evaluation improves only when it beats the best by more than this", ge=0)


@dataclass(frozen=True)
class Range:
    """Between what values a setting is searched."""

    low: float = setting(0.0, "the lowest value")
    high: float = setting(1.0, "the highest value")
    scale: Literal["log", "linear"] = setting("log", "equally probable are equal ratios (log) or equal differences (linear)")
    times: bool = setting(False, "the values are factors of what the recipe says, and not the setting itself")


@dataclass(frozen=True)
class SearchSettings:
    """Trials before a stage trains: each learns for a few steps with other settings and is scored on validation sets; the stage
    then trains with the best. All of a trial's cost is booked under `search`."""

    on: list[str] = setting((), "validation sets whose mean score decides, those out of distribution too", factory=list)
    trials: int = setting(100, "settings that are tried, the recipe's own among them", origin="AutoFT: 100 to 500", ge=2)
    steps: int = setting(20, "optimizer steps of a trial, at a constant learning rate", origin="AutoFT: 10 to 100", ge=1)
    metric: str | None = setting(None, "the score that decides; by default the task's first (classification: accuracy)")
    sampler: Literal["tpe", "random"] = setting(
        "tpe", "tpe: tree-structured Parzen estimator (optuna); random: independent draws", origin="AutoFT"
    )
    space: dict[str, Range] = setting(
        {},
        "ranges by setting (optimize.learning_rate: {low, high, ...}); by default what the stage's methods say",
        factory=dict,
    )


@dataclass(frozen=True)
class DynamicsSettings:
    """What a stage records of its training."""

    mode: Literal["online", "epoch_end"] = setting("online", "online: the training forward, free; epoch_end: one extra pass")
    max_classes: int = setting(64, "above this many classes keep the gold logit and the largest other only", ge=2)
