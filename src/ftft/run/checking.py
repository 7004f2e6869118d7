"""What ``ftft check`` finds out before anything is trained: data, model headers, and the plan of every stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from ftft.data.examples import LoadedData
from ftft.data.loading import load_data
from ftft.methods.registry import build_task
from ftft.models.known import contamination
from ftft.run.other_models import inspected
from ftft.run.recipe import Recipe, Stage, pretrained
from ftft.run.requiring import header_with_room, require_heads, require_methods, require_packing
from ftft.run.search_space import require_sampler
from ftft.run.selections import PlannedSelection, plan_selections
from ftft.run.trainer_rows import trainer_rows


@dataclass(frozen=True)
class Checked:
    """What a recipe was found sound with: its data, and what every stage will learn from."""

    data: LoadedData
    plans: Mapping[str, PlannedSelection]


def check_models_and_data(
    recipe: Recipe, *, progress: Callable[[str], None] = lambda text: None
) -> Generator[str, None, Checked]:
    """Lines for the user: models, data, warnings, plan; and at the end what they are about. Raises UserError at the first thing
    that cannot work."""
    warnings: list[str] = []
    task = build_task(recipe.task)
    for name in recipe.stages:
        model = pretrained(recipe, name)
        header = header_with_room(recipe, name, task)
        layers = model.keep_layers or header.layers
        size = f"{header.kept_parameters / 1e6:.1f} M parameters"
        yield f"stage {name}: {header.architecture}, {layers} of {header.layers} layers, {size}"
        for set_name, file in recipe.data.evaluation.items():
            warnings += contamination(header, file, set_name)
    for name, role, header in inspected(recipe, task):
        size = f"{header.kept_parameters / 1e6:.1f} M parameters"
        yield f"stage {name}, {role}: {header.architecture}, {header.layers} layers, {size}"
        for set_name, file in recipe.data.evaluation.items():
            warnings += contamination(header, file, set_name)
    data = load_data(recipe.data, inputs=task.inputs, progress=progress)
    counts = ", ".join(
        f"{label} {int((data.train.labels == index).sum()):,}" for index, label in enumerate(data.train.label_names)
    )
    yield f"training data: {len(data.train):,} examples{f' ({counts})' if counts else ''}"
    for set_name, one in data.evaluation.items():
        yield f"evaluation set {set_name}: {len(one.examples):,} examples, role {one.role}, {one.split}"
    require_sampler(recipe)
    require_heads(recipe, task, data.train.label_names)
    require_packing(recipe, task, data.train.label_names)
    require_methods(recipe, task, data.train.label_names)
    own, said = trainer_rows(recipe, data, progress=progress)
    for name, rows in own.items():
        yield f"stage {name}: {len(rows.train):,} rows for its trainer"
    warnings += said
    plans = plan_selections(recipe, data.train, {name: rows.train for name, rows in own.items()})
    for name, stage in recipe.stages.items():
        yield _plan(name, stage, plans[name], len(own.get(name, data).train))
        if stage.search is not None:
            yield (
                f"stage {name}: {stage.search.trials:,} trials of {stage.search.steps:,} steps come first, of "
                f"{', '.join(stage.search.space)}, by {stage.search.metric} on {', '.join(stage.search.on)}"
            )
        by = [*(stage.stop.on if stage.stop else []), *(stage.search.on if stage.search else [])]
        if steering := [one for one in dict.fromkeys(by) if data.evaluation[one].role == "ood"]:
            yield f"note: stage {name} is steered by out-of-distribution validation data ({', '.join(steering)})"
    for sentence in dict.fromkeys([*warnings, *data.warnings]):
        yield f"warning: {sentence}"
    yield "the recipe is sound"
    return Checked(data, plans)


def _plan(name: str, stage: Stage, plan: PlannedSelection, total: int) -> str:
    """How many examples and steps a stage will take."""
    about = "" if plan.exact or plan.examples == total else "about "
    stop = f", stops early (patience {stage.stop.patience})" if stage.stop else ""
    size = stage.train.batch_size
    if plan.sampled:
        fewer = "" if plan.exact else "at most "
        return (
            f"stage {name}: learns from those of {plan.examples:,} examples that {stage.select['name']} chooses for each "
            f"epoch, in {fewer}{plan.steps:,} steps of {size}{stop}"
        )
    return f"stage {name}: learns from {about}{plan.examples:,} examples in {plan.steps:,} steps of {size}{stop}"
