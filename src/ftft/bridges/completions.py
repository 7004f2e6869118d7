"""Prompts and completions as the task of language modelling tokenises them, for trainers that take tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.data.examples import Examples


def tokenised(examples: Examples, completion: str, task: Any, processor: Any) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of every example, the input named ``completion`` as what follows its prompt: cut to the task's
    ``max_length``, with the beginning- and end-of-text tokens that it puts there. UserError for a row without a completion."""
    pairs = {"prompt": examples.inputs["prompt"], "completion": examples.inputs[completion]}
    prepared = task.prepare(dataclasses.replace(examples, inputs=pairs), processor)
    found = []
    for first, last in zip(prepared.storage["offsets"], prepared.storage["offsets"][1:]):
        tokens = prepared.storage["input_ids"][first:last].tolist()
        begins = int(np.argmax(prepared.storage["told"][first:last]))
        found.append((tokens[:begins], tokens[begins:]))
    return found


def strings(values: pa.Array) -> list[str]:
    """A column of texts as a list."""
    return [str(value) for value in values.to_pylist()]
