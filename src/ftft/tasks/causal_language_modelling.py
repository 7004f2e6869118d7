"""Causal language modelling: go on from a prompt as the completion does.

A row is a ``prompt`` and a ``completion``, a chat of ``messages``, or a ``text`` without a prompt.

Prompt and completion are tokenised on their own and joined, so that no token lies across the seam and the mask of the
completion is exact; a row begins with the beginning-of-text token where the tokenizer itself adds one, and the completion ends
with the end-of-text token. Of the L - 1 predictions of a row those count whose target belongs to the completion, and of a chat
those that the assistant says (:mod:`ftft.tasks.chats`). Too long a row loses the beginning of its prompt, then the end of its
completion; too long a chat its end. Rows stand side by side, padded on the right, or share a row (:mod:`ftft.tasks.packing`).

    loss of a row = mean over its target tokens t of -log p(y_t | y_<t),   units = its number of target tokens

so that a step's loss is the mean over all its target tokens, however they fall on rows and micro-batches.

With ``answer`` the model also writes: from the prompt (of a chat: from all before the last turn of the assistant that
``max_length`` leaves something of) it goes on greedily, and the answer in its text is compared with that in the row
(:mod:`ftft.tasks.answers`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from ftft.data.inputs import TaskInputs
from ftft.data.messages import messages_of
from ftft.data.prompting import turns_asked
from ftft.errors import UserError
from ftft.paths import expand
from ftft.settings import setting
from ftft.tasks.answers import is_right
from ftft.tasks.chats import asked_of, behind_a_turn, read_template, require_template, tokenised_chats
from ftft.tasks.contract import Batch, Prepared, Quantities, UnitLogits, batch_of, wide
from ftft.tasks.decoding import Batching, Counting, Written, end_tokens, greedy, pad_token, written_to
from ftft.tasks.packing import SEQUENCE, first_fit, owners
from ftft.tasks.sequences import EXACT_MATCH, IGNORED, PREDICTIONS, STATISTICS, measure, statistics_of

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples

CHUNK = 4096  # texts given to the tokenizer at once: bounds the memory its Python lists take
MULTIPLE = 8  # batch widths, for the matrix units; also few distinct shapes to count the FLOPs of


class Row(NamedTuple):
    """``tokens``, which of them are to be ``told``, and where an answer is asked for: behind so many of the tokens, as the
    ``turn`` of a chat (from 0)."""

    tokens: list[int]
    told: list[bool]
    asked: int
    turn: int = 0


@dataclass(frozen=True)
class CausalLanguageModelling:
    """Continue a text, answer a prompt (``prompt``, ``completion``), or take the assistant's part in a chat (``messages``)."""

    max_length: int = setting(512, "tokens of prompt and completion; a longer prompt loses its beginning", ge=2)
    add_end: bool = setting(True, "the completion ends with the tokenizer's end-of-text token")
    chat_template: str | None = setting(None, "a file with the chat template (Jinja); by default the tokenizer's own")
    answer: Literal["marked", "number", "text"] | None = setting(
        None, "measure exact_match of greedily written texts: what stands behind ####, the last number, or the whole text"
    )
    answer_tokens: int = setting(128, "the most tokens that are written for an answer", ge=1)

    name: ClassVar[str] = "causal_language_modelling"
    inputs: ClassVar[TaskInputs] = TaskInputs(
        ({"prompt": "text", "completion": "text"}, {"messages": "messages"}, {"text": "text"}), labelled=False
    )
    files: ClassVar[tuple[str, ...]] = ("chat_template",)
    model: ClassVar[str] = "causal_language_model"
    evaluator: ClassVar[str] = "language_modelling"

    @property
    def longest(self) -> int:
        """The most tokens an input has, what is written included."""
        return self.max_length + (0 if self.answer is None else self.answer_tokens)

    @property
    def steering(self) -> tuple[str, ...]:
        """The scores that may stop a training."""
        return ("loss", "perplexity", "token_accuracy", *([] if self.answer is None else [EXACT_MATCH]))

    @property
    def quantities(self) -> Quantities:
        """What its numbers are called; where answers are written, whether they are right comes first."""
        if self.answer is None:
            return Quantities(PREDICTIONS, STATISTICS, ("loss", "perplexity", "token_accuracy"))
        compared = (EXACT_MATCH, "loss", "perplexity", "token_accuracy")
        return Quantities((*PREDICTIONS, EXACT_MATCH), STATISTICS, compared)

    def prepare(self, examples: Examples, processor: Any) -> Prepared:
        """Tokenise every row. UserError where the tokenizer has no end-of-text token, a row has no target token, or answers
        are asked of rows without a prompt."""
        if self.answer is not None and "text" in examples.inputs:
            raise UserError("task.answer: rows of text alone ask nothing; give them as prompt and completion, or leave it out")
        rows = self._chats(examples, processor) if "messages" in examples.inputs else self._texts(examples, processor)
        tokens, told, lengths, asked, turns = _flattened(rows)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
        told[offsets[:-1][lengths > 0]] = False  # the first token of all has nothing to be told from
        storage: dict[str, Any] = {
            "input_ids": tokens,
            "told": told,
            "offsets": offsets,
            "pad_token_id": pad_token(processor),
        }
        sums = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(told, dtype=np.int64)])
        empty = np.flatnonzero(np.diff(sums[offsets]) == 0)
        if len(empty):
            raise UserError(
                f"example {examples.ids[int(empty[0])].as_py()} has no token to predict within task.max_length "
                f"{self.max_length}; leave it out, give it a completion, or raise max_length"
            )
        if self.answer is not None:
            unasked = np.flatnonzero(asked == 0)
            if len(unasked):
                raise UserError(
                    f"task.answer: example {examples.ids[int(unasked[0])].as_py()} has an empty prompt, so nothing asks for an "
                    "answer; give it a prompt, leave the row out, or leave `answer` out"
                )
            storage |= {"processor": processor, "asked": asked, "turns": turns, **_ends_of_turns(examples, processor)}
        return Prepared(examples=examples, lengths=lengths, storage=storage)

    def _texts(self, examples: Examples, processor: Any) -> Iterator[Row]:
        end = processor.eos_token_id
        if self.add_end and end is None:
            raise UserError(
                "task.add_end: the tokenizer has no end-of-text token; set add_end to false, or use a tokenizer that has one"
            )
        prompts = examples.inputs.get("prompt")
        completions = examples.inputs["completion" if prompts is not None else "text"]
        first = _beginning(processor)
        for start in range(0, len(examples), CHUNK):
            answers = _tokenise(processor, completions.slice(start, CHUNK).to_pylist())
            before = [[] for _ in answers] if prompts is None else _tokenise(processor, prompts.slice(start, CHUNK).to_pylist())
            for prompt, answer in zip(before, answers):
                yield self._join(first, prompt, [*answer, end] if self.add_end else answer)

    def _chats(self, examples: Examples, processor: Any) -> Iterator[Row]:
        self._require_template(processor)
        chats = zip(examples.inputs["messages"], examples.ids)
        for chat in tokenised_chats(((one.as_py(), name.as_py()) for one, name in chats), processor):
            left = [(turn, begins) for turn, begins in chat.turns if begins < self.max_length]
            turn, begins = left[-1] if left else (0, 0)
            yield Row(chat.tokens[: self.max_length], chat.said[: self.max_length], begins, turn)

    def _require_template(self, processor: Any) -> None:
        if self.chat_template is not None:  # the tokenizer keeps it, so that the saved model is asked as it was taught
            processor.chat_template = read_template(expand(self.chat_template, "task.chat_template"))
        require_template(processor)

    def _join(self, first: list[int], prompt: list[int], answer: list[int]) -> Row:
        """The row's tokens, at most ``max_length``, and which are its completion. At least one token of a prompt stays."""
        room = self.max_length - len(first)
        if len(prompt) + len(answer) > room:
            left = max(1, room - len(answer)) if prompt else 0
            prompt = prompt[len(prompt) - min(left, len(prompt)) :]
            answer = answer[: room - len(prompt)]
        before = first + prompt
        return Row(before + answer, [False] * len(before) + [True] * len(answer), len(before))

    def collate(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]): inputs int64 [B, L], ``extra["targets"]`` int64 [B, L - 1], what
        each position is to predict (-100: nothing)."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = prepared.lengths[rows]
        mask = np.arange(self._width(lengths)) < lengths[:, None]
        tokens, targets = self._laid_out(prepared, rows, mask.shape, np.nonzero(mask))
        return self._batch(prepared, rows, weights, tokens, targets, {"attention_mask": mask.astype(np.int64)}, {})

    def pack(self, prepared: Prepared, rows: np.ndarray, weights: np.ndarray | None = None) -> Batch:
        """The batch of the examples at ``rows`` (int64 [B]) in R <= B rows as wide as padding would make them: inputs int64
        [R, L], targets and ``extra["sequence"]`` int64 [R, L - 1]. Everything else is still one for each example."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = prepared.lengths[rows].astype(np.int64)
        layout = first_fit(lengths, width := self._width(lengths))
        sequence = np.repeat(np.arange(len(rows)), lengths)
        place = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = layout.row[sequence], layout.start[sequence] + place
        tokens, targets = self._laid_out(prepared, rows, (layout.rows, width), where)
        positions, owner = np.zeros_like(tokens), np.zeros_like(tokens)
        positions[where], owner[where] = place, sequence
        return self._batch(prepared, rows, weights, tokens, targets, {"position_ids": positions}, {SEQUENCE: owner[:, 1:]})

    def _width(self, lengths: np.ndarray) -> int:
        longest = int(lengths.max())
        return max(longest, min(-(-longest // MULTIPLE) * MULTIPLE, self.max_length))

    def _laid_out(
        self, prepared: Prepared, rows: np.ndarray, shape: tuple[int, ...], where: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets, int64 of that shape, with the examples' tokens, one example after another, at ``where``."""
        storage, lengths = prepared.storage, prepared.lengths[rows].astype(np.int64)
        at = np.arange(lengths.sum()) + np.repeat(storage["offsets"][rows] - np.cumsum(lengths) + lengths, lengths)
        tokens = np.full(shape, storage["pad_token_id"], dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        tokens[where] = storage["input_ids"][at]
        targets[where] = np.where(storage["told"][at], storage["input_ids"][at], IGNORED)
        return tokens, targets

    def _batch(
        self,
        prepared: Prepared,
        rows: np.ndarray,
        weights: np.ndarray | None,
        tokens: np.ndarray,
        targets: np.ndarray,
        beside: dict[str, np.ndarray],
        extra: dict[str, np.ndarray],
    ) -> Batch:
        import torch

        inputs = {name: torch.from_numpy(value) for name, value in {"input_ids": tokens, **beside}.items()}
        batch = batch_of(prepared.examples, rows, weights, inputs)
        own = {"targets": targets[:, 1:], **extra}
        batch.extra.update({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in own.items()})
        return batch

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [R, L - 1, V], position by position those that predict ``targets``: float64 from a float64 model, else in the
        model's own precision (a copy in float32 of a large vocabulary would cost more than the model)."""
        return model(**batch.inputs, use_cache=False).logits[:, :-1]

    def per_example_loss(self, outputs: torch.Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> torch.Tensor:
        """Mean over the row's target tokens of the cross-entropy in nats, float32 (float64 if the model is) [B]."""
        import torch

        units = self.unit_logits(outputs, batch)
        losses = torch.nn.functional.cross_entropy(
            wide(units.logits), units.targets, reduction="none", label_smoothing=label_smoothing
        )
        total = losses.new_zeros(len(batch)).index_add(0, units.example, losses)
        return total / self.units(batch).to(total.dtype).clamp(min=1)

    def units(self, batch: Batch) -> torch.Tensor:
        """Target tokens of every example, float32 [B]."""
        import torch

        told = (batch.extra["targets"] != IGNORED).to(torch.float32)
        return told.new_zeros(len(batch)).index_add(0, owners(batch).flatten(), told.flatten())

    def unit_logits(self, outputs: torch.Tensor, batch: Batch) -> UnitLogits:
        """Every target token is a unit: logits [U, V]."""
        targets = batch.extra["targets"]
        where = targets != IGNORED
        return UnitLogits(wide(outputs[where]), targets[where], owners(batch)[where])

    def record(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The statistics of every sequence (:mod:`ftft.tasks.sequences`), each float32 [B]."""
        import torch

        with torch.no_grad():
            values, _ = statistics_of(outputs.detach(), batch.extra["targets"], owners(batch), len(batch))
        return {name: value.cpu() for name, value in values.items()}

    def predictions(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """:data:`ftft.tasks.sequences.PREDICTIONS` of every row, float32 [B, 3]."""
        import torch

        with torch.no_grad():
            values, tokens = statistics_of(outputs.detach(), batch.extra["targets"], owners(batch), len(batch))
        kept = [values["mean_log_probability"], values["token_accuracy"], tokens]
        return torch.stack([one.to("cpu", torch.float32) for one in kept], dim=1)

    def written(self, model: torch.nn.Module, data: Prepared, batch: Batch, count: Counting) -> torch.Tensor | None:
        """Whether the answer that the model writes to each row is right, float32 [B, 1]; None where none is asked for."""
        import torch

        if self.answer is None:
            return None
        rows, storage = batch.rows.tolist(), data.storage
        processor, cut = storage["processor"], storage["cut"]
        answers = greedy(
            model,
            [_asked(data, row) for row in rows],
            most=self.answer_tokens,
            ends=end_tokens(model, processor) | storage["ends"],
            pad=storage["pad_token_id"],
            count=count,
        )
        texts = processor.batch_decode(answers, skip_special_tokens=True)
        texts = [text.partition(cut)[0] if cut else text for text in texts]
        right = [is_right(text, _reference(data, row), self.answer) for text, row in zip(texts, rows)]
        return torch.tensor(right, dtype=torch.float32)[:, None]

    def write(
        self, model: torch.nn.Module, examples: Examples, processor: Any, *, most: int, count: Counting, batch: Batching
    ) -> list[Written]:
        """What the model greedily answers to the question of every example. A prompt is never cut: one that leaves no room
        within ``max_length`` is not asked, and an answer that does not end in the room left has not ended."""
        if "messages" in examples.inputs:
            self._require_template(processor)
            prompts = [asked_of(turns_asked(chat), name, processor) for chat, name in _named(examples)]
        else:
            first = _beginning(processor)
            prompts = [first + tokens for tokens in _tokenise(processor, examples.inputs["prompt"].to_pylist())]
        turn = _ends_of_turns(examples, processor)
        return written_to(
            model,
            prompts,
            processor,
            most=most,
            room=self.max_length,
            ends=end_tokens(model, processor) | turn["ends"],
            cut=turn["cut"],
            pad=pad_token(processor),
            count=count,
            batch=batch,
        )

    def measure(
        self, labels: np.ndarray, predictions: np.ndarray, counts: np.ndarray | None = None
    ) -> Mapping[str, np.ndarray | float]:
        """:func:`ftft.tasks.sequences.measure`."""
        return measure(predictions, counts)


def _flattened(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens int32 and told bool of all rows [T], and of each row its length, ``asked`` and ``turn``, int32 [N]; no more than
    the tokenizer's last chunk is ever held as Python lists."""
    tokens, told, lengths, asked, turns = array("i"), array("b"), array("i"), array("i"), array("i")
    for row in rows:
        tokens.extend(row.tokens)
        told.extend(row.told)
        lengths.append(len(row.tokens))
        asked.append(row.asked)
        turns.append(row.turn)
    whole = [np.array(one, dtype=np.int32) for one in (tokens, lengths, asked, turns)]
    return whole[0], np.array(told, dtype=bool), whole[1], whole[2], whole[3]


def _ends_of_turns(examples: Examples, processor: Any) -> dict[str, Any]:
    """How an answer in a chat ends beside the end of the text, ``ends`` (tokens) and ``cut`` (a text): as the template ends the
    assistant's turn. A special token of its ends the writing; a turn that it ends in plain words is cut off there."""
    if "messages" not in examples.inputs or not len(examples):
        return {"ends": frozenset(), "cut": ""}
    behind = behind_a_turn(examples.inputs["messages"][0].as_py(), examples.ids[0].as_py(), processor)
    special = {*processor.all_special_ids, *processor.added_tokens_decoder}
    ends = [token for token in _tokenise(processor, [behind])[0] if token in special]
    return {"ends": frozenset(ends[:1]), "cut": "" if ends or not behind.strip() else behind.rstrip()}


def _asked(data: Prepared, row: int) -> list[int]:
    """The tokens of a row before the answer that it asks for."""
    first = data.storage["offsets"][row]
    return [int(token) for token in data.storage["input_ids"][first : first + data.storage["asked"][row]]]


def _reference(data: Prepared, row: int) -> str:
    """What the row itself says: its completion, or the assistant's turn that is asked for."""
    inputs = data.examples.inputs
    if "completion" in inputs:
        return str(inputs["completion"][row].as_py())
    return str(messages_of(inputs["messages"][row].as_py())[data.storage["turns"][row]]["content"])


def _named(examples: Examples) -> Iterator[tuple[str, str]]:
    return zip(examples.inputs["messages"].to_pylist(), examples.ids.to_pylist())


def _tokenise(processor: Any, texts: list[str]) -> list[list[int]]:
    return processor(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _beginning(processor: Any) -> list[int]:
    """The beginning-of-text token, where the tokenizer puts one before a text by itself."""
    begins = processor.bos_token_id
    return [begins] if begins is not None and processor("a")["input_ids"][:1] == [begins] else []
