"""Other pretrained models of a stage, by role, and stages that leave several models which answer together: what a recipe may
say of them, and what is known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ftft.errors import UserError, did_you_mean
from ftft.methods.questions import QUESTIONS
from ftft.methods.registry import header
from ftft.run.recipe import Recipe, Stage, evaluators

if TYPE_CHECKING:
    import torch

    from ftft.models.headers import ModelHeader
    from ftft.run.stages import StageRun
    from ftft.tasks.contract import Task


def is_predictor_stage(stage: Stage) -> bool:
    """Whether the stage leaves several models that answer together instead of one."""
    return header("combine", stage.combine["name"]).artefact == "predictor"


def check_other_models(stage: Stage, where: str) -> None:
    """UserError where a role that a method of the stage has for another model is not filled, or one is filled that none has."""
    roles: dict[str, str] = {}
    for question in QUESTIONS:
        section = getattr(stage, question, None)
        if isinstance(section, Mapping) and "name" in section:
            roles |= dict.fromkeys(header(question, section["name"], f"{where}.{question}").roles, question)
    for role in stage.other_models:
        if role not in roles:
            what = did_you_mean(role, roles) if roles else "; leave other_models out"
            raise UserError(f'{where}.other_models: no method of the stage has the role "{role}" for a model{what}')
    for role, question in roles.items():
        if role not in stage.other_models:
            raise UserError(
                f"{where}.{question}: {getattr(stage, question)['name']} needs another pretrained model as its {role}; "
                f"name it in {where}.other_models.{role}"
            )


def check_predictor(stage: Stage, recipe: Recipe, where: str) -> None:
    """UserError where something wants the weights of a stage that leaves several models."""
    used = (
        ("use_models_of", stage.use_models_of),
        ("use_model_of", [stage.use_model_of]),
        ("model.stage", [stage.model.stage]),
    )
    for key, others in used:
        for other in others:
            if other in recipe.stages and is_predictor_stage(recipe.stages[other]):
                raise UserError(
                    f'{where}.{key}: the stage "{other}" leaves several models that answer together '
                    f"({recipe.stages[other].combine['name']}) and no weights; name a stage that leaves weights"
                )
    if not is_predictor_stage(stage):
        return
    for section in evaluators(stage):
        if "weights" in header("evaluate", section["name"], f"{where}.evaluate").needs:
            raise UserError(
                f"{where}.evaluate: {section['name']} looks at the model's weights, and {stage.combine['name']} leaves several "
                "models that answer together; leave it out, or combine with last"
            )


def fingerprints(stage: Stage, label_names: Sequence[str], where: str) -> dict[str, str]:
    """Role -> the fingerprint of the model that fills it, without loading it."""
    from ftft.models.folder import open_folder

    found = {}
    for role, settings in stage.other_models.items():
        folder = open_folder(settings, f"{where}.other_models.{role}")
        found[role] = folder.fingerprint(folder.hashes(), settings, tuple(map(str, label_names)))
    return found


def load_other(run: StageRun, role: str, dtype: torch.dtype) -> torch.nn.Module:
    """The pretrained model that a method of a stage needs beside the stage's own."""
    from ftft.models.loading import load_model

    names, where = run.data.train.label_names, f"{run.where}.other_models.{role}"
    settings = run.stage.other_models[role]
    return load_model(
        settings, run.task.model, names, seed=run.seed, where=where, dtype=dtype, require_head=True
    ).model  # fmt: skip


def inspected(recipe: Recipe, task: Task) -> Iterator[tuple[str, str, ModelHeader]]:
    """(stage, role, header) of every other model. Raises UserError for one that cannot be used, has too few positions, or,
    where models answer together, has another vocabulary than the stage's own model."""
    from ftft.methods.predictors import require_one_vocabulary
    from ftft.models.folder import open_folder
    from ftft.models.headers import inspect, require_positions
    from ftft.models.kinds import kind_of
    from ftft.models.processors import load_processors

    for name, stage in recipe.stages.items():
        for role, settings in stage.other_models.items():
            where = f"stages.{name}.other_models.{role}"
            found = inspect(settings, where, kind=task.model)
            require_positions(found, task.longest, where)
            if is_predictor_stage(stage):
                kind, own = kind_of(task.model), f"stages.{name}.model"
                theirs = load_processors(open_folder(settings, where, weights=False), kind, where)
                ours = load_processors(open_folder(stage.model, own, weights=False), kind, own)
                require_one_vocabulary({"model": ours, role: theirs}, where)
            yield name, role, found


def require_other_models(recipe: Recipe, task: Task) -> None:
    """:func:`inspected` for its refusals alone."""
    for _ in inspected(recipe, task):
        pass
