"""Prompts and completions as the task of language modelling tokenises them, for trainers that take tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa

from ftft.data.examples import Examples
from ftft.errors import UserError


def tokenised(examples: Examples, completion: str, task: Any, processor: Any) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of every example, the input named ``completion`` as what follows its prompt: cut to the task's
    ``max_length``, with the beginning- and end-of-text tokens that it puts there. UserError for a row without a completion, or
    without a token before it."""
    pairs = {"prompt": examples.inputs["prompt"], "completion": examples.inputs[completion]}
    prepared = task.prepare(dataclasses.replace(examples, inputs=pairs), processor)
    found = []
    offsets, asked = prepared.storage["offsets"], prepared.storage["asked"].tolist()
    for row, (first, last, begins) in enumerate(zip(offsets, offsets[1:], asked)):
        if begins == 0:
            raise UserError(
                f"example {examples.ids[row].as_py()} has an empty prompt, and the tokenizer begins no text with a token of "
                "its own, so nothing comes before the answer; give it a prompt, or leave the row out"
            )
        tokens = prepared.storage["input_ids"][first:last].tolist()
        found.append((tokens[:begins], tokens[begins:]))
    return found


def strings(values: pa.Array) -> list[str]:
    """A column of texts as a list."""
    return [str(value) for value in values.to_pylist()]
