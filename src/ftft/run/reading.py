"""From a YAML file to a checked :class:`Recipe`, and back.

The order of the checks is the order a reader would want to hear of them: the text, the keys and types, the methods'
settings, what cannot go together, and last what each method itself says of its settings, for which it is built. No torch
is imported (unless a method of another package does) and no data or model file is opened.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftft.data.settings import DataFile
from ftft.errors import UserError, did_you_mean, nearest
from ftft.methods.questions import QUESTIONS
from ftft.methods.registry import build, build_task, validate_section, validate_task
from ftft.paths import beside, expand
from ftft.run.combinations import check_combinations, is_path
from ftft.run.evaluators import with_predictions_measured
from ftft.run.overrides import apply_override
from ftft.run.recipe import Recipe, Stage, upstream
from ftft.run.yaml_reading import read_yaml_file
from ftft.validation import check, field_types, join, plain

if TYPE_CHECKING:
    from ftft.tasks.contract import Task

DEFAULT_TASK = "text_classification"
SECTIONS = tuple(name for name in field_types(Stage) if name in QUESTIONS)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override (``stages.main.train.epochs=3``; ``data=@file.yaml``) and check a recipe; every default is filled in.

    A relative path in the recipe means the file in the recipe's folder if there is one, else in the current folder;
    environment variables stay as written until the path is used (:func:`ftft.paths.expand`). Raises UserError.
    """
    path = Path(path)
    raw = read_yaml_file(path)
    if raw is None:
        raise UserError(f"the recipe {path} is empty; it needs at least the keys data and stages")
    if not isinstance(raw, dict):
        raise UserError(f"the recipe {path} is no mapping; it starts with keys such as data: and stages:")
    for override in overrides:
        apply_override(raw, override)
    return recipe_from_dict(raw, default_name=path.stem, folder=path.parent)


def recipe_from_dict(raw: Mapping[str, Any], *, default_name: str = "run", folder: Path | None = None) -> Recipe:
    """The checked recipe of a mapping as read from YAML; ``folder`` is where relative paths are looked for first."""
    raw = _with_named_sections(raw)
    recipe = check(raw, Recipe, "")
    _check_given(raw)
    recipe = _with_only(recipe)
    recipe = dataclasses.replace(recipe, task=plain(validate_task(recipe.task, "task")))
    task = build_task(recipe.task)
    stages = {name: _complete_stage(name, stage, raw["stages"][name], task) for name, stage in recipe.stages.items()}
    recipe = dataclasses.replace(
        recipe,
        stages=stages,
        name=recipe.name
        if recipe.name is not None
        else re.sub(r"[^\w-]+", "-", default_name, flags=re.ASCII).strip("-") or "run",
        main=recipe.main if recipe.main is not None else _main_stage(recipe),
    )
    if folder is not None:
        recipe = _beside_recipe(recipe, folder)
    check_combinations(recipe)
    _check_methods(recipe)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain mappings, lists and scalars; :func:`recipe_from_dict` gives it back equal."""
    return plain(recipe)


def recipe_to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out; reading it gives an equal recipe."""
    return yaml.dump(recipe_to_dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """The safe dumper with odd line ends escaped; unquoted, PyYAML would fold them into spaces."""


def _dump_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _dump_text)


def check_files(recipe: Recipe, *, stages: bool = True) -> None:
    """Refuse the first data file, model folder or dynamics file that does not exist, with the nearest one that does; without
    ``stages`` data files only."""
    images = build_task(recipe.task).inputs.images
    for where, path, folder in named_paths(recipe):
        folders_too = images and where.startswith("data.")  # a folder of images is data
        if where.startswith("stages.") and not stages:
            continue
        found = expand(path, where)
        if not os.path.exists(found):  # False for a name too long, too
            places = "" if found.is_absolute() else " beside the recipe or in the current folder"
            raise UserError(f"{where}: {found} does not exist{places}{_nearest_path(found)}")
        if folder and not found.is_dir():
            raise UserError(f"{where}: {found} is a file; give the folder that holds config.json and the weights")
        if not folder and found.is_dir() and not where.endswith("use_dynamics_of") and not folders_too:
            inside = sorted(entry.name for entry in found.iterdir() if entry.is_file())
            hint = f", for instance {found / inside[0]}" if inside else ""
            raise UserError(f"{where}: {found} is a folder; give a file in it{hint}")


def named_paths(recipe: Recipe) -> list[tuple[str, str, bool]]:
    """Every input path of a recipe: the path of its key, the path as written, and whether it must be a folder."""
    train = recipe.data.train
    files: list[tuple[str, DataFile]] = (
        [(f"data.train.{index}", file) for index, file in enumerate(train)]
        if isinstance(train, list)
        else [("data.train", train)]
    )
    files += [(f"data.evaluation.{name}", file) for name, file in recipe.data.evaluation.items()]
    found = [(f"{where}.path", file.path, False) for where, file in files if file.path is not None]
    if recipe.data.corrections is not None:
        found.append(("data.corrections", recipe.data.corrections, False))
    found += [(f"task.{name}", path, False) for name, path in _files_of(recipe).items()]
    for name, stage in recipe.stages.items():
        if stage.model.path is not None:
            found.append((f"stages.{name}.model.path", stage.model.path, True))
        if stage.use_dynamics_of is not None and is_path(stage.use_dynamics_of, recipe):
            found.append((f"stages.{name}.use_dynamics_of", stage.use_dynamics_of, False))
    return found


