"""What the models of a recipe must be able to do, tried before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftft.errors import UserError
from ftft.methods import registry
from ftft.models.headers import ModelHeader, inspect, require_positions
from ftft.run.evaluators import of_models
from ftft.run.recipe import Recipe, pretrained
from ftft.run.trainer_combinations import trainer_of

if TYPE_CHECKING:
    from ftft.tasks.contract import Task


def header_with_room(recipe: Recipe, name: str, task: Task) -> ModelHeader:
    """The header of the pretrained model that a stage begins with in the end; UserError where it cannot be used, or has too few
    positions for what the task, or the stage's trainer, lets through it."""
    where, stage, longest = f"stages.{name}.model", recipe.stages[name], task.longest
    if stage.trainer is not None and longest is not None:
        longest = max(longest, trainer_of(recipe, name).longest(task))
    header = inspect(pretrained(recipe, name), where, kind=task.model)
    written = 0 if longest is None else longest - getattr(task, "max_length", longest)
    require_positions(header, longest, where, written=written)
    return header


def require_heads(recipe: Recipe, task: Task, label_names: tuple[str, ...]) -> None:
    """UserError where an evaluator needs the predictions of a model that has no head for the recipe's labels before it is
    trained."""
    from ftft.models.loading import load_model  # torch is loaded only where a model has to be tried

    for name, stage in recipe.stages.items():
        for section in of_models(stage):
            if stage.model.stage is None and "base_predictions" in registry.header("evaluate", section["name"]).needs:
                try:
                    load_model(
                        stage.model, task.model, label_names, seed=recipe.seed, where=f"stages.{name}.model", require_head=True
                    )
                except UserError as error:
                    raise UserError(
                        f"stages.{name}.evaluate: {section['name']} compares with the model before training; {error}"
                    ) from None


def require_packing(recipe: Recipe, task: Task, label_names: tuple[str, ...]) -> None:
    """UserError where a stage is to pack several examples in a row and its model does not keep them apart."""
    for name, stage in recipe.stages.items():
        if stage.train.pack:
            from ftft.models.loading import load_model  # torch is loaded only where a model has to be tried
            from ftft.models.packing import require_separate

            where = f"stages.{name}"
            loaded = load_model(pretrained(recipe, name), task.model, label_names, seed=recipe.seed, where=f"{where}.model")
            require_separate(loaded.model, f"{where}.train.pack")


def require_adapters(recipe: Recipe, task: Task, label_names: tuple[str, ...]) -> None:
    """UserError where the model of a stage with a trainer cannot have the stage's adapter: what comes before it would be
    trained for nothing. Tried on the model's shapes, and on the model itself where an adapter asks for numbers."""
    for name, stage in recipe.stages.items():
        if stage.trainer is not None and stage.adapt["name"] != "full":
            try:
                _try_adapter(recipe, name, task, label_names)
            except UserError as error:
                where, sentence = f"stages.{name}", str(error)
                raise UserError(sentence if sentence.startswith(where) else f"{where}.{sentence}") from None


def _try_adapter(recipe: Recipe, name: str, task: Task, label_names: tuple[str, ...]) -> None:
    """Give the model of the stage `name` the stage's adapter; UserError where it cannot have it."""
    from ftft.engine.shapes_only import ShapesOnly  # torch is loaded only where an adapter has to be tried
    from ftft.models.loading import load_model, load_shapes

    where, shapes, settings = f"stages.{name}", ShapesOnly(), pretrained(recipe, name)
    adapter = registry.build("adapt", recipe.stages[name].adapt, f"{where}.adapt")
    model, _ = load_shapes(settings, task.model, label_names, where=f"{where}.model", inside=shapes)
    try:
        with shapes:
            adapter.adapt(model, None)
    except UserError:
        raise
    except Exception:  # a method may ask its tensors for anything
        loaded = load_model(settings, task.model, label_names, seed=recipe.seed, where=f"{where}.model")
        adapter.adapt(loaded.model, None)
