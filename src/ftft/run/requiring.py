"""What the models of a recipe must be able to do, tried before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftft.errors import UserError
from ftft.methods import registry
from ftft.models.headers import ModelHeader, inspect, require_positions
from ftft.run.evaluators import of_models
from ftft.run.recipe import OneStage, Recipe, pretrained
from ftft.run.trainer_combinations import trainer_of

if TYPE_CHECKING:
    import torch

    from ftft.tasks.contract import Task

ALWAYS_POSSIBLE = {"adapt": "full", "optimize": "adamw"}  # with any model: these need no trial, and checking them no torch


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


def require_methods(recipe: Recipe, task: Task, label_names: tuple[str, ...]) -> None:
    """UserError where adapter, objective and optimizer of a stage cannot be put together around its model: what comes before
    it would be trained for nothing. Tried on the model's shapes, as far as neither numbers nor examples are asked for."""
    for name, stage in recipe.stages.items():
        if any(getattr(stage, question)["name"] != usual for question, usual in ALWAYS_POSSIBLE.items()):
            try:
                _try_methods(OneStage(recipe, name), task, label_names)
            except UserError as error:
                where, sentence = f"stages.{name}", str(error)
                raise UserError(sentence if sentence.startswith(where) else f"{where}.{sentence}") from None


def _try_methods(one: OneStage, task: Task, label_names: tuple[str, ...]) -> None:
    """Put the methods of a stage together as it will; UserError where that cannot be."""
    from ftft.engine.assembly import assemble  # torch is loaded only where a method has to be tried
    from ftft.engine.shapes_only import ShapesOnly
    from ftft.models.loading import load_model, load_shapes

    def built(question: str) -> Any:
        return registry.build(question, getattr(one.stage, question), f"{one.where}.{question}")

    def put_together(model: torch.nn.Module) -> None:
        assemble(model, built("adapt"), built("objective"), built("optimize"), unread, seed=one.seed)

    unread: Any = _Unread()
    settings, where, shapes = pretrained(one.recipe, one.name), f"{one.where}.model", ShapesOnly()
    model, _ = load_shapes(settings, task.model, label_names, where=where, inside=shapes)
    try:
        with shapes:
            put_together(model)
    except UserError as error:
        if error.__context__ is None:
            raise
        # A library refused, perhaps because there are no numbers.
        put_together(load_model(settings, task.model, label_names, seed=one.recipe.seed, where=where).model)
    except Exception:  # a method may ask its tensors for anything, or for examples: it is found out when the stage begins
        pass


class _Unread:
    """Stands for :class:`ftft.methods.contract.Calibration` up to the first example."""

    def batches(self, count: int, size: int) -> Any:
        raise LookupError("no example is read before the stage begins")
