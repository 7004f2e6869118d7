"""What ``ftft check`` finds out before anything is trained: data, model headers, and the plan of every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ftft.data.examples import LoadedData
from ftft.data.loading import load_data
from ftft.engine.batches import planned_steps
from ftft.models.headers import inspect
from ftft.models.known import contamination
from ftft.run.recipe import Recipe, Stage


def check_models_and_data(recipe: Recipe, *, progress: Callable[[str], None] = lambda text: None) -> Iterator[str]:
    """Lines for the user: models, data, warnings, plan. Raises UserError at the first thing that cannot work."""
    warnings: list[str] = []
    for name, stage in recipe.stages.items():
        header = inspect(stage.model, f"stages.{name}.model")
        layers = stage.model.keep_layers or header.layers
        size = f"{header.kept_parameters / 1e6:.1f} M parameters"
        yield f"stage {name}: {header.architecture}, {layers} of {header.layers} layers, {size}"
        for set_name, file in recipe.data.evaluation.items():
            warnings += contamination(header, file, set_name)
    data = load_data(recipe.data, progress=progress)
    counts = ", ".join(
        f"{label} {int((data.train.labels == index).sum()):,}" for index, label in enumerate(data.train.label_names)
    )
    yield f"training data: {len(data.train):,} examples ({counts})"
    for set_name, one in data.evaluation.items():
        yield f"evaluation set {set_name}: {len(one.examples):,} examples, role {one.role}, {one.split}"
    for name, stage in recipe.stages.items():
        yield _plan(name, stage, data)
    for sentence in dict.fromkeys([*warnings, *data.warnings]):
        yield f"warning: {sentence}"
    yield "the recipe is sound"


def _plan(name: str, stage: Stage, data: LoadedData) -> str:
    """How many examples and steps a stage will take, as far as that is known before its selection."""
    total = len(data.train)
    fraction, count = stage.select.get("fraction"), stage.select.get("count")
    chosen = int(count) if count else max(1, int(fraction * total)) if fraction else total
    train = stage.train
    steps = planned_steps(chosen, train.batch_size, epochs=train.epochs, steps=train.steps)
    about = "about " if chosen != total else ""
    stop = f", stops early (patience {stage.stop.patience})" if stage.stop else ""
    return f"stage {name}: learns from {about}{chosen:,} examples in {steps:,} steps of {train.batch_size}{stop}"
