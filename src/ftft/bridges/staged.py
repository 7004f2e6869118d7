"""What a trainer of TRL must do otherwise to be a stage of a recipe.

The rows come to it as tokens, so that they are cut and joined as in every other stage; its checkpoints are ours (whole or not
there, nothing pickled); it tells what it does after every step; and it sends nothing to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from ftft.data.examples import Examples
from ftft.data.inputs import TaskInputs

ROW = "row"  # the column, and the key in a batch, of a row's position among the examples
Shape = tuple[str, int, int]  # what is done, sequences, tokens of the padded length: what a step costs follows from it


class Keeper(Protocol):
    """Who keeps the books of a stage while its trainer runs: its costs, its dynamics, its checkpoints."""

    def counted(self, shape: Shape | None, step: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The loss of one micro-batch, which ``step`` computes with its gradient. ``shape``: None where equal shapes do not
        mean equal work. UserError where the loss is no finite number."""
        ...

    def observe(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """What the model said of the examples at ``rows`` (int64 [B]) in the step in hand, each float32 [B]."""
        ...

    def began(self) -> None:
        """An optimizer step begins."""
        ...

    def ended(self, examples: int, tokens: int) -> tuple[bool, bool]:
        """An optimizer step over so much has been taken. Gives whether to save now, and whether to stop now."""
        ...

    def save(self, trainer: Any) -> None: ...

    def load_model(self) -> None: ...

    def load_optimizer(self, trainer: Any) -> None: ...

    def load_random(self) -> None: ...


@dataclass(frozen=True)
class Setup:
    """What a trainer is started with. ``reference``: the model as it was before the adapter, frozen; None for a trainer that
    needs none. ``rows``: int64 [K], the positions in ``examples`` that are learned from. ``arguments``: those of
    ``transformers.TrainingArguments``, batch sizes in examples."""

    model: torch.nn.Module
    reference: torch.nn.Module | None
    processor: Any
    task: Any
    examples: Examples
    rows: np.ndarray
    seed: int
    arguments: Mapping[str, Any]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    keeper: Keeper


class StageTrainer(Protocol):
    """A trainer of TRL with its settings. ``data``: whether it reads rows that no other stage does, so that they must be
    given. ``reference``: whether it needs the model as it was. ``statistics``: what its dynamics hold of an example.
    ``coupling``: as of any method (:mod:`ftft.methods.contract`)."""

    name: ClassVar[str]
    inputs: ClassVar[TaskInputs]
    data: ClassVar[bool]
    reference: ClassVar[bool]
    statistics: ClassVar[tuple[str, ...]]
    coupling: ClassVar[str]

    def settled(self, task: Any) -> Any:
        """The trainer with what it takes from the task; UserError where the task does not say it."""
        ...

    def longest(self, task: Any) -> int:
        """The most tokens that a row takes of the model, what is written to it included."""
        ...

    def lengths(self, examples: Examples, task: Any, processor: Any) -> np.ndarray:
        """Tokens that go through the model for each example, int32 [N]."""
        ...

    def rows_per_epoch(self, rows: int, batch_size: int) -> int:
        """How many of so many rows are learned from in an epoch; UserError where they cannot be put into batches."""
        ...

    def start(self, setup: Setup) -> Any:
        """The trainer, ready to train."""
        ...


class Staged:
    """Mixed in before a class of TRL: what the module says. ``keeper`` is set before training begins."""

    keeper: Keeper
    seen_examples: int = 0
    seen_tokens: int = 0

    def shape_of(self, inputs: Any) -> Shape | None:
        """The shape of a micro-batch; None where the same shape may be other work."""
        return None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        step = super().training_step  # type: ignore[misc]
        return self.keeper.counted(self.shape_of(inputs), lambda: step(model, inputs, num_items_in_batch))

    def _prepare_dataset(self, dataset: Any, *others: Any) -> Any:
        return dataset

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.keeper.save(self)

    def _load_from_checkpoint(self, path: Any, model: Any = None) -> None:
        self.keeper.load_model()

    def _load_optimizer_and_scheduler(self, path: Any) -> None:
        if path is not None:
            self.keeper.load_optimizer(self)

    def _load_rng_state(self, path: Any) -> None:
        if path is not None:
            self.keeper.load_random()

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def begin(self, keeper: Keeper) -> None:
        """Let the keeper hear of every step, and nobody print."""
        self.keeper = keeper
        trainer: Any = self
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Steps(self))


class _Steps(TrainerCallback):
    """Tells the keeper where training stands, and the trainer what the keeper wants."""

    def __init__(self, trainer: Staged) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.seen_examples = self._trainer.seen_tokens = 0
        self._trainer.keeper.began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        save, stop = self._trainer.keeper.ended(self._trainer.seen_examples, self._trainer.seen_tokens)
        control.should_save, control.should_training_stop = save, control.should_training_stop or stop
        return control


def options(setup: Setup) -> dict[str, Any]:
    """The arguments common to all trainers of TRL, which have other defaults than ``transformers.Trainer``: full precision
    and no gradient checkpointing unless asked for, no file and no figure on the way, all columns kept."""
    return {
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "seed": setup.seed,
        "data_seed": setup.seed,
        "use_cpu": next(setup.model.parameters()).device.type == "cpu" and not torch.cuda.is_available(),
        **setup.arguments,
    }


def trainer_state(folder: Path, text: str) -> Path:
    """The folder that a trainer resumes from, which holds its state alone; everything else its keeper loads."""
    (folder / "trainer_state.json").write_text(text, encoding="utf-8")
    return folder
