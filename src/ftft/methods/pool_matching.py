"""Examples and dynamics brought together: the same ids, the same contents, the same labels, and no evaluation data."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError


class LabelledExamples(Protocol):
    """What a selector reads of the examples: `ftft.data.examples.Examples` has it, and so has any object of these four."""

    @property
    def ids(self) -> pa.Array: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def label_names(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...


def id_strings(ids: pa.Array) -> pa.Array:
    """One array of strings of a column of ids."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    return ids if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type) else ids.cast(pa.string())


def refuse_evaluation(examples: Any, dynamics: Dynamics | None) -> None:
    """Evaluation data is never learned from: neither a set with a role, nor dynamics recorded on one."""
    sentence = "evaluation data can never be selected from; select from the training examples"
    if getattr(examples, "role", None) is not None or getattr(examples, "split", None) in ("validation", "test"):
        raise UserError(f'"{getattr(examples, "name", "this set")}" is an evaluation set, and {sentence}')
    split = None if dynamics is None else dynamics.metadata.get("split")
    if split is not None and not str(split).startswith("train"):
        raise UserError(f'these dynamics are of the split "{split}", and {sentence}')


def match(examples: LabelledExamples, ids: pa.Array, dynamics: Dynamics) -> np.ndarray | None:
    """Each example's row in the dynamics (None: in the same order); UserError where they are of other data."""
    at = None
    theirs = id_strings(dynamics.ids).cast(ids.type)
    if not theirs.equals(ids):
        found = pc.index_in(ids, value_set=theirs)
        if found.null_count:
            example = ids[int(np.flatnonzero(np.asarray(found.is_null()))[0])].as_py()
            raise UserError(
                f"these dynamics are of other data: {found.null_count} of {len(ids)} examples (for instance {example!r}) are "
                f"not among their {len(dynamics)} ids; record dynamics on the examples that are selected from"
            )
        at = found.to_numpy().astype(np.int64)
    expected = dynamics.metadata.get("data_fingerprint")
    if expected and examples.fingerprint and expected != examples.fingerprint:
        raise UserError(
            f"these dynamics are of other data: all {len(ids)} ids are among their {len(dynamics)}, but the examples' contents "
            f"differ from those recorded (fingerprint {examples.fingerprint[:12]}, not {expected[:12]}); record them again"
        )
    _compare_labels(examples, ids, dynamics, at)
    return at


def _compare_labels(examples: LabelledExamples, ids: pa.Array, dynamics: Dynamics, at: np.ndarray | None) -> None:
    if dynamics.gold is None or examples.labels is None:
        return
    gold = np.asarray(dynamics.gold, dtype=np.int64)
    gold = gold if at is None else gold[at]
    theirs = [str(name) for name in dynamics.metadata.get("label_names") or ()]
    ours = [str(name) for name in examples.label_names]
    if len(gold) and (gold.min() < 0 or (theirs and gold.max() >= len(theirs))):
        raise UserError(
            f"these dynamics are damaged: they hold gold labels from {gold.min()} to {gold.max()} for the names {theirs}"
        )
    if theirs and theirs != ours:
        # -1 stands for a label the examples do not have: it differs from every label.
        index_of = {name: index for index, name in enumerate(ours)}
        gold = np.array([index_of.get(name, -1) for name in theirs], dtype=np.int64)[gold]
    differs = gold != examples.labels
    if differs.any():
        example = ids[int(np.flatnonzero(differs)[0])].as_py()
        raise UserError(
            f"these dynamics were recorded with other labels: {int(differs.sum())} of {len(ids)} examples differ "
            f"(for instance {example!r}); record them again, or correct the labels or their order"
        )