def _files_of(recipe: Recipe) -> dict[str, str]:
    """The files that the task's settings name, by setting."""
    from ftft.tasks.contract import files_of  # numpy comes with it, which reading this module must not

    return files_of(build_task(recipe.task))


def _with_named_sections(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``adapt: full`` as ``adapt: {name: full}``; likewise the task. Anything misshapen is left for the check."""
    raw = dict(raw)
    task = raw.get("task")
    if isinstance(task, str):
        raw["task"] = {"name": task}
    elif isinstance(task, Mapping) and "name" not in task:
        raw["task"] = {"name": DEFAULT_TASK, **task}
    stages = raw.get("stages")
    if isinstance(stages, Mapping):
        raw["stages"] = {
            name: {key: _named_section(value) if key in SECTIONS else value for key, value in stage.items()}
            if isinstance(stage, Mapping)
            else stage
            for name, stage in stages.items()
        }
    return raw


def _named_section(value: Any) -> Any:
    """A name as a section, in a list of sections too."""
    if isinstance(value, list):
        return [_named_section(one) for one in value]
    return {"name": value} if isinstance(value, str) else value


def _check_given(raw: Mapping[str, Any]) -> None:
    """What only the recipe as written shows: lengths given twice, and dynamics named that nothing uses."""
    for name, stage in raw["stages"].items():
        train = stage.get("train", {})
        if train.get("epochs") is not None and train.get("steps") is not None:
            raise UserError(
                f"stages.{name}.train: both epochs and steps are given; keep one and leave the other out (or set it to null)"
            )
        if stage.get("use_dynamics_of") is not None and "select" not in stage:
            raise UserError(
                f"stages.{name}.use_dynamics_of is given but no select, so every example would be learned from; "
                f"add stages.{name}.select, or leave use_dynamics_of out"
            )


def _complete_stage(name: str, stage: Stage, raw: Mapping[str, Any], task: Task) -> Stage:
    """The stage with every setting of its methods filled in, and what the task says where the recipe is silent."""
    where = f"stages.{name}"
    stage = dataclasses.replace(stage, evaluate=with_predictions_measured(stage, task))
    if stage.stop is not None and stage.stop.metric is None:
        stage = dataclasses.replace(stage, stop=dataclasses.replace(stage.stop, metric=task.steering[0]))
    sections = {section: _complete_section(section, getattr(stage, section), join(where, section)) for section in SECTIONS}
    train = stage.train
    if train.steps is not None and "epochs" not in raw.get("train", {}):
        train = dataclasses.replace(train, epochs=None)
    return dataclasses.replace(stage, train=train, **sections)


def _complete_section(question: str, section: Any, where: str) -> Any:
    if section is None:
        return None
    if isinstance(section, list):
        return [_complete_section(question, one, join(where, index)) for index, one in enumerate(section)]
    return plain(validate_section(question, section, where))


def _with_only(recipe: Recipe) -> Recipe:
    """The recipe without the stages that ``only`` leaves out; a ``main`` or ``baseline`` among these is no longer named."""
    if recipe.only is None:
        return recipe
    if not recipe.only:
        raise UserError("only is an empty list; name at least one stage, or leave it out to run all")
    kept: set[str] = set()
    for name in recipe.only:
        if name not in recipe.stages:
            raise UserError(f'only: there is no stage "{name}"{did_you_mean(name, recipe.stages)}')
        kept |= {name, *upstream(recipe.stages, name)}
    left_out = recipe.stages.keys() - kept
    return dataclasses.replace(
        recipe,
        stages={name: stage for name, stage in recipe.stages.items() if name in kept},
        main=None if recipe.main in left_out else recipe.main,
        baseline=None if recipe.baseline in left_out else recipe.baseline,
    )


def _check_methods(recipe: Recipe) -> None:
    """Build every method of every stage, so that what it refuses is known before an earlier stage has been trained."""
    for name, stage in recipe.stages.items():
        for section in SECTIONS:
            given = getattr(stage, section)
            for one in given if isinstance(given, list) else [given] * (given is not None):
                build(section, one, f"stages.{name}.{section}")


def _main_stage(recipe: Recipe) -> str | None:
    candidates = [name for name in recipe.stages if name != recipe.baseline] or list(recipe.stages)
    return candidates[-1] if candidates else None


def _beside_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Relative input paths that exist in the recipe's folder, led by it; the rest as written."""

    def moved(file: Any) -> Any:
        return file if file.path is None else dataclasses.replace(file, path=beside(file.path, folder))

    train = recipe.data.train
    data = dataclasses.replace(
        recipe.data,
        train=[moved(file) for file in train] if isinstance(train, list) else moved(train),
        evaluation={name: moved(file) for name, file in recipe.data.evaluation.items()},
        corrections=None if recipe.data.corrections is None else beside(recipe.data.corrections, folder),
    )
    stages = {}
    for name, stage in recipe.stages.items():
        source = stage.use_dynamics_of
        if source is not None and source not in recipe.stages:
            source = beside(source, folder)  # "cart" is a path where such a folder is there
        stages[name] = dataclasses.replace(stage, model=moved(stage.model), use_dynamics_of=source)
    given = {name: beside(path, folder) for name, path in _files_of(recipe).items()}
    return dataclasses.replace(recipe, data=data, stages=stages, task={**recipe.task, **given})


def _nearest_path(path: Path) -> str:
    """A suggestion: the nearest name in the deepest part of the path that exists."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    near = nearest(missing.name, names)
    if near is not None:
        return f"; did you mean {missing.with_name(near)}?"
    return f"; the folder {missing.parent} holds no {missing.name}" if missing.is_absolute() else ""
