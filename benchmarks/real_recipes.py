"""The real recipes under several seeds: run them, keep what may be committed, and make the README's table from it.

    python benchmarks/real_recipes.py run --seeds 0 1     # hours; run it again to resume; needs FTFT_DATA
    python benchmarks/real_recipes.py collect             # runs/*/result.json -> results/real/*.json
    python benchmarks/real_recipes.py table               # results/real/*.json -> README.md, between its two markers

What is kept of a result holds aggregates only: no text, no path of a machine, no per-step losses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from telling import between_markers

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"hate_speech": "macro_f1", "sentiment": "accuracy", "nli": "accuracy"}  # and the metric that is compared
KEPT = ROOT / "results" / "real"
BEGIN, END = "<!-- results of the real recipes: begin -->", "<!-- results of the real recipes: end -->"
NAMES = {"hate_speech": "hate speech (CAD)", "sentiment": "sentiment (SST-2)", "nli": "NLI (LitL, MultiNLI)"}
METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy"}


def run(names: Sequence[str], seeds: Sequence[int]) -> None:
    """Run each recipe under each seed, one after the other; a finished stage is taken from the store."""
    for seed in seeds:
        for name in names:
            recipe = ROOT / "recipes" / "real" / f"{name}.yaml"
            subprocess.run(
                [sys.executable, "-m", "ftft", "run", str(recipe), f"seed={seed}", f"name={name}-{seed}"], check=True, cwd=ROOT
            )


def kept_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what is long or of one machine only."""
    stages = {}
    for name, stage in result["stages"].items():
        training = {key: value for key, value in stage["training"].items() if key != "losses"}
        left_out = ("training", "provenance", "dynamics")
        stages[name] = {**{key: value for key, value in stage.items() if key not in left_out}, "training": training}
    recipe = {key: value for key, value in result["recipe"].items() if key not in ("output", "store")}
    return {**{key: value for key, value in result.items() if key != "wall_seconds"}, "recipe": recipe, "stages": stages}


def collect(runs: Path) -> list[Path]:
    """Write results/real/RECIPE-SEED.json for every finished run of a real recipe; returns the paths."""
    written = []
    for name in RECIPES:
        for path in sorted(runs.glob(f"{name}-*/result.json")):
            target = KEPT / f"{path.parent.name}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = kept_of(json.loads(path.read_text(encoding="utf-8")))
            target.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            written.append(target)
    return written


def figures(result: Mapping[str, Any], stage: str, metric: str) -> dict[str, Any]:
    """One stage's ID test score, mean OOD score, the same after correction to each set's class prior, mean OOD AUROC, whole
    cost as a share of ERM's, and the OOD mean's paired difference to ERM with its interval (None for ERM itself). Sets that
    the model has seen are in no OOD mean."""
    told = result["stages"][stage]
    ood = told["means"]["ood"]
    sets = [told["evaluation"][name] for name in ood["sets"]]
    against = told["versus_baseline"]
    return {
        "id": told["means"]["id"][metric]["value"],
        "ood": ood[metric]["value"],
        "corrected": float(np.mean([one["prior_corrected"][metric]["value"] for one in sets])),
        "auroc": float(np.mean([one["metrics"]["auroc"]["value"] for one in sets])),
        "cost": told["cost"]["fraction_of_erm"],
        "difference": against and against["means"]["ood"][metric],
    }


def table() -> str:
    """The README's table in Markdown: a row per recipe and stage, the mean over seeds with the lowest and highest, and per
    seed the difference of the OOD mean to ERM's with its bootstrap interval."""
    lines = [
        "| task | model | seeds | ID test | OOD mean | prior-corrected | AUROC | OOD minus ERM's, per seed | cost, % of ERM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, metric in RECIPES.items():
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob(f"{name}-*.json"))]
        if not results:
            continue
        for stage in results[0]["stages"]:
            rows = [figures(result, stage, metric) for result in results]
            shown = {key: _spread([row[key] for row in rows]) for key in ("id", "ood", "corrected", "auroc", "cost")}
            differences = "; ".join(_difference(row["difference"]) for row in rows if row["difference"])
            task = f"{NAMES[name]}, {METRICS[metric]}" if stage == next(iter(results[0]["stages"])) else ""
            lines.append(
                f"| {task} | {_stage_label(results[0], stage)} | {len(rows)} | {shown['id']} | {shown['ood']} | "
                f"{shown['corrected']} | {shown['auroc']} | {differences} | {shown['cost']} |"
            )
    return "\n".join(lines)


def _difference(one: Mapping[str, float]) -> str:
    return f"{100 * one['value']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"


def _stage_label(result: Mapping[str, Any], stage: str) -> str:
    if stage == result["baseline"]:
        return "ERM"
    if stage == result["main"]:
        return "FTFT, reference included"
    return f"the reference ({result['stages'][stage]['model']['layers']} layers)"


def _spread(values: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in (np.mean(values), min(values), max(values)))
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def write_table(readme: Path) -> None:
    """Put the table between the README's markers."""
    readme.write_text(between_markers(readme.read_text(encoding="utf-8"), BEGIN, END, table()), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=("run", "collect", "table"))
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    chosen = parser.parse_args()
    if chosen.what == "run":
        if "FTFT_DATA" not in os.environ:
            parser.error("set FTFT_DATA to the folder that holds the data sets")
        run(chosen.recipes, chosen.seeds)
    elif chosen.what == "collect":
        print("\n".join(str(path.relative_to(ROOT)) for path in collect(chosen.runs)) or "no finished run was found")
    else:
        write_table(ROOT / "README.md")


if __name__ == "__main__":
    main()
