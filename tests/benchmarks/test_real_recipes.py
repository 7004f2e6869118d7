"""The README's figures are those of the committed results, and the results hold nothing that may not be committed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def real_recipes(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("real_recipes")


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_the_table_in_the_readme_is_the_one_the_results_give(real_recipes: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = text.split(real_recipes.BEGIN)[1].split(real_recipes.END)[0]
    assert between.strip() == real_recipes.table()
    assert "| ERM |" in between


def test_results_hold_no_path_of_a_machine_and_no_long_text(real_recipes: ModuleType) -> None:
    paths = sorted(real_recipes.KEPT.glob("*.json"))
    assert paths
    for path in paths:
        for one in strings(json.loads(path.read_text(encoding="utf-8"))):
            assert not re.search(r"(^|[\s\"'(])/(home|root|tmp|work|usr|opt)\b", one), (path.name, one)
            assert len(one) < 400, (path.name, one[:80])


def test_what_is_kept_has_no_losses(real_recipes: ModuleType) -> None:
    stage = {"training": {"steps": 2, "losses": [1.0, 0.5]}, "provenance": {}, "dynamics": "d", "seed": 0}
    recipe = {"name": "one", "output": "somewhere", "store": None}
    kept = real_recipes.kept_of({"recipe": recipe, "stages": {"erm": stage}, "wall_seconds": 1.0})
    assert kept == {"recipe": {"name": "one"}, "stages": {"erm": {"seed": 0, "training": {"steps": 2}}}}
