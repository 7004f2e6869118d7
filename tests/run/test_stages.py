"""What a stage is keyed by, and what it leaves: nothing that measures or reports may make it run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.data.loading import load_data
from ftft.dynamics.parquet import read_dynamics
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import Selection
from ftft.run.recipe import LATER_IN_STAGE, Recipe, without_later
from ftft.run.selections import rows_and_weights
from ftft.run.stages import StageRun
from ftft.run.store import Store, stage_key

NO_TRAINING = {"steps": 2, "batch_size": 8, "precision": "fp32"}


def stage_run(recipe: Recipe, name: str, store: Path, events: list[dict[str, Any]] | None = None) -> StageRun:
    told = events if events is not None else []
    task = registry.build_task(recipe.task)
    return StageRun(recipe, name, load_data(recipe.data), task, Store(store), {}, told.append, lambda sentence: None)


def key(recipe: Recipe, store: Path, *, model: str = "m", precision: str = "fp32", dynamics: str | None = None) -> str:
    return stage_key(stage_run(recipe, "erm", store).spec(model, precision, dynamics))


def test_the_key_changes_with_what_determines_the_outcome_and_with_nothing_else(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    def changed(**changes: Any) -> Recipe:
        return tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": NO_TRAINING, **changes}})

    store = tmp_path / "store"
    first = key(changed(), store)
    same = [
        changed(evaluate={"name": "classification", "resamples": 7}),
        changed(train={**NO_TRAINING, "checkpoint_seconds": 3.0}),
        changed(train={**NO_TRAINING, "sharding": "fsdp2"}),
        changed(seed=0),
        dataclasses.replace(changed(), name="another", output=str(tmp_path / "elsewhere"), baseline="erm"),
    ]
    assert [key(recipe, store) for recipe in same] == [first] * len(same)
    # Settings that came later are left out of the key at their defaults, so that older stages are still known.
    settings = dataclasses.asdict(changed().stages["erm"])
    kept = without_later(settings, LATER_IN_STAGE)
    assert settings.keys() - kept.keys() == {
        *("create", "data", "other_models", "search", "trainer", "use_model_of", "use_models_of")
    }
    assert settings["train"].keys() - kept["train"].keys() == {"end_at", "pack", "sharding"}
    different = [
        changed(train={**NO_TRAINING, "end_at": 0.5}),
        changed(seed=1),
        changed(train={**NO_TRAINING, "steps": 3}),
        changed(optimize={"name": "adamw", "learning_rate": 3e-4}),
        changed(select={"name": "random", "count": 8}),
        changed(stop={"patience": 1}),
        dataclasses.replace(changed(), task={**changed().task, "max_length": 16}),
    ]
    keys = [key(recipe, store) for recipe in different]
    others: list[dict[str, str]] = [{"model": "n"}, {"precision": "bf16"}, {"dynamics": "d"}]
    keys += [key(changed(), store, **other) for other in others]
    assert len({first, *keys}) == 1 + len(keys)


def test_corrections_change_the_key_by_what_they_correct_and_not_by_their_file(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    def corrected(name: str, lines: str) -> str:
        (tmp_path / name).write_text(f"id,action,label\n{lines}", encoding="utf-8")
        changes = {"corrections": str(tmp_path / name)}
        return key(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": NO_TRAINING}}, data=changes), tmp_path / "store")

    first, second = load_data(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}}).data).train.ids.to_pylist()[:2]
    plain = key(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": NO_TRAINING}}), tmp_path / "store")
    keys = [plain, corrected("a.csv", f"{first},drop,\n"), corrected("a.csv", f"{second},drop,\n")]
    assert len(set(keys)) == 3 and corrected("b.csv", f"{second},drop,\n") == keys[2]


def test_a_finished_stage_is_taken_from_the_store_with_all_it_left(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"dynamics": {"mode": "epoch_end"}}})
    events: list[dict[str, Any]] = []
    first, again = (stage_run(recipe, "erm", tmp_path / "store", events).run() for _ in range(2))
    assert (first.reused, again.reused) == (False, True) and first.key == again.key
    assert again.summary == first.summary and again.ledger.effective == first.ledger.effective
    assert again.ledger.reused and sum(event["event"] == "reused" for event in events) == 1
    # The dynamics say whose they are without naming a folder of this machine.
    assert again.dynamics_path is not None
    model = read_dynamics(again.dynamics_path).metadata["model"]
    assert model["source"] == "model" and str(tiny_bert_folder) not in str(model)
    # One extra pass at the end of each of the two epochs, charged on its own.
    assert first.ledger.effective["scoring"].examples == 2 * 96 and first.ledger.effective["scoring"].flops > 0


def test_rows_and_weights_follow_the_ids() -> None:
    ids = pa.array(["a", "b", "c", "d"])
    rows, weights = rows_and_weights(Selection(pa.array(["c", "a", "c"]), np.ones(3), {}), ids)
    assert rows.tolist() == [2, 0, 2] and weights is None
    rows, weights = rows_and_weights(Selection(pa.array(["d", "b"]), np.array([1.5, 0.5]), {}), ids)
    assert rows.tolist() == [3, 1] and weights is not None and weights.tolist() == [0.0, 0.5, 0.0, 1.5]
    with pytest.raises(UserError, match="made from other data"):
        rows_and_weights(Selection(pa.array(["x"]), np.ones(1), {}), ids)
