"""Masked thought: some tokens of the answer that the model reads are replaced, those that it is to say stay.

For every token i of the completion (of a chat: of what the assistant says), at step t of T:

    x~_i = a random token of the vocabulary    with probability p(t)         p(t) = rate * min(1, t / (ramp * T))
           x_i                                 else

    loss = mean over the completion's tokens of -log p(x_i | x~_<i)

so that a step of a rationale leans less on the few tokens before it and more on the question. Prompts are never touched, and
each token is drawn by itself: the number that is replaced is binomial. Chen et al. 2024, arXiv 2403.02178; mechanism and
defaults (those of GSM8K) from the released code. There the schedule counts the collator's calls, which depend on workers and
accumulation: here it counts optimizer steps. It may replace end tokens, whose place chats rely on: here the last token of every
told part and the tokens that the model's own generation ends with stay. ``random_share`` below 1 puts one fixed token for the
rest of the replaced, as the code's settings for other data do with a new mask token; a new token would need new rows of the
embeddings, so it is the model's padding token, or any other that ``mask_token`` names. Not here are three options of the
code: a falling share, a late start, and hiding the replaced tokens from attention.

The noise of an example follows from the training's random numbers, the step and the example alone, whatever batch it stands in
and whatever process computes it.
``outputs`` are those of the replaced inputs, so they are not to be recorded as training dynamics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Loss, Models
    from ftft.tasks.contract import Batch


@dataclass(frozen=True)
class MaskedThought:
    """Replace random tokens of the answer in the model's input, and let it say the right ones all the same."""

    rate: float = setting(
        0.4, "the highest share of an answer's tokens that is replaced", origin="released code, GSM8K", ge=0, le=1
    )
    ramp: float = setting(
        0.66,
        "share of the steps over which that share rises from 0; 0: it is the highest at once",
        origin="as above",
        ge=0,
        le=1,
    )
    random_share: float = setting(
        1.0,
        "share of the replaced that becomes a random token; the rest becomes one fixed token",
        origin="as above",
        ge=0,
        le=1,
    )
    mask_token: int | None = setting(None, "the id of that fixed token; by default the model's padding token", ge=0)

    needs: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    sharded: ClassVar[bool] = True
    coupling: ClassVar[str] = "none"
    exceptions: ClassVar[dict[str, str]] = {"records": "the outputs are of answers with replaced tokens"}
    paper: ClassVar[str] = "Chen et al. 2024, arXiv 2403.02178"

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]:
        """The function from one micro-batch to its loss, whose noise grows with the steps.

        Raises UserError where a fixed token is asked for and neither the model nor ``mask_token`` names one it has."""
        import torch

        model: Any = models.unwrapped
        vocabulary = int(model.get_input_embeddings().num_embeddings)
        mask = self.mask_token if self.mask_token is not None else getattr(model.config, "pad_token_id", None)
        if self.random_share < 1 and (mask is None or not 0 <= mask < vocabulary):
            raise UserError(
                f"objective: masked_thought puts one token for the others, and the model has "
                f"{'no padding token' if mask is None else f'{vocabulary:,} tokens, not {mask}'}; set mask_token to the id of "
                "one it has, or random_share to 1"
            )
        return _Noised(self, models, task, vocabulary, mask, int(torch.randint(2**31, ())))

    def probability(self, step: int, steps: int) -> float:
        """p(t): the share that is replaced at step number ``step`` (from 0) of ``steps``."""
        return self.rate if self.ramp == 0 else self.rate * min(1.0, step / (self.ramp * steps))


@dataclass
class _Noised:
    """The loss function; ``seed`` and the ``step`` make its noise."""

    method: MaskedThought
    models: Models
    task: Any
    vocabulary: int
    mask: int | None
    seed: int
    step: int = 0
    p: float = 0.0

    def before_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.step, self.p = step, self.method.probability(step, steps)

    def state(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seed = int(state["seed"])

    def __call__(self, batch: Batch) -> Loss:
        from ftft.methods.contract import Loss

        noised, replaced = self.noised(batch)
        outputs = self.task.forward(self.models.main, noised)
        losses = self.task.per_example_loss(outputs, batch)
        return Loss(
            total=(batch.weights * self.task.units(batch) * losses).sum(),
            per_example=losses.detach().float(),
            outputs=outputs,
            parts={"replaced": replaced},
        )

    def noised(self, batch: Batch) -> tuple[Batch, float]:
        """The batch as the model reads it at this step, and the share of the tokens to be told that is replaced."""
        import torch

        from ftft.tasks.packing import owners

        if self.p == 0:
            return batch, 0.0
        tokens = batch.inputs["input_ids"].cpu().numpy().copy()
        where = self._replaceable(batch, tokens)
        told = max(1, int((batch.extra["targets"] >= 0).sum()))
        owner = owners(batch).cpu().numpy()[where[0], where[1] - 1]
        count = 0
        for example, row in enumerate(batch.rows.tolist()):
            at = tuple(one[owner == example] for one in where)
            chosen, values = self._draw(row, len(at[0]))
            tokens[at[0][chosen], at[1][chosen]] = values[chosen]
            count += int(chosen.sum())
        given = torch.from_numpy(tokens).to(batch.inputs["input_ids"].device)
        return dataclasses.replace(batch, inputs={**batch.inputs, "input_ids": given}), count / told

    def _replaceable(self, batch: Batch, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every input token that may be replaced."""
        from ftft.tasks.decoding import model_ends

        told = np.zeros(tokens.shape, dtype=bool)
        told[:, 1:] = (batch.extra["targets"] >= 0).cpu().numpy()
        last = told.copy()
        last[:, :-1] &= ~told[:, 1:]
        rows, columns = np.nonzero(told & ~last & ~np.isin(tokens, sorted(model_ends(self.models.main))))
        return rows, columns

    def _draw(self, row: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of an example's replaceable tokens which are replaced, bool [count], and with what, int64 [count]."""
        generator = np.random.default_rng([self.seed, self.step, row])
        chosen = generator.random(count) < self.p
        values = generator.integers(self.vocabulary, size=count)
        fixed = generator.random(count) >= self.method.random_share
        if self.mask is not None:
            values[fixed] = self.mask
        return chosen, values
