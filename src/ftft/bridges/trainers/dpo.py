"""Direct preference optimisation: of two answers to a prompt the chosen one becomes likelier, measured from a reference.

With pi the model, ref the model as it was when the stage began, and of a row the prompt x, the chosen answer c, the rejected r:

    margin = beta (log pi(c|x) / ref(c|x) - log pi(r|x) / ref(r|x))        loss (sigmoid) = -log sigma(margin)

Rafailov et al. 2023, arXiv 2305.18290, equation 7; the trainer and its other losses are TRL's. The margin, which is the
difference of the two implicit rewards, is what the dynamics record.
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
class DPO:
    """Learn to prefer the chosen of two answers over the rejected one, staying near the model it began as."""

    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    coupling: ClassVar[str] = "none"
    paper: ClassVar[str] = "Rafailov et al. 2023, arXiv 2305.18290"
    library: ClassVar[str] = "trl"

    beta: float = setting(0.1, "how strongly the model is held to the reference", origin="arXiv 2305.18290, appendix B", gt=0)
    loss: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
        "discopop", "sigmoid_norm",
    ] = setting("sigmoid", "TRL's name of the loss; sigmoid is DPO's own")  # fmt: skip
    label_smoothing: float = setting(0.0, "the share of pairs whose order is taken to be wrong", ge=0, lt=0.5)

    name: ClassVar[str] = "dpo"
    inputs: ClassVar[TaskInputs] = TaskInputs(({"prompt": "text", "chosen": "text", "rejected": "text"},), labelled=False)
    data: ClassVar[bool] = True
    reference: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("margin",)

    def __post_init__(self) -> None:
        if self.loss == "exo_pair" and self.label_smoothing == 0:
            raise UserError("label_smoothing must be above 0 for the loss exo_pair, whose paper takes 0.001")

    def settled(self, task: Any) -> DPO:
        """Nothing is taken from the task."""
        return self

    def longest(self, task: Any) -> int:
        """Prompt and answer as the task cuts them."""
        return int(task.max_length)

    def lengths(self, examples: Examples, task: Any, processor: Any) -> np.ndarray:
        """Tokens of both sequences."""
        rows = _rows(examples, task, processor)
        return np.array([2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in rows], dtype=np.int32)

    def rows_per_epoch(self, rows: int, batch_size: int) -> int:
        """All."""
        return rows

    def start(self, setup: Setup) -> Any:
        """TRL's trainer; a prompt that has to be cut is cut alike before both answers."""
        from ftft.bridges.preferences import start_dpo
        from ftft.bridges.staged import ROW

        tokens = _rows(setup.examples.take(setup.rows), setup.task, setup.processor)
        columns: dict[str, list[Any]] = dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), map(list, zip(*tokens))))
        columns[ROW] = setup.rows.tolist()
        return start_dpo(setup, columns, beta=self.beta, loss_type=[self.loss], label_smoothing=self.label_smoothing)


def _rows(examples: Examples, task: Any, processor: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected answer of every example as tokens."""
    from ftft.bridges.completions import tokenised

    both = zip(*(tokenised(examples, name, task, processor) for name in ("chosen", "rejected")))
    return [(min(one[0], other[0], key=len), one[1], other[1]) for one, other in both]
