"""A small finished run made by hand: real dynamics and selections, a result as the runner writes it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromium import find_chromium

from ftft.dynamics.parquet import write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.files import write_json
from ftft.methods.selection import select, write_selection

ROWS, EPOCHS, SELECTED = 240, 3, 79
GROUPS = ("typical", "shortcut_breaking", "mislabelled")
SETS = {
    "validation": ("id", "validation", 120),
    "test": ("id", "test", 200),
    "no_shortcut": ("ood", "test", 200),
    "reversed_shortcut": ("ood", "test", 200),
    "new_words": ("ood", "test", 200),
}
ACCURACY = {
    "erm": {"validation": 0.95, "test": 0.9412, "no_shortcut": 0.7023, "reversed_shortcut": 0.4511, "new_words": 0.6871},
    "reference": {"validation": 0.91, "test": 0.9087, "no_shortcut": 0.6134, "reversed_shortcut": 0.3377, "new_words": 0.5999},
    "main": {"validation": 0.93, "test": 0.9239, "no_shortcut": 0.7748, "reversed_shortcut": 0.6146, "new_words": 0.7354},
}


CLASSES = {"does_not_follow": 0.5, "follows": 0.5}  # of every evaluation set
TOP = {"name": "top", "score": "variability", "largest": True, "fraction": 0.33, "count": None, "balance": "none", "ddof": 0}
TOP |= {"drop_suspects": 0.0, "suspect_score": "confidence", "apply": "subset", "copies": 1, "weight": 2.0}


def figure(value: float, half: float = 0.033) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def evaluation(stage: str) -> dict[str, Any]:
    found = {}
    for name, (role, split, n) in SETS.items():
        a = ACCURACY[stage][name]
        metrics = {"accuracy": a, "macro_f1": a - 0.0107, "auroc": a + 0.0311, "average_precision": a + 0.0203}
        metrics |= {"ece": 0.0713, "brier": 0.1931, "log_loss": 0.3141}
        found[name] = {
            "role": role,
            "split": split,
            "n": n,
            "metrics": {key: figure(value) for key, value in metrics.items()},
            "prior_corrected": {"accuracy": figure(a + 0.0017), "macro_f1": figure(a - 0.0031), "uses_test_labels": True},
            "tuned_threshold": {
                "accuracy": figure(a + 0.0029),
                "macro_f1": figure(a - 0.0043),
                "rule": {"threshold": 0.47},
                "tuned_on_itself": name == "validation",
            },
            "class_prior": CLASSES,
            "worst_group": {"group": "shortcut_breaking", "n": 31, "groups": 2, "accuracy": figure(a - 0.2113)},
            "bootstrap": {"resamples": 1000, "level": 0.95, "over": "examples", "units": n},
        }
    return found


def means(stage: str) -> dict[str, Any]:
    """The mean of the one ID test set, and that of the three OOD sets with an interval of its own."""
    ood = [name for name, (role, _, _) in SETS.items() if role == "ood"]
    mean = sum(ACCURACY[stage][name] for name in ood) / len(ood)
    only = ACCURACY[stage]["test"]
    return {
        "id": {"sets": ["test"], "accuracy": figure(only), "macro_f1": figure(only - 0.0107)},
        "ood": {"sets": ood, "accuracy": figure(mean, 0.019), "macro_f1": figure(mean - 0.0107, 0.019)},
    }


def versus(stage: str) -> dict[str, Any] | None:
    """The stage minus ERM; macro-F1 differs a little more than accuracy."""
    if stage == "erm":
        return None

    def minus(mine: float, theirs: float, half: float) -> dict[str, Any]:
        return {"accuracy": figure(mine - theirs, half), "macro_f1": figure(mine - theirs - 0.004, half)}

    mine, theirs = means(stage), means("erm")
    return {
        "baseline": "erm",
        "sets": {name: minus(ACCURACY[stage][name], ACCURACY["erm"][name], 0.021) for name in SETS},
        "means": {
            role: {
                "sets": mine[role]["sets"],
                **minus(mine[role]["accuracy"]["value"], theirs[role]["accuracy"]["value"], half),
            }
            for role, half in (("id", 0.021), ("ood", 0.012))
        },
        "bootstrap": {"resamples": 1000, "level": 0.95, "paired": True},
    }


def book(flops: int, seconds: float, examples: int, steps: int) -> dict[str, Any]:
    return {"flops": flops, "seconds": seconds, "examples": examples, "tokens": examples * 21, "steps": steps}


def ledger(effective: dict[str, Any], repeated: dict[str, Any] | None = None) -> dict[str, Any]:
    peaks = {phase: {"rss": 1_500_000_000} for phase in effective}
    books = {"effective": effective, "repeated": repeated or {}}
    return {"format_version": 1, **books, "peak_memory": peaks, "reused": False}


COSTS = {
    "erm": {"training": book(10**15, 60.0, 7200, 225), "evaluation": book(2 * 10**13, 3.0, 360, 0)},
    "reference": {"training": book(3 * 10**14, 20.0, 7200, 225)},
    "main": {"training": book(4 * 10**14, 26.5, 2370, 60), "evaluation": book(3 * 10**13, 4.0, 360, 0)},
}


def stage(name: str, selected: int, steps: int, planned: int) -> dict[str, Any]:
    whole = dict(COSTS[name])
    if name == "main":
        whole["reference"] = COSTS["reference"]["training"]
    flops = sum(cost["flops"] for cost in whole.values())
    erm = sum(cost["flops"] for cost in COSTS["erm"].values())
    history = [
        {"step": step, "epoch": step / 75, "loss": 0.7 - step / 500, "scores": {"validation": {"accuracy": 0.5 + step / 600}}}
        for step in range(15, steps + 1, 15)
    ]
    return {
        "key": name * 4,
        "reused": name == "reference",
        "model": {"architecture": "BertForSequenceClassification", "layers": 2, "layers_of_checkpoint": 6},
        "seed": 0,
        "parameters": 11_170_560,
        "trainable_parameters": 11_170_560,
        "selection": {
            "rule": dict(TOP) if name == "main" else {"name": "all"},
            "counts": {"pool": ROWS, "selected": selected, "rows": selected},
            "examples": selected,
        },
        "training": {
            "steps": steps,
            "planned": planned,
            "steps_per_epoch": 75,
            "stopped_early": steps < planned,
            "best_step": 45,
            "best_score": 0.9,
            "history": history,
            "losses": [0.7 - 0.5 * step / planned + 0.05 * np.sin(step) for step in range(steps)],
        },
        "dynamics": f"stages/{name}/dynamics.parquet" if name == "reference" else None,
        "ledger": ledger(COSTS[name], {"training": book(10**13, 1.25, 64, 2)} if name == "main" else None),
        "cost": {
            "ledger": ledger(whole),
            "flops": flops,
            "seconds": sum(cost["seconds"] for cost in whole.values()),
            "erm_flops": erm,
            "erm_source": "measured: stage erm",
            "fraction_of_erm": flops / erm,
            "uses": ["reference"] if name == "main" else [],
            "reused": ["reference"] if name != "erm" else [],
        },
        "reporting_ledger": ledger({"evaluation": book(10**13, 2.0, 920, 0)}),
        "evaluation": evaluation(name),
        "means": means(name),
        "versus_baseline": versus(name),
        "predicted_classes": {one: {"does_not_follow": 0.47, "follows": 0.53} for one in SETS},
        "majority_class": {one: {"label": "does_not_follow", "accuracy": 0.5} for one in SETS},
        "class_prior": None if name != "main" else class_prior(0.5, 0.61),
        "dynamics_used": None if name != "main" else dynamics_used("reference"),
        "diagnosis": None,
    }


def class_prior(training: float, selected: float) -> dict[str, Any]:
    return {
        "training": {"does_not_follow": training, "follows": 1 - training},
        "selected": {"does_not_follow": selected, "follows": 1 - selected},
        "total_variation": abs(training - selected),
    }


def dynamics_used(stage: str) -> dict[str, Any]:
    return {"stage": stage, "source": stage, "file": f"stages/{stage}/dynamics.parquet"}


def make_result() -> dict[str, Any]:
    stages = {name: {"model": {"path": "/home/someone/models/tiny"}} for name in ("erm", "reference", "main")}
    stages["main"]["use_dynamics_of"] = "reference"  # type: ignore[assignment]
    return {
        "name": "planted",
        "created": "2026-01-02T03:04:05Z",
        "recipe": {"name": "planted", "task": {"name": "text_classification"}, "stages": stages},
        "recipe_hash": "ab" * 32,
        "seed": 0,
        "main": "main",
        "baseline": "erm",
        "provenance": {"python": "3.11.9", "versions": {"torch": "2.6.0", "numpy": "2.0.0"}, "processor": "a processor"},
        "data": {
            "label_names": ["does_not_follow", "follows"],
            "train": {"n": ROWS, "fingerprint": "cd" * 32, "classes": {"does_not_follow": 120, "follows": 120}},
            "evaluation": {
                name: {"role": role, "split": split, "n": n, "fingerprint": "ef" * 32, "seen_by": {}}
                for name, (role, split, n) in SETS.items()
            },
        },
        "stages": {
            "erm": stage("erm", ROWS, 225, 225),
            "reference": stage("reference", ROWS, 225, 225),
            "main": stage("main", SELECTED, 60, 225),
        },
        "warnings": ["3 training rows are empty"],
        "stamps": [],
        "wall_seconds": 115.0,
    }


def make_dynamics() -> tuple[Dynamics, pa.Array]:
    """Dynamics in which shortcut-breaking rows are ambiguous and mislabelled ones hard to learn, and the groups."""
    source = np.random.default_rng(5)
    kinds = np.array([0] * 200 + [1] * 28 + [2] * 12)
    level = np.array([2.5, 0.0, -2.0])[kinds]
    spread = np.array([0.5, 2.0, 0.6])[kinds]
    margin = level + spread * source.standard_normal((EPOCHS, ROWS))
    gold = np.arange(ROWS, dtype=np.int32) % 2
    sign = np.where(gold == 1, 0.5, -0.5)
    logits = np.stack([-margin * sign, margin * sign], axis=2).astype(np.float32)
    ids = pa.array([f"row-{row:04d}" for row in range(ROWS)])
    seen = np.ones((EPOCHS, ROWS), dtype=bool)
    return Dynamics(ids, tuple(range(EPOCHS)), seen, gold, logits), pa.array([GROUPS[kind] for kind in kinds])


@pytest.fixture
def result() -> dict[str, Any]:
    return make_result()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run folder around a result."""

    def write(result: dict[str, Any], *, dynamics: bool = True, groups: bool = True) -> Path:
        folder = tmp_path / "run"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", result, kind="result")
        recorded, planted = make_dynamics()
        if dynamics:
            write_dynamics(recorded, folder / "stages" / "reference" / "dynamics.parquet")
            chosen = select(recorded, score="variability", fraction=0.33)
            write_selection(chosen, folder / "stages" / "main" / "selection.parquet")
        if groups:
            pq.write_table(pa.table({"id": recorded.ids, "group": planted}), folder / "groups.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def examples() -> ModuleType:
    """The table documents of comparison_examples.py, which lies beside this file."""
    spec = importlib.util.spec_from_file_location("comparison_examples", Path(__file__).with_name("comparison_examples.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, one for a module: while it lives, playwright keeps an event loop in this thread, which tests of
    other modules may need. Skipped where there is no browser, but for continuous integration, which must have one."""
    path = find_chromium()
    missing = "no Chromium is installed" if path is None else None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed (the extra `test` has it)"
    if missing is not None:
        if os.environ.get("FTFT_BROWSER") == "required":
            pytest.fail(f"{missing}, and FTFT_BROWSER says that a browser is required")
        pytest.skip(missing)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
