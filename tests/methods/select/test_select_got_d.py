"""GOT-D: the cluster of the target is chosen; the linear program's own choice on a small problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.optimize
import torch

from ftft.data.examples import Examples
from ftft.errors import UserError
from ftft.methods.select.got_d import GOTD
from ftft.methods.selection import read_selection
from ftft.run.reading import recipe_from_dict
from ftft.run.runner import read_result, run_recipe


def examples(n: int, prefix: str) -> Examples:
    return Examples(pa.array([f"{prefix}{i:03d}" for i in range(n)]), {}, np.arange(n) % 2, ("a", "b"), prefix)


class Scoring:
    """Points by id; remembers how many it was asked for."""

    def __init__(self, points: dict[str, np.ndarray], target: Examples) -> None:
        self.points, self.wanted, self.asked = points, target, []

    def embed(self, some: Examples) -> np.ndarray:
        self.asked.append(len(some))
        return np.stack([self.points[one] for one in some.ids.to_pylist()]).astype(np.float32)

    def target(self, name: str) -> Examples:
        assert name == "validation"
        return self.wanted


def scoring(pool: np.ndarray, target: np.ndarray) -> Scoring:
    points = {f"p{i:03d}": point for i, point in enumerate(pool)} | {f"t{i:03d}": point for i, point in enumerate(target)}
    return Scoring(points, examples(len(target), "t"))


def chosen(pool: np.ndarray, target: np.ndarray, **settings: Any) -> list[int]:
    found = GOTD(**settings).select(examples(len(pool), "p"), None, seed=0, scoring=scoring(pool, target))
    return [int(one[1:]) for one in found.ids.to_pylist()]


def test_of_two_clusters_that_of_the_target_is_chosen() -> None:
    source = np.random.default_rng(0)
    pool = source.standard_normal((60, 4))
    pool[::3] += 6.0
    target = source.standard_normal((25, 4)) + 6.0
    assert set(chosen(pool, target, count=20)) == set(range(0, 60, 3))
    found = GOTD(fraction=1.0).select(examples(60, "p"), None, seed=0, scoring=scoring(pool, target))
    near = np.array([int(one[1:]) % 3 == 0 for one in found.ids.to_pylist()])
    assert found.scores is not None and near[:20].all()
    assert found.scores[near].max() < 0 < found.scores[~near].min() and abs(found.scores.sum()) < 1e-4
    assert not set(chosen(pool, target - 6.0, count=20)) & set(range(0, 60, 3))


def test_the_choice_is_the_linear_programs() -> None:
    source = np.random.default_rng(1)
    pool = source.standard_normal((17, 3)).astype(np.float32)
    target = (source.standard_normal((6, 3)) + 0.8).astype(np.float32)
    cost = torch.cdist(torch.from_numpy(pool).double(), torch.from_numpy(target).double()).numpy()
    constraints = np.concatenate([np.kron(np.eye(17), np.ones((1, 6))), np.kron(np.ones((1, 17)), np.eye(6))])
    sides = np.concatenate([np.full(17, 1 / 17), np.full(6, 1 / 6)])
    dual = np.asarray(scipy.optimize.linprog(cost.reshape(-1), A_eq=constraints, b_eq=sides).eqlin.marginals)[:17]
    expected = np.argsort(dual)
    assert np.diff(dual[expected])[4] > 0.02, "the sixth is well behind the fifth"
    assert set(chosen(pool, target, count=5, regularisation=0.002, iterations=20000)) == set(expected[:5].tolist())


def test_the_most_negative_gradient_comes_first_and_is_the_score() -> None:
    source = np.random.default_rng(2)
    pool, target = source.standard_normal((30, 2)), source.standard_normal((11, 2)) + 2.0
    found = GOTD(fraction=0.5).select(examples(30, "p"), None, seed=0, scoring=scoring(pool, target))
    assert found.scores is not None and len(found) == 15 and np.all(np.diff(found.scores) >= 0) and found.scores[0] < 0
    assert found.rule["target_examples"] == 11 and found.rule["off_by"] <= 1e-6 and found.counts["pool"] == 30


def test_of_a_large_target_a_sample_by_ids_is_taken() -> None:
    source = np.random.default_rng(3)
    one = scoring(source.standard_normal((20, 2)), source.standard_normal((50, 2)))
    found = GOTD(count=3, target_size=10).select(examples(20, "p"), None, seed=0, scoring=one)
    assert one.asked == [20, 10] and found.rule["target_examples"] == 10
    one.wanted = one.wanted.take(np.arange(50)[::-1])
    again = GOTD(count=3, target_size=10).select(examples(20, "p"), None, seed=0, scoring=one)
    assert again.ids.equals(found.ids)


def test_classes_can_be_balanced() -> None:
    source = np.random.default_rng(4)
    found = chosen(source.standard_normal((40, 2)), source.standard_normal((9, 2)), count=10, balance="class")
    assert sum(one % 2 for one in found) == 5


def test_a_language_model_is_tuned_on_the_chosen_texts_and_then_on_its_task(tmp_path: Path, tiny_llama_folder: Path) -> None:
    """The paper's two stages, on texts of two kinds of words: of the first those of the target's kind are chosen."""
    source, kinds = np.random.default_rng(0), (["dog", "cat", "people"], ["good", "bad", "great"])

    def write(name: str, size: int, kind: int | None) -> str:
        rows = []
        for row in range(size):
            words = source.choice(kinds[row % 2 if kind is None else kind], size=6)
            rows.append(json.dumps({"id": f"{name}-{row}", "text": " ".join(words)}) + "\n")
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        return str(tmp_path / f"{name}.jsonl")

    sets = {
        name: {"path": write(name, 8, 1), "role": "id", "split": split}
        for name, split in (("validation", "validation"), ("test", "test"))
    }
    usual = {
        "train": {"steps": 2, "batch_size": 4, "precision": "fp32"},
        "evaluate": {"name": "language_modelling", "resamples": 0},
    }
    chosen = {"name": "got_d", "target": "validation", "count": 8}
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 32},
        "data": {"train": {"path": write("train", 24, None)}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {
            "first": {**usual, "model": {"path": str(tiny_llama_folder)}, "select": chosen},
            "second": {**usual, "model": {"stage": "first"}},
        },
        "output": str(tmp_path / "runs"),
    }
    folder = run_recipe(recipe_from_dict(raw, default_name="got_d"))
    kept = read_selection(folder / "stages/first/selection.parquet")
    assert len(kept) == 8 and all(int(one.removeprefix("train-")) % 2 == 1 for one in kept.ids.to_pylist())
    assert read_result(folder)["stages"]["first"]["ledger"]["effective"]["scoring"]["examples"] == 24 + 8


def test_a_size_is_needed_and_a_diverged_model_is_refused() -> None:
    with pytest.raises(UserError, match="fraction"):
        GOTD()
    with pytest.raises(UserError, match="cannot compare the pool with validation: the points to transport are not finite"):
        chosen(np.full((4, 2), np.nan), np.zeros((3, 2)), count=2)
