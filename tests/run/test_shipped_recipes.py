"""Every recipe that is shipped for real data is one: it is read, its methods are built, and its stages go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftft.run.reading import load_recipe, recipe_from_dict, recipe_to_dict
from ftft.run.recipe import pretrained

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHIPPED = sorted([*(RECIPES / "real").glob("*.yaml"), *(RECIPES / "methods").glob("*.yaml"), *(RECIPES / "lm").glob("*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_recipe_is_sound(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTFT_DATA", str(tmp_path))
    recipe = load_recipe(path, [])
    assert recipe.baseline in ("erm", "sft") and recipe.main in recipe.stages and recipe.main != recipe.baseline
    assert {"id", "ood"} <= {one.role for one in recipe.data.evaluation.values()}
    assert recipe_from_dict(recipe_to_dict(recipe), default_name="again") == recipe
    assert all(pretrained(recipe, name).sha256 is not None for name in recipe.stages), "the weights are named by their hash"
