"""A finished run as a cell: its figures, costs and packed predictions, and which files it was computed from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ftft.comparison.cells import packed_set
from ftft.comparison.model_figures import kept_figures
from ftft.comparison.sources import file_hashes
from ftft.comparison.suite import MAIN
from ftft.methods.registry import build_task
from ftft.run.recipe import Recipe
from ftft.run.runner import FinishedRun
from ftft.tasks.contract import quantities_of


def finished_cell(run: FinishedRun, request: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cell's document, and the content of its evaluation sets by name.

    ``request``: key, task, row, seed, value and trial of the cell, which are kept as they are.
    """
    result = run.result
    main = result["stages"][MAIN]
    contents, sets = {}, {}
    searched_on = {name for stage in result["stages"].values() for name in stage.get("search", {}).get("on", ())}
    columns = quantities_of(build_task(recipe.task)).predictions
    for name, one in run.data.evaluation.items():
        packed_name, content, predictions = packed_set(one, run.evaluations[MAIN].predictions[name], columns)
        contents[packed_name] = content
        sets[name] = {
            "role": one.role,
            "split": one.split,
            "n": len(one.examples),
            "seen": bool(result["data"]["evaluation"][name]["seen_by"]),
            "set": packed_name,
            "figures": main["evaluation"][name],
            "predictions": predictions,
            **({"development": True} if name in searched_on else {}),
        }
    uses = [*main["cost"]["uses"], MAIN]
    training = main["training"]
    document = {
        **request,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "recipe": {key: value for key, value in result["recipe"].items() if key not in ("output", "store", "only")},
        "files": file_hashes(recipe),
        "main": MAIN,
        "provenance": result["provenance"],
        "data": {**result["data"]["train"], "label_names": result["data"]["label_names"]},
        "cost": {
            "flops": main["cost"]["flops"],
            "seconds": main["cost"]["seconds"],
            "phases": {phase: cost["flops"] for phase, cost in main["cost"]["ledger"]["effective"].items()},
            "stages": {name: _stage_cost(result["stages"][name]) for name in uses},
            "not_counted": main["cost"]["not_counted"],
        },
        "training": {key: training[key] for key in ("steps", "planned", "stopped_early", "best_step")},
        "parameters": main["parameters"],
        "trainable_parameters": main["trainable_parameters"],
        "adapter_bytes": None,  # full weights alone come out of a stage so far
        "peak_memory_bytes": max(
            (int(peak) for kinds in main["ledger"]["peak_memory"].values() for peak in kinds.values()), default=None
        ),
        "selection": main["selection"]["counts"],
        "class_prior": main["class_prior"],
        "warnings": result["warnings"],
        "stamps": result["stamps"],
        "sets": sets,
    }
    if "measured" in main:
        document["measured"] = {name: kept_figures(figures) for name, figures in main["measured"].items()}
    return document, contents


def _stage_cost(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage spent, the making of its examples included, and that apart: other stages may share it."""
    phases, made = stage["ledger"]["effective"], stage.get("creation")
    making = phases.get("creation", {"flops": 0})
    return {
        "key": stage["key"],
        "flops": sum(cost["flops"] for cost in phases.values()),
        "seconds": sum(cost["seconds"] for cost in phases.values()),
        **({} if made is None else {"creation": {"key": made["key"], "flops": making["flops"]}}),
    }
