"""Stages as others of the same run know them: what a finished one left and where, and what is told when one begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftft.engine.ledger import Ledger
from ftft.models.settings import ModelSettings
from ftft.run.recipe import Recipe, upstream


@dataclass(frozen=True)
class FinishedStage:
    """What a stage left, and where."""

    name: str
    key: str
    folder: Path
    reused: bool
    summary: Mapping[str, Any]
    ledger: Ledger
    model_at: Path | None = None  # where its model is kept elsewhere

    @property
    def model_folder(self) -> Path:
        return self.model_at or self.folder / "model"

    @property
    def creation_key(self) -> str | None:
        """The key of the examples that it made for itself, which other stages may share; None where it made none."""
        made = self.summary.get("creation")
        return None if made is None else str(made["key"])

    @property
    def dynamics_path(self) -> Path | None:
        path = self.folder / "dynamics.parquet"
        return path if path.exists() else None


def begun_with(model: ModelSettings, earlier: Mapping[str, FinishedStage]) -> ModelSettings:
    """Settings that name a stage's model, as those of the folder it lies in; others as they are."""
    if model.stage is None:
        return model
    return replace(model, stage=None, path=str(earlier[model.stage].model_folder))


def stage_event(recipe: Recipe, name: str) -> dict[str, Any]:
    """What is told when a stage begins: its place among the others, and those it uses."""
    names = list(recipe.stages)
    place = {"number": names.index(name) + 1, "of": len(names), "uses": upstream(recipe.stages, name)}
    return {"event": "stage", "stage": name, **place}
