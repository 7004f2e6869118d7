"""S3FT: learn from the model's own answer where it is right, else from its paraphrase of the given one, else from that.

For every example (x, y) and the model M before fine-tuning:

    y' = M(x)                              target y' if judge(y', y)
    y" = M(x, with y as a reference)       else target y" if judge(y", y)
                                           else target y

and plain supervised fine-tuning on the targets: what the model would say anyway moves it less, so that it forgets less. Gupta
et al. 2025, arXiv 2502.08130, figure 1. ``own: false`` leaves the first step out: every answer is paraphrased, which is the
SDFT that the paper compares with; ``paraphrase: false`` leaves out the second.

The judge compares the answer in the text (:mod:`ftft.tasks.answers`) with that in the row, so a right last number behind wrong
reasoning passes. The paper's caption judges y; it means y'. Its prompts state the answer's format: state it in the rows' own
prompts. ``instruction`` is our wording of the paraphrase prompt. Texts are written greedily (sampled ones would give another
mixture of sources), and one that has not ended within ``max_tokens``, or would not fit into the task's ``max_length`` beside
its prompt, is no answer. The paper's other judges, unit tests (MBPP) and a language model (reading comprehension), are not
among ours; :func:`own_answers` takes any. Written from the paper alone. trl's experimental "sdft" is another method.

Every row keeps its id; where its target comes from (``self``, ``paraphrase``, ``gold``) is written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa

from ftft.data.prompting import answers_of, questions_of, require_prompts, with_answers, with_questions
from ftft.errors import UserError
from ftft.methods.contract import Created
from ftft.settings import setting
from ftft.tasks.answers import is_right

if TYPE_CHECKING:
    from ftft.data.examples import Examples
    from ftft.methods.contract import Writer

SELF, PARAPHRASE, GOLD = "self", "paraphrase", "gold"
Write = Callable[["Examples"], "list[str | None]"]  # an answer for every example, None where there is none
Judge = Callable[[str, str], bool]  # (what was written, the row's own answer) -> whether it is right


@dataclass(frozen=True)
class S3FT:
    """Take the model's own right answers as targets, else its paraphrases of the given ones, else these."""

    needs: ClassVar[tuple[str, ...]] = ("generation",)
    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Gupta et al. 2025, arXiv 2502.08130"

    answer: Literal["number", "marked", "text"] = setting(
        "number", "what is right: the last number, what stands behind ####, or the whole text", origin="paper: exact match"
    )
    own: bool = setting(True, "ask the model first; false: paraphrase every answer (SDFT)", origin="paper")
    paraphrase: bool = setting(True, "where its own answer is wrong, let it put the given one in its words", origin="paper")
    max_tokens: int = setting(256, "the most tokens that are written for an answer", origin="ours", ge=1)
    instruction: str = setting(
        "{prompt}\n\nA correct answer is:\n{answer}\n\nAnswer the question in your own words and come to the same result.\n",
        "how it is asked to paraphrase, with {prompt} and {answer} in it",
        origin="ours",
    )

    def __post_init__(self) -> None:
        missing = [name for name in ("{prompt}", "{answer}") if name not in self.instruction]
        if missing:
            raise UserError(f"instruction must hold {' and '.join(missing)}, which stand for the row's own texts")
        if not (self.own or self.paraphrase):
            raise UserError("own and paraphrase are both false, so that nothing is written; leave create out")

    def create(self, examples: Examples, writer: Writer) -> Created:
        """The examples with their targets, in their order. Raises UserError for rows without a prompt."""
        require_prompts(examples, "s3ft asks the model what the rows ask")

        def paraphrase(some: Examples) -> list[str | None]:
            pairs = zip(questions_of(some), answers_of(some))
            # One after the other would find "{answer}" in a prompt that speaks of it.
            asked = [_filled(self.instruction, {"{prompt}": one, "{answer}": other}) for one, other in pairs]
            return writer.write(with_questions(some, asked), self.max_tokens)

        steps: list[tuple[str, Write]] = []
        if self.own:
            steps.append((SELF, lambda some: writer.write(some, self.max_tokens)))
        if self.paraphrase:
            steps.append((PARAPHRASE, paraphrase))
        targets, sources = own_answers(examples, steps, lambda written, gold: is_right(written, gold, self.answer))
        counts = {"parents": len(examples), **{name: sources.count(name) for name in (SELF, PARAPHRASE, GOLD)}}
        rule = {"name": "s3ft", **asdict(self)}
        return Created(with_answers(examples, targets), examples.ids, pa.array(sources, pa.string()), rule, counts)


def own_answers(examples: Examples, steps: list[tuple[str, Write]], judge: Judge) -> tuple[list[str], list[str]]:
    """The target of every example, and where it comes from: of the ``steps`` (a name, and what writes) the first whose text
    the ``judge`` finds right; only examples without one go on to the next. Else its own answer, from ``"gold"``."""
    gold = answers_of(examples)
    targets, sources = list(gold), [GOLD] * len(gold)
    left = np.arange(len(gold))
    for name, write in steps:
        if len(left) == 0:
            break
        found = write(examples.take(left))
        right = np.array([text is not None and judge(text, gold[row]) for row, text in zip(left.tolist(), found)], dtype=bool)
        for place in np.flatnonzero(right).tolist():
            targets[left[place]], sources[left[place]] = str(found[place]), name
        left = left[~right]
    return targets, sources


def _filled(text: str, values: dict[str, str]) -> str:
    """The text with every marker replaced, and nothing that stands in what replaces it."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)
