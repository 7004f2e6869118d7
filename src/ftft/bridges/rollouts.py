"""TRL's GRPO trainer as a stage; it records of every prompt how often its answers were right, and how much that varied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer

from ftft.bridges.staged import ROW, Setup, Staged, options
from ftft.tasks.answers import How, is_right


class StagedGRPO(Staged, GRPOTrainer):
    """GRPO on prompts given as tokens."""

    prompt_tokens: dict[int, list[int]]  # by row
    steps_per_epoch: int
    asked: list[int]  # the rows of the batch that is being written to

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return _Shuffled(self, super()._get_train_sampler(dataset))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self.asked = [int(one[ROW]) for one in inputs]
        before = self.state.num_input_tokens_seen
        scored = super()._generate_and_score_completions(inputs)
        self.seen_examples += len(set(self.asked))
        self.seen_tokens += int(self.state.num_input_tokens_seen - before)
        return scored

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompt_tokens[row] for row in self.asked], None, {}


class _Shuffled(Sampler[int]):
    """TRL's sampler with an order for each epoch that follows from the seed alone; TRL's own goes on from the epochs before,
    which a resumed run has not drawn."""

    def __init__(self, trainer: Any, sampler: Any) -> None:
        self._trainer, self._sampler = trainer, sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        epoch = self._trainer.state.global_step // self._trainer.steps_per_epoch
        self._sampler.generator.manual_seed(int(np.random.SeedSequence([self._trainer.args.seed, epoch]).generate_state(1)[0]))
        return iter(self._sampler)


class _ExactMatch:
    """The reward: 1 for an answer that is right, else 0. Tells the keeper of every prompt's answers."""

    __name__ = "exact_match"

    def __init__(self, setup: Setup, references: dict[int, str], kind: How) -> None:
        self.keeper, self.references, self.kind = setup.keeper, references, kind

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        asked = np.array(columns[ROW], dtype=np.int64)
        rewards = np.array(
            [float(is_right(text, self.references[row], self.kind)) for text, row in zip(completions, asked.tolist())]
        )
        rows, group = np.unique(asked, return_inverse=True)
        times = np.bincount(group)
        rate = np.bincount(group, weights=rewards) / times
        variance = np.bincount(group, weights=(rewards - rate[group]) ** 2) / times
        self.keeper.observe(rows, {"pass_rate": rate.astype(np.float32), "reward_variance": variance.astype(np.float32)})
        return rewards.tolist()


def start_grpo(
    setup: Setup, prompts: dict[int, list[int]], references: dict[int, str], kind: How, generations: int, **settings: Any
) -> StagedGRPO:
    """The GRPO trainer on ``prompts`` (tokens by row), whose answers ``kind`` compares with ``references`` (by row)."""
    arguments = {**options(setup), **settings}
    arguments["per_device_train_batch_size"] *= generations  # TRL counts answers, not prompts
    rows = list(prompts)
    trainer = StagedGRPO(
        model=setup.model,
        reward_funcs=_ExactMatch(setup, references, kind),
        args=GRPOConfig(
            **arguments, num_generations=generations, max_completion_length=setup.task.answer_tokens, beta=0.0, use_vllm=False
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": [""] * len(rows), ROW: rows}),
        processing_class=setup.processor,
        optimizers=(setup.optimizer, setup.scheduler),
    )
    trainer.prompt_tokens = prompts
    per_step = int(setup.arguments["per_device_train_batch_size"]) * int(setup.arguments["gradient_accumulation_steps"])
    trainer.steps_per_epoch = len(rows) // per_step
    return trainer
