"""The recipe of a cell: the task's recipe, the row's changes, the seed, the learning rate, and what is filled in from
the finished cells of other rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftft.comparison.cells import Cell
from ftft.comparison.suite import MAIN, Row, Suite
from ftft.errors import UserError
from ftft.files import fingerprint
from ftft.run.evaluators import looks_at_models
from ftft.run.overrides import apply_change
from ftft.run.portable import portable_recipe
from ftft.run.reading import recipe_from_dict
from ftft.run.recipe import Recipe, without_later
from ftft.run.yaml_reading import read_yaml_file

FinishedRow = Callable[[str], Cell]  # the finished cell of another row, same task and seed

# What is spent before the first step, and what of a stage says how much: rows that have the same there spend the same.
BEFORE_STEPS = {
    "reference": ("model", "use_dynamics_of", "use_model_of", "use_models_of"),
    "creation": ("create",),
    "scoring": ("select",),
    "calibration": ("adapt",),
    "search": ("search",),
}


def cell_recipe(
    suite: Suite,
    task: str,
    row: str,
    seed: int,
    *,
    value: float | None = None,
    trial: bool = False,
    finished: FinishedRow | None = None,
) -> Recipe:
    """The checked recipe of one cell.

    ``value``: of the searched setting, in the place of the row's own. ``trial``: only the ID validation sets are
    evaluated, by their predictions alone. ``finished`` gives the cells that a row with ``cost_of`` or ``prior_of`` is
    made from; without it their part is left out (for looking at the rest). Raises UserError, led by task and row.
    """
    try:
        raw = _raw(suite, task, row)
        settings = suite.rows[row]
        name = f"{suite.name}-{task}-{row}-{seed}"
        if trial and value is not None:  # a folder of its own: several trials of a row run at once
            name += f"-{value:g}"
        raw.update(seed=seed, main=MAIN, only=[MAIN], output=suite.output, name=name)
        raw.pop("baseline", None)
        raw.pop("store", None)
        if suite.reference_seed is not None:
            for name, stage in raw["stages"].items():
                if name != MAIN:
                    stage["seed"] = suite.reference_seed
        if value is not None:
            assert suite.search is not None
            apply_change(raw, f"stages.{MAIN}.{suite.search.key}", value)
        if finished is not None:
            _fill_in(raw, suite, task, settings, finished)
        _keep_sets(raw, suite, trial)
        if trial:
            _leave_models_unmeasured(raw)
        folder = Path(suite.tasks[task].recipe).parent
        return recipe_from_dict(raw, default_name=str(raw["name"]), folder=folder)
    except UserError as error:
        raise UserError(f"task {task}, row {row}: {error}") from None


def searched_value(suite: Suite, task: str, row: str) -> float:
    """The row's own value of the searched setting, the centre of its grid; UserError where it has none."""
    assert suite.search is not None
    key = suite.search.key
    found: Any = portable_recipe(cell_recipe(suite, task, row, suite.seeds[0]))["stages"][MAIN]
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found <= 0:
        raise UserError(
            f"task {task}, row {row}: the search needs a number above 0 at stages.{MAIN}.{key} as the centre of its grid"
        )
    return float(found)


def row_hash(suite: Suite, task: str, row: str) -> str:
    """The SHA-256 of what a row does on a task whatever the seed and the sets it is evaluated on: what `confirm` freezes."""
    document = without_later(portable_recipe(cell_recipe(suite, task, row, 0)))
    data = {key: value for key, value in document["data"].items() if key != "evaluation"}
    seeds = [suite.reference_seed]
    derived = [[suite.rows[one].cost_of, suite.rows[one].prior_of] for one in _chain(suite, row)]
    kept = {key: document[key] for key in ("task", "stages")}
    return fingerprint([kept, data, seeds, derived])


