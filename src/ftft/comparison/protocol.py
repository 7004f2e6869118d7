"""Exploration and claim kept apart: what a suite may look at, which rows are frozen, and how often tests were opened.

Every suite that runs leaves ``suite.json`` beside its cells: its kind, seeds, training data and the hash of each row on
each task. A `confirm` suite is refused unless each row has the hash it was frozen with and no seed was used by an
exploration of the same training data; it lists these explorations, and counts how often it has opened the test sets: once
for every set of rows and seeds it was started with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ftft.comparison.making import cell_recipe, row_hash
from ftft.comparison.planning import Plan
from ftft.comparison.reading import read_suite
from ftft.comparison.suite import Suite
from ftft.errors import UserError
from ftft.files import fingerprint, read_json, write_json, write_text
from ftft.run.portable import portable_recipe

VERSION = 1
SUITE_FILE, OPENED_FILE = "suite.json", "opened.json"


def suite_hashes(suite: Suite) -> dict[str, str]:
    """Row -> one hash of what it does on all tasks of the suite."""
    return {row: fingerprint({task: row_hash(suite, task, row) for task in suite.tasks}) for row in suite.rows}


def training_data(suite: Suite) -> list[str]:
    """A hash of each task's training data as the recipe names them."""
    return sorted(
        fingerprint(portable_recipe(cell_recipe(suite, task, suite.baseline, 0))["data"]["train"]) for task in suite.tasks
    )


def begin(suite: Suite, folder: Path) -> None:
    """Check that the suite may run now, and leave what later suites must know of it. Raises UserError."""
    hashes = suite_hashes(suite)
    if suite.kind == "confirm":
        _check_frozen(suite, hashes)
        _check_fresh(suite, explorations(suite, folder))
        _open(suite, folder, hashes)
    record = {
        "name": suite.name,
        "kind": suite.kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": hashes,
        "seeds": sorted({*suite.seeds, *_known_seeds(folder), *((suite.search.seeds or []) if suite.search else [])}),
        "training_data": training_data(suite),
    }
    write_json(folder / SUITE_FILE, record, kind="suite", version=VERSION)


def explorations(suite: Suite, folder: Path) -> list[dict[str, Any]]:
    """Every exploration beside this suite's folder that used some of its training data, the oldest first."""
    own = set(training_data(suite))
    found = []
    for path in sorted(folder.parent.glob(f"*/{SUITE_FILE}")):
        try:
            record = read_json(path, kind="suite", version=VERSION)
        except UserError:
            continue
        if record.get("kind") == "explore" and own & set(record.get("training_data", ())):
            found.append(
                {
                    "suite": str(record["name"]),
                    "created": str(record["created"]),
                    "rows": list(record["rows"]),
                    "seeds": list(record["seeds"]),
                    "hash": fingerprint(record["rows"])[:16],
                }
            )
    return sorted(found, key=lambda one: one["created"])


def openings(folder: Path) -> list[Mapping[str, Any]]:
    """The sets of rows and seeds with which a `confirm` suite looked at its test sets, in order."""
    path = folder / OPENED_FILE
    return list(read_json(path, kind="opened", version=VERSION)["openings"]) if path.exists() else []


def freeze(suite: Suite, plan: Plan, seeds: list[int], target: Path) -> None:
    """Write a `confirm` suite: the same tasks and rows with their chosen values and hashes, under fresh seeds.

    Raises UserError where the exploration's search is not finished, where a chosen value differs between tasks in a row
    (a row has one setting), where a seed was used, and where ``target`` exists.
    """
    if target.exists():
        raise UserError(f"{target} exists already; a frozen suite is not overwritten, so give another name")
    used = sorted(set(seeds) & {*suite.seeds, *((suite.search.seeds or []) if suite.search else [])})
    if used:
        raise UserError(f"--seeds: seed {used[0]} was used in the exploration; a confirmation takes fresh ones")
    rows = {}
    for name, row in suite.rows.items():
        settings = {key: value for key, value in asdict(row).items() if value not in (None, "", {})}
        for of_the_search in ("search", "value_of"):  # a confirmation has none: the chosen value stands in the row
            settings.pop(of_the_search, None)
        change = dict(settings.get("change", {}))
        if suite.search is not None and row.search:
            change[f"stages.main.{suite.search.key}"] = _chosen(suite, plan, name)
        rows[name] = {**settings, "change": change}
    frozen = {
        "name": target.stem,
        "kind": "confirm",
        "tasks": {
            name: {**asdict(task), "recipe": _relative(Path(task.recipe), target.parent)} for name, task in suite.tasks.items()
        },
        "rows": rows,
        "seeds": seeds,
        "baseline": suite.baseline,
        "reference_seed": suite.reference_seed,
        "contrasts": [asdict(contrast) for contrast in suite.contrasts],
        **{key: getattr(suite, key) for key in ("headline", "line", "resamples", "level", "output", "results")},
    }
    text = yaml.safe_dump(frozen, sort_keys=False, allow_unicode=True, width=120)
    write_text(target, text)
    try:
        hashes = suite_hashes(read_suite(target))
        write_text(target, text + yaml.safe_dump({"frozen": hashes}, sort_keys=False))
    except UserError:
        target.unlink()
        raise


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _chosen(suite: Suite, plan: Plan, row: str) -> float:
    found = {}
    for task in suite.tasks:
        state = plan.rows[task, row]
        if state.value is None:
            raise UserError(f"the search of row {row} on task {task} is not finished; run the exploration to its end first")
        found[task] = state.value
    if len(set(found.values())) > 1:
        said = ", ".join(f"{task} {value:g}" for task, value in found.items())
        raise UserError(
            f"row {row} has another best {suite.search and suite.search.key} on each task ({said}); freeze one task at a time"
        )
    return next(iter(found.values()))


def _check_frozen(suite: Suite, hashes: Mapping[str, str]) -> None:
    for row, is_now in hashes.items():
        if row not in suite.frozen:
            raise UserError(
                f"rows.{row} is not frozen: a confirm suite has the hash of each row under frozen:, which "
                "`ftft compare EXPLORATION --freeze FILE --seeds ...` writes"
            )
        if suite.frozen[row] != is_now:
            raise UserError(
                f"rows.{row} is no longer what was frozen (its hash is {is_now[:12]}, not {suite.frozen[row][:12]}); "
                "take the change back, or explore again and freeze anew"
            )


def _check_fresh(suite: Suite, earlier: list[dict[str, Any]]) -> None:
    for one in earlier:
        used = sorted(set(suite.seeds) & set(one["seeds"]))
        if used:
            raise UserError(
                f"seeds: {used[0]} was used by the exploration {one['suite']}; a confirmation needs seeds nobody has looked at"
            )


def _open(suite: Suite, folder: Path, hashes: Mapping[str, str]) -> None:
    stamp = fingerprint([hashes, sorted(suite.seeds)])
    known = openings(folder)
    if not known or known[-1]["hash"] != stamp:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"hash": stamp, "time": now, "rows": list(suite.rows), "seeds": list(suite.seeds)}
        write_json(folder / OPENED_FILE, {"openings": [*known, entry]}, kind="opened", version=VERSION)


def _known_seeds(folder: Path) -> list[int]:
    """Seeds this suite ran with before: taking one out of the file does not make it fresh."""
    path = folder / SUITE_FILE
    if not path.exists():
        return []
    return [int(seed) for seed in read_json(path, kind="suite", version=VERSION)["seeds"]]
