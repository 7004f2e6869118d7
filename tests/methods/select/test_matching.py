"""Which dynamics belong to which examples: other data, other labels and evaluation data are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ftft.data.examples import EvaluationSet, Examples
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.select.all import All
from ftft.methods.select.top import Top
from ftft.methods.selection import ExamplesOfDynamics

View = Callable[[Dynamics], ExamplesOfDynamics]
TOP = Top(count=2)


def test_examples_are_matched_by_id_whatever_their_order(imbalanced: Dynamics, view: View) -> None:
    order = np.random.default_rng(0).permutation(200)
    examples = view(imbalanced)
    assert examples.labels is not None
    shuffled = replace(examples, ids=examples.ids.take(pa.array(order)), labels=examples.labels[order])
    assert TOP.select(shuffled, imbalanced, seed=0).ids.equals(TOP.select(examples, imbalanced, seed=0).ids)


def test_dynamics_may_hold_more_examples_when_nothing_speaks_against_it(fixture_a: Dynamics, view: View) -> None:
    examples = view(fixture_a)
    assert examples.labels is not None
    few = replace(examples, ids=examples.ids.slice(0, 3), labels=examples.labels[:3])
    assert TOP.select(few, fixture_a, seed=0).ids.to_pylist() == ["c", "a"]
    assert TOP.select(few, fixture_a, seed=0).counts["pool"] == 3


def test_ids_that_are_missing_are_counted(fixture_a: Dynamics, view: View) -> None:
    examples = replace(view(fixture_a), ids=pa.array([*"abcdefgh", "y", "z"]))
    with pytest.raises(UserError, match=r"2 of 10 examples \(for instance 'y'\) are not among their 10 ids"):
        TOP.select(examples, fixture_a, seed=0)


def test_the_same_ids_with_other_contents_are_refused(imbalanced: Dynamics, view: View) -> None:
    with pytest.raises(UserError, match="all 200 ids are among their 200, but the examples' contents differ"):
        TOP.select(replace(view(imbalanced), fingerprint="0" * 64), imbalanced, seed=0)


def test_other_labels_are_counted_and_label_order_is_no_difference(imbalanced: Dynamics, view: View) -> None:
    examples = view(imbalanced)
    assert examples.labels is not None
    renamed = replace(examples, label_names=examples.label_names[::-1], labels=2 - examples.labels)
    assert TOP.select(renamed, imbalanced, seed=0).ids.equals(TOP.select(examples, imbalanced, seed=0).ids)
    labels = examples.labels.copy()
    labels[[3, 8]] = 2
    with pytest.raises(UserError, match="other labels: 2 of 200 examples differ"):
        TOP.select(replace(examples, labels=labels), imbalanced, seed=0)
    swapped = replace(examples, label_names=("rare", "common", "rarest"))
    with pytest.raises(UserError, match="other labels: 190 of 200"):
        TOP.select(swapped, imbalanced, seed=0)


def test_evaluation_data_can_never_be_selected_from(fixture_a: Dynamics, view: View) -> None:
    with pytest.raises(UserError, match='of the split "validation", and evaluation data can never be selected from'):
        TOP.select(view(fixture_a), replace(fixture_a, metadata={"split": "validation"}), seed=0)
    TOP.select(view(fixture_a), replace(fixture_a, metadata={"split": "train"}), seed=0)
    examples = Examples(pa.array(["a"]), {}, np.zeros(1, dtype=np.int64), ("x", "y"), "")
    held_out = EvaluationSet("anli", examples, role="ood", split="test")
    for method in (TOP, All()):
        with pytest.raises(UserError, match='"anli" is an evaluation set'):
            method.select(held_out, None, seed=0)  # type: ignore[arg-type]


def test_an_empty_pool_and_missing_dynamics_are_one_sentence(fixture_a: Dynamics, view: View) -> None:
    empty = Examples(pa.array([], type=pa.string()), {}, np.zeros(0, dtype=np.int64), ("x", "y"), "")
    with pytest.raises(UserError, match="no examples to select from"):
        All().select(empty, None, seed=0)
    with pytest.raises(UserError, match="variability needs training dynamics"):
        TOP.select(view(fixture_a), None, seed=0)


def test_sequence_dynamics_select_without_labels() -> None:
    probability = np.array([[0.1, 0.5, 0.9], [0.2, 0.9, 0.9]], dtype=np.float32)
    dynamics = Dynamics(pa.array(["x", "y", "z"]), (0, 1), np.ones((2, 3), dtype=bool), statistics={"probability": probability})
    selection = TOP.select(ExamplesOfDynamics.of(dynamics), dynamics, seed=0)
    assert selection.ids.to_pylist() == ["y", "x"] and "classes" not in selection.counts
    with pytest.raises(UserError, match="balancing over classes needs labels"):
        Top(count=1, balance="prior").select(ExamplesOfDynamics.of(dynamics), dynamics, seed=0)


def test_gold_labels_without_a_name_are_refused(fixture_a: Dynamics, view: View) -> None:
    with pytest.raises(UserError, match="damaged"):
        damaged = replace(fixture_a, metadata={"label_names": ["only"]})
        TOP.select(view(damaged), damaged, seed=0)
