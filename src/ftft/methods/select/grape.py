"""GRAPE: of several answers to one prompt, the one that the model itself finds the most likely.

For a prompt x with the answers y_1..y_n (the rows that share it) and the model before fine-tuning:

    s_j = sum_t log p(y_jt | x, y_j<t)             normalise: sum   the probability of the whole answer
    s_j = 1/|y_j| sum_t log p(y_jt | x, y_j<t)     normalise: mean  that of a token, the geometric mean

The ``keep`` answers with the largest s_j stay (equal ones by id), and training on them is plain. Zhang et al. 2025,
arXiv 2502.04194, which says conditional probability and nothing of length: ``sum`` is the literal reading and favours short
answers; ``mean``, our default, favours repetitive ones. ``counts`` holds the mean of both and the mean length, of the pool and
of what was chosen. The answers come from other models or from data sets that share prompts; a tuned copy's own samples are
reported to hurt. Score with the model that is going to be trained, as it was before: `use_model_of` an earlier stage is another
method.

Prompts are the same where their texts are; of a chat, where all before the assistant's last turn is, and what the assistant
said earlier counts in s_j as in the loss. A prompt with one answer keeps it. ``choose`` has the paper's other arms: the least
likely answer, and a random one (which no model is asked for). "Highest" in the paper's table 2 is the highest perplexity: it is
``worst`` here. Written from the paper alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from ftft.data.messages import text_of
from ftft.data.prompting import require_prompts, turns_asked
from ftft.dynamics.choosing import rank
from ftft.dynamics.idhash import uniform_of_ids
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection
from ftft.methods.pool import Pool, Ranking, rule_of
from ftft.settings import setting
from ftft.tasks.sequences import PREDICTIONS

if TYPE_CHECKING:
    from ftft.data.examples import Examples
    from ftft.methods.contract import ScoringModel


@dataclass(frozen=True)
class GRAPE:
    """Of the answers to each prompt, those that the model finds the most likely before it is trained."""

    needs: ClassVar[tuple[str, ...]] = ("scoring_model",)
    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhang et al. 2025, arXiv 2502.04194"

    keep: int = setting(1, "answers kept of each prompt; all where it has fewer", origin="paper", ge=1)
    normalise: Literal["mean", "sum"] = setting(
        "mean", "compare the mean log-probability of an answer's tokens, or their sum", origin="ours; the paper does not say"
    )
    choose: Literal["best", "worst", "random"] = setting("best", "which answers stay; worst and random are for comparison")

    def select(self, examples: Examples, dynamics: Dynamics | None, *, seed: int, scoring: ScoringModel) -> Selection:
        """The chosen answers of all prompts, best first. Raises UserError for evaluation data, for texts without a prompt, and
        where no prompt has two answers."""
        pool = Pool.of(examples, None, seed=seed)
        prompts = prompts_of(examples)
        answers = np.bincount(prompts)
        if answers.max() == 1:
            raise UserError(
                f"grape chooses among several answers to one prompt, and each of the {len(answers):,} prompts has one; "
                "give rows that share a prompt, or select all"
            )
        ranking, figures = Ranking(None, uniform_of_ids(pool.ids, seed)), {}
        if self.choose != "random":
            said = np.asarray(scoring.predictions(examples), dtype=np.float64)
            mean, tokens = (said[:, PREDICTIONS.index(name)] for name in ("mean_log_probability", "tokens"))
            figures = {"mean_log_probability": mean, "log_probability": mean * tokens, "tokens": tokens}
            name = "mean_log_probability" if self.normalise == "mean" else "log_probability"
            ranking = Ranking(name, figures[name], largest=self.choose == "best")
        rows = first_of_each(rank(ranking.keys, pool.ids), prompts, self.keep)
        found = pool.selection(rule_of(self, "grape", seed=seed if self.choose == "random" else None), [ranking], [rows])
        means: dict[str, Any] = {
            name: {"pool": float(values.mean()), "selected": float(values[rows].mean())} for name, values in figures.items()
        }
        several = int((answers > 1).sum())
        return replace(found, counts={**found.counts, "prompts": len(answers), "with_several_answers": several, "means": means})


def prompts_of(examples: Examples) -> np.ndarray:
    """A number for every example's prompt, int64 [N], the same where the prompt is; UserError where there is none."""
    inputs = examples.inputs
    require_prompts(examples, "grape compares answers to a prompt")
    if "prompt" in inputs:
        texts = inputs["prompt"]
    else:
        texts = pa.array([text_of(turns_asked(chat)) for chat in inputs["messages"].to_pylist()], pa.large_string())
    return np.asarray(texts.dictionary_encode().indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def first_of_each(order: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Of rows in ``order`` (int64 [N]) the first ``count`` of each group (``groups`` int64 [N], by row), in that order."""
    own = groups[order]
    together = np.argsort(own, kind="stable")
    begins = np.searchsorted(own[together], own[together])
    place = np.empty(len(order), dtype=np.int64)
    place[together] = np.arange(len(order)) - begins
    return order[place < count]
