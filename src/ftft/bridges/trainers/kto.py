"""Kahneman-Tversky optimisation: answers marked desirable become likelier and the others less so, without pairs.

With the implicit reward r = beta log pi(y|x) / ref(y|x), and z the divergence from the reference, estimated in every batch:

    value = lambda_D sigma(r - z) of a desirable answer, lambda_U sigma(z - r) of another;    loss = lambda - value

Ethayarajh et al. 2024, arXiv 2402.01306, section 4; the trainer is TRL's. The dynamics record the margin: r of a
desirable answer, -r of another, so that above 0 the model has moved the way the label asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ftft.data.inputs import TaskInputs
from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    from ftft.bridges.staged import Setup
    from ftft.data.examples import Examples


@dataclass(frozen=True)
class KTO:
    """Learn from single answers that are marked desirable or not, staying near the model it began as."""

    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    coupling: ClassVar[str] = "batch"
    paper: ClassVar[str] = "Ethayarajh et al. 2024, arXiv 2402.01306"
    library: ClassVar[str] = "trl"

    beta: float = setting(0.1, "how strongly the model is held to the reference", origin="trl", gt=0)
    loss: Literal["kto", "apo_zero_unpaired"] = setting("kto", "TRL's name of the loss; kto is KTO's own")
    desirable_weight: float = setting(1.0, "lambda_D, the weight of desirable answers", gt=0)
    undesirable_weight: float = setting(1.0, "lambda_U, the weight of the others", gt=0)

    name: ClassVar[str] = "kto"
    inputs: ClassVar[TaskInputs] = TaskInputs(({"prompt": "text", "completion": "text"},), labelled=True)
    data: ClassVar[bool] = True
    reference: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("margin",)

    def settled(self, task: Any) -> KTO:
        """Nothing is taken from the task."""
        return self

    def longest(self, task: Any) -> int:
        """Prompt and answer as the task cuts them."""
        return int(task.max_length)

    def lengths(self, examples: Examples, task: Any, processor: Any) -> np.ndarray:
        """Tokens of prompt and answer."""
        from ftft.bridges.completions import tokenised

        rows = tokenised(examples, "completion", task, processor)
        return np.array([len(prompt) + len(told) for prompt, told in rows], dtype=np.int32)

    def rows_per_epoch(self, rows: int, batch_size: int) -> int:
        """All; UserError where a batch would hold a single row, which has no other to be compared with."""
        if rows % batch_size == 1:
            raise UserError(f"the last batch of {batch_size} would hold a single row, and kto compares the rows of a batch")
        return rows

    def start(self, setup: Setup) -> Any:
        """TRL's trainer, on the rows in one random order: it takes them in the same batches in every epoch."""
        from ftft.bridges.completions import tokenised
        from ftft.bridges.preferences import start_kto
        from ftft.bridges.staged import ROW

        rows = np.random.default_rng(setup.seed).permutation(setup.rows)
        tokens = tokenised(setup.examples.take(rows), "completion", setup.task, setup.processor)
        columns: dict[str, list[Any]] = dict(zip(("prompt_ids", "completion_ids"), map(list, zip(*tokens))))
        columns["label"] = [bool(label) for label in setup.examples.inputs["label"].take(rows).to_pylist()]
        columns[ROW] = rows.tolist()
        return start_kto(
            setup,
            columns,
            beta=self.beta,
            loss_type=self.loss,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
