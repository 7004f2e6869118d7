"""Two machines are one training run: two network namespaces where the system lets us make them, else two rendezvous on the
loopback, with one process each and the model in shards between them. They go on with what one process began."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from ftft.dynamics.parquet import read_dynamics
from ftft.run.reading import recipe_to_yaml
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_recipe

DEADLINE = 400.0
ADAMW = {"name": "adamw", "learning_rate": 2e-3, "epsilon": 1e-4}


class Killed(Exception):
    """The process ended here, without warning."""


@pytest.fixture(scope="module")
def make_recipe(tiny_recipe: Callable[..., Any], tiny_bert_folder: Path) -> Callable[[Path, str], Recipe]:
    """``make_recipe(folder, sharding)``: a reference whose dynamics choose what LoRA learns from, in float64."""

    def recipe(folder: Path, sharding: str) -> Recipe:
        folder.mkdir()
        train = {"batch_size": 8, "precision": "fp64", "checkpoint_seconds": 1e-6, "sharding": sharding}
        stages = {
            "reference": {"train": {**train, "epochs": 2}, "dynamics": {"mode": "online"}},
            "main": {
                "train": {**train, "steps": 14, "evaluate_every": 4},
                "use_dynamics_of": "reference",
                "select": {"name": "top", "score": "variability", "fraction": 0.5},
                "adapt": {"name": "eva", "rank": 2},
                "stop": {"patience": 2, "metric": "loss"},
                "combine": "best",
            },
        }
        model = {"path": str(tiny_bert_folder), "dropout": 0.0}
        return tiny_recipe(folder, tiny_bert_folder, {n: {"model": model, "optimize": ADAMW, **s} for n, s in stages.items()})

    return recipe


@pytest.fixture(scope="module")
def runs(
    make_recipe: Callable[[Path, str], Recipe], launch_hosts: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A run that one process began and two hosts ended, and the same run in one process."""
    base = tmp_path_factory.mktemp("hosts")
    recipe = make_recipe(base / "two", "fsdp2")
    warnings = []

    def notify(event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            warnings.append(event["text"])
        if event["event"] == "step" and event["step"] == 6:
            raise Killed

    with pytest.raises(Killed):
        run_recipe(recipe, notify=notify)
    path = base / "two" / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe))
    seldom = [f"stages.{name}.train.checkpoint_seconds=60" for name in recipe.stages]
    children, kind = launch_hosts("-m", "ftft", "run", str(path), *seldom)
    print(f"two hosts: {kind}")
    outputs = []
    for child in children:
        try:
            outputs.append(child.communicate(timeout=DEADLINE)[0])
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert [child.returncode for child in children] == [0, 0], "\n".join(one[-4000:] for one in outputs)
    one = run_recipe(make_recipe(base / "one", "none"))
    return {"one": one, "two": base / "two" / "runs" / "tiny", "warnings": warnings, "outputs": outputs}


@pytest.mark.processes
def test_two_hosts_end_what_one_process_began_as_one_process_would(runs: dict[str, Any]) -> None:
    one, two = read_result(runs["one"]), read_result(runs["two"])
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
    for name in ("reference", "main"):
        ours, theirs = two["stages"][name], one["stages"][name]
        assert ours["key"] == theirs["key"], "how the model is held is no reason to train it again"
        for field in ("steps", "planned", "best_step", "stopped_early"):
            assert ours["training"][field] == theirs["training"][field], field
        np.testing.assert_allclose(ours["training"]["losses"], theirs["training"]["losses"], rtol=0, atol=1e-10)
        assert ours["trainable_parameters"] == theirs["trainable_parameters"]
        for field in ("examples", "tokens", "steps"):
            books = [stage["ledger"]["effective"]["training"][field] for stage in (ours, theirs)]
            assert books[0] == books[1], field
    ours, theirs = (load_file(runs[which] / "model" / "model.safetensors") for which in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs) < 1e-6


@pytest.mark.processes
def test_dynamics_and_selection_of_two_hosts_are_those_of_one_process(runs: dict[str, Any]) -> None:
    one, two = (read_dynamics(runs[which] / "stages" / "reference" / "dynamics.parquet") for which in ("one", "two"))
    assert two.ids.equals(one.ids) and len(two.ids) == len(set(two.ids.to_pylist())) and two.epochs == one.epochs
    assert np.array_equal(two.seen, one.seen) and two.seen.all()
    np.testing.assert_allclose(two.logits, one.logits, rtol=0, atol=1e-5)
    tables = [pq.read_table(runs[which] / "stages" / "main" / "selection.parquet") for which in ("two", "one")]
    chosen = [dict(zip(*(table[column].to_pylist() for column in ("id", "score")))) for table in tables]
    threshold = min(chosen[1].values())
    differing = chosen[0].keys() ^ chosen[1].keys()
    assert all(abs((chosen[0] | chosen[1])[one] - threshold) <= 1e-5 for one in differing) and len(chosen[0]) == 48


@pytest.mark.processes
def test_what_changed_on_the_way_is_said(runs: dict[str, Any]) -> None:
    marked = read_result(runs["two"])["stages"]["reference"]["resume_differences"]
    assert "the number of processes was 1 and is 2 now" in marked
    assert "how the processes hold the model was none and is fsdp2 now" in marked
    assert any("the one process holds the whole model" in sentence for sentence in runs["warnings"])
    told = [output.count("stage main (2 of 2)") for output in runs["outputs"]]
    assert sum(told) == 1, "the first process alone tells"
