"""Group relative policy optimisation: the model writes several answers to a prompt, and learns from which were right.

Of the G answers to a prompt with rewards r_1..G (1 where the answer is that of the row, else 0)

    advantage of answer g = (r_g - mean r) / std r,    the answer's tokens become likelier where it is above 0

Shao et al. 2024, arXiv 2402.03300, section 4.1, without the divergence from a reference, which later work found to be
unnecessary (Liu et al. 2025, arXiv 2503.20783). The trainer and its losses are TRL's. The dynamics record the share of the
answers that were right (``pass_rate``) and the population variance of their rewards (``reward_variance``): a prompt where that
is 0 teaches nothing.
"""

from __future__ import annotations

import dataclasses
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
class GRPO:
    """Write several answers to each prompt, and make those likelier that are right."""

    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    coupling: ClassVar[str] = "group"
    paper: ClassVar[str] = "Shao et al. 2024, arXiv 2402.03300"
    library: ClassVar[str] = "trl"

    generations: int = setting(8, "answers written to each prompt", origin="trl", ge=2)
    reward: Literal["marked", "number", "text"] | None = setting(
        None, "what of an answer is compared, as in task.answer; by default that"
    )
    temperature: float = setting(1.0, "of the answers' tokens", gt=0)
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = setting(
        "dapo", "TRL's name of the loss", origin="trl"
    )
    scale: Literal["group", "batch", "none"] = setting("group", "by whose standard deviation an advantage is divided")
    epsilon: float = setting(0.2, "how far a token's probability ratio counts", origin="trl", gt=0)

    name: ClassVar[str] = "grpo"
    inputs: ClassVar[TaskInputs] = TaskInputs(
        ({"prompt": "text", "answer": "text"}, {"prompt": "text", "completion": "text"}), labelled=False
    )
    data: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    statistics: ClassVar[tuple[str, ...]] = ("pass_rate", "reward_variance")

    def settled(self, task: Any) -> GRPO:
        """With the task's way to compare answers, where it has no own."""
        if self.reward is None and task.answer is None:
            raise UserError("reward: neither it nor task.answer says how answers are compared; give marked, number or text")
        return dataclasses.replace(self, reward=self.reward or task.answer)

    def longest(self, task: Any) -> int:
        """A prompt as the task cuts it, and what is written behind it."""
        return int(task.max_length + task.answer_tokens)

    def lengths(self, examples: Examples, task: Any, processor: Any) -> np.ndarray:
        """Tokens of the prompt."""
        return np.array([len(prompt) for prompt, _ in _rows(examples, task, processor)], dtype=np.int32)

    def rows_per_epoch(self, rows: int, batch_size: int) -> int:
        """Whole batches only."""
        if rows < batch_size:
            raise UserError(f"there are {rows} prompts, fewer than a batch of {batch_size}, and grpo takes whole batches only")
        return rows - rows % batch_size

    def start(self, setup: Setup) -> Any:
        """TRL's trainer."""
        from ftft.bridges.completions import strings
        from ftft.bridges.rollouts import start_grpo

        examples = setup.examples.take(setup.rows)
        tokens, answers = _rows(examples, setup.task, setup.processor), strings(examples.inputs[_answer(examples)])
        assert self.reward is not None
        return start_grpo(
            setup,
            {row: prompt for row, (prompt, _) in zip(setup.rows.tolist(), tokens)},
            dict(zip(setup.rows.tolist(), answers)),
            self.reward,
            self.generations,
            temperature=self.temperature,
            loss_type=self.loss,
            scale_rewards=self.scale,
            epsilon=self.epsilon,
        )


def _answer(examples: Examples) -> str:
    return "answer" if "answer" in examples.inputs else "completion"


def _rows(examples: Examples, task: Any, processor: Any) -> list[tuple[list[int], list[int]]]:
    from ftft.bridges.completions import tokenised

    return tokenised(examples, _answer(examples), task, processor)