def _chain(suite: Suite, row: str) -> list[str]:
    """The row after those it is like, the farthest first."""
    found = [row]
    while (other := suite.rows[found[0]].like) is not None:
        found.insert(0, other)
    return found


def _raw(suite: Suite, task: str, row: str) -> dict[str, Any]:
    settings = suite.tasks[task]
    raw = read_yaml_file(Path(settings.recipe))
    if not isinstance(raw, dict) or not isinstance(raw.get("stages"), dict):
        raise UserError(f"{settings.recipe} is no recipe with stages")
    if MAIN not in raw["stages"]:
        raise UserError(f"{settings.recipe} has no stage {MAIN}; a comparison's rows change the stage of that name")
    raw = copy.deepcopy(raw)
    for changes in (settings.change, *(suite.rows[one].change for one in _chain(suite, row))):
        for key, value in changes.items():
            apply_change(raw, key, copy.deepcopy(value))
    raw["stages"][MAIN] = raw["stages"].pop(MAIN)  # the last, so that it may use any other, those of the row too
    return raw


def _fill_in(raw: dict[str, Any], suite: Suite, task: str, row: Row, finished: FinishedRow) -> None:
    if row.prior_of is not None:
        shares = finished(row.prior_of).document["class_prior"]
        if shares is None:
            raise UserError(f"prior_of: row {row.prior_of} did not select what it learnt from, so there is no prior to copy")
        apply_change(raw, f"stages.{MAIN}.select.prior", dict(shares["selected"]))
    if row.cost_of is not None:
        assert row.like is not None
        budget, like = finished(row.cost_of).flops, finished(row.like)
        stage, other = raw["stages"][MAIN], _raw(suite, task, row.like)["stages"][MAIN]
        left = budget - like.flops_of(
            phase for phase, causes in BEFORE_STEPS.items() if all(stage.get(one) == other.get(one) for one in causes)
        )
        if left <= 0:
            raise UserError(
                f"cost_of: row {row.cost_of} cost no more than what is spent as in row {row.like} before the first step"
            )
        steps = max(1, round(left / like.flops_per_step))
        stage["train"] = {**(stage.get("train") or {}), "steps": steps}
        stage["train"].pop("epochs", None)


def _keep_sets(raw: dict[str, Any], suite: Suite, trial: bool) -> None:
    """Leave out the evaluation sets that this cell may not look at: a trial sees ID validation only, and what the row
    stops, searches or selects by; an exploration validation sets only (out-of-distribution ones included, where the recipe
    declares them)."""
    if not trial and suite.kind == "confirm":
        return
    sets = raw.get("data", {}).get("evaluation") or {}
    if not isinstance(sets, Mapping):
        return
    steering = {
        name
        for stage in raw["stages"].values()
        for key in ("stop", "search")
        for name in (stage.get(key) or {}).get("on") or ()
    } | {choice.get("target") for stage in raw["stages"].values() if isinstance(choice := stage.get("select"), Mapping)}
    raw["data"]["evaluation"] = {
        name: one
        for name, one in sets.items()
        if isinstance(one, Mapping)
        and one.get("split", "test") == "validation"
        and (not trial or one.get("role", "ood") == "id" or name in steering)
    }


def _leave_models_unmeasured(raw: dict[str, Any]) -> None:
    """Leave out the evaluators that look at a model as a whole: a trial is judged by its predictions on ID validation, and the
    sets that such an evaluator asks for are not among its own."""
    for stage in raw["stages"].values():
        given = stage.get("evaluate")
        every = given if isinstance(given, list) else [given] if given else []
        kept = [section for section in every if not _looks_at_models(section)]
        if not kept:
            stage.pop("evaluate", None)
        elif isinstance(given, list):
            stage["evaluate"] = kept


def _looks_at_models(section: Any) -> bool:
    """Of a section as written; one without a name has settings of what measures predictions."""
    name = section.get("name") if isinstance(section, Mapping) else section
    return isinstance(name, str) and looks_at_models({"name": name})
