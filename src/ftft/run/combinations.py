"""What cannot go together in a recipe, each refused in one sentence that says why and what would work."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile, require_target
from ftft.dynamics.score_names import MINIMUM_EPOCHS
from ftft.engine.settings import ModelSettings, TrainSettings
from ftft.errors import UserError, did_you_mean
from ftft.methods.questions import OF_MODELS, QUESTIONS
from ftft.methods.registry import build_task, header, list_methods
from ftft.paths import variables
from ftft.run.other_models import check_other_models, check_predictor
from ftft.run.recipe import Recipe, Stage, evaluators
from ftft.run.search_space import check_search
from ftft.run.sharding import check_sharding
from ftft.run.task_combinations import check_coupling, check_merging, check_packing
from ftft.run.trainer_combinations import check_beginning, check_trainer

if TYPE_CHECKING:
    from ftft.tasks.contract import Task

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
HELD_OUT = "validation"  # the set that is split off the training rows where no ID validation set is given


def check_combinations(recipe: Recipe) -> None:
    """Raise UserError for the first combination in a typed recipe that cannot work."""
    if recipe.name is not None:
        _file_name(recipe.name, "name")
    task = build_task(recipe.task)
    _check_data(recipe.data)
    check_merging(recipe.data, task)
    _check_names(recipe)
    for name, stage in recipe.stages.items():
        where = f"stages.{name}"
        _check_model(stage.model, f"{where}.model")
        check_beginning(name, stage, _before(name, recipe), where)
        check_other_models(stage, where)
        for role, model in stage.other_models.items():
            _check_model(model, f"{where}.other_models.{role}")
        _check_train(stage.train, f"{where}.train")
        check_coupling(stage, task, where)
        check_packing(stage, task, where)
        _check_stop(stage, recipe.data, task, where)
        _check_tasks(stage, task.name, where)
        _check_needs(stage, where)
        _check_dynamics(name, stage, recipe, where)
        _check_models_used(name, stage, recipe, where)
        _check_scoring(name, stage, recipe, where)
        _check_evaluators(stage, recipe.data, where)
        if stage.data is not None:
            _check_file(stage.data, f"{where}.data")
        check_trainer(name, recipe, task)
        check_predictor(stage, recipe, where)
        check_search(stage, task, validation_sets(recipe.data), list(recipe.data.evaluation), where)
        check_sharding(stage, task, where)


def is_path(source: str, recipe: Recipe) -> bool:
    """Whether ``use_dynamics_of`` names a file or folder rather than a stage: no stage is called so, and it looks like a
    path or is one."""
    if source in recipe.stages:
        return False
    written_as_path = "/" in source or source.startswith("~") or source.endswith(".parquet") or bool(variables(source))
    return written_as_path or os.path.exists(source)


def validation_sets(data: DataSettings) -> list[str]:
    """The names of the sets that may steer training, the held-out one included where it will be made."""
    named = [name for name, file in data.evaluation.items() if file.split == "validation"]
    return named if has_id_validation(data) else [*named, HELD_OUT]


def has_id_validation(data: DataSettings) -> bool:
    """Whether a validation set in distribution is given, so that none is held out of the training rows."""
    return any(file.role == "id" and file.split == "validation" for file in data.evaluation.values())


def _check_names(recipe: Recipe) -> None:
    if not recipe.stages:
        raise UserError("stages is empty; a recipe needs at least one stage")
    for name in recipe.stages:
        _file_name(name, f"stages.{name}")
    _distinct_files(recipe.stages, "stages")
    for key, named in (("baseline", recipe.baseline), ("main", recipe.main)):
        if named is not None and named not in recipe.stages:
            raise UserError(f'{key}: there is no stage "{named}"{did_you_mean(named, recipe.stages)}')


def _check_data(data: DataSettings) -> None:
    files = data.train if isinstance(data.train, list) else [data.train]
    if not files:
        raise UserError("data.train is an empty list; name at least one file")
    _check_columns(data.columns, "data.columns")
    for index, file in enumerate(files):
        _check_file(file, f"data.train.{index}" if isinstance(data.train, list) else "data.train")
    if data.labels is not None and len(set(data.labels)) < max(2, len(data.labels)):
        raise UserError("data.labels must name at least two labels, each once")
    for name, evaluation in data.evaluation.items():
        where = f"data.evaluation.{name}"
        _file_name(name, where)
        if name == HELD_OUT and not has_id_validation(data):
            raise UserError(
                f'{where}: the name "{HELD_OUT}" is kept for the rows held out of training; give this set another name, '
                "or role id and split validation"
            )
        _check_file(evaluation, where)
        _check_merge(evaluation, data, where)
    _distinct_files(data.evaluation, "data.evaluation")


def _check_file(file: DataFile, where: str) -> None:
    _exactly_one({"path": file.path, "hub": file.hub}, where)
    if file.hub is None and file.hub_config is not None:
        raise UserError(f"{where}.hub_config is only for a dataset on the hub; leave it out, or give hub instead of path")
    if file.hub is not None and file.format is not None:
        raise UserError(f"{where}.format is only for a file; leave it out for a dataset on the hub")
    if file.columns is not None:
        _check_columns(file.columns, f"{where}.columns")


def _check_columns(columns: Columns, where: str) -> None:
    if columns.text and columns.inputs:
        raise UserError(f"{where}: text and inputs are both given; name every column in one of them")
    if len(columns.text) > 2 or len(set(columns.text)) < len(columns.text):
        raise UserError(f"{where}.text must name one text column, or two different ones for pairs")


def _check_merge(file: EvaluationFile, data: DataSettings, where: str) -> None:
    used: dict[str, str] = {}
    for own, merged in (file.merge_labels or {}).items():
        for label in merged:
            if data.labels is not None and label not in data.labels:
                raise UserError(
                    f'{where}.merge_labels.{own}: the model has no label "{label}"{did_you_mean(label, data.labels)}'
                )
            if label in used:
                raise UserError(
                    f'{where}.merge_labels: the model\'s label "{label}" counts as both "{used[label]}" and "{own}"; keep one'
                )
            used[label] = own


def _check_model(model: ModelSettings, where: str) -> None:
    sources = {"path": model.path, "hub": model.hub, "package": model.package}
    _exactly_one({**sources, **({} if model.stage is None else {"stage": model.stage})}, where)
    if model.package is not None and not re.fullmatch(r"[\w.]+:\w+", model.package):
        raise UserError(f'{where}.package: "{model.package}" is not of the form module:ATTRIBUTE')
    if model.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", model.sha256):
        raise UserError(f"{where}.sha256 must be 64 hexadecimal digits")


def _check_train(train: TrainSettings, where: str) -> None:
    if train.epochs is None and train.steps is None:
        raise UserError(f"{where}: neither epochs nor steps is given; set one of them")
    if train.epochs is not None and train.steps is not None:
        raise UserError(f"{where}: both epochs and steps are given; set one of them to null")
    if train.micro_batch_size is not None and train.batch_size % train.micro_batch_size:
        divisors = [size for size in range(1, train.micro_batch_size + 1) if train.batch_size % size == 0]
        raise UserError(
            f"{where}.micro_batch_size: {train.micro_batch_size} does not divide batch_size {train.batch_size}; "
            f"{divisors[-1]} would"
        )
    if train.evaluate_every is not None and train.evaluate_every >= 1 and train.evaluate_every != int(train.evaluate_every):
        raise UserError(f"{where}.evaluate_every: {train.evaluate_every:g} is no whole number of steps, nor a share below 1")


def _check_stop(stage: Stage, data: DataSettings, task: Task, where: str) -> None:
    if stage.stop is None:
        return
    if stage.stop.metric not in task.steering:
        hint = did_you_mean(str(stage.stop.metric), task.steering)
        raise UserError(f'{where}.stop.metric: {task.name} has no score "{stage.stop.metric}" to steer by{hint}')
    allowed = validation_sets(data)
    for place, name in enumerate(stage.stop.on):
        if name in stage.stop.on[:place]:
            raise UserError(f'{where}.stop.on names "{name}" twice; name each set once')
        if name in allowed:
            continue
        if name in data.evaluation:
            raise UserError(
                f'{where}.stop.on: "{name}" is a test set, and test sets are only reported; '
                f"stop on a validation set ({', '.join(allowed)})"
            )
        raise UserError(f'{where}.stop.on: there is no validation set "{name}"{did_you_mean(name, allowed)}')


def _check_tasks(stage: Stage, task: str, where: str) -> None:
    for question in QUESTIONS:
        given = getattr(stage, question, None)
        for section in given if isinstance(given, list) else [given]:
            if not isinstance(section, Mapping):
                continue
            found = header(question, section["name"], f"{where}.{question}")
            if not found.serves(task):
                others = [method.name for method in list_methods(question) if method.serves(task)]
                instead = f"; for this task there is {', '.join(others)}" if others else ""
                raise UserError(
                    f"{where}.{question}: {found.name} serves the tasks {', '.join(found.tasks)} and not {task}{instead}"
                )


def _check_needs(stage: Stage, where: str) -> None:
    """What one method needs of another: an optimizer of low-rank updates needs an adapter that makes them."""
    adapt, optimize = (header(question, getattr(stage, question)["name"], where) for question in ("adapt", "optimize"))
    if "pairs" in optimize.needs and "pairs" not in adapt.offers:
        makers = ", ".join(method.name for method in list_methods("adapt") if "pairs" in method.offers)
        raise UserError(
            f"{where}.optimize: {optimize.name} steps on low-rank updates, and {adapt.name} makes none; "
            f"adapt with one of {makers}"
        )
    if "blocks" in optimize.needs and adapt.trainable == "scheduled":
        raise UserError(
            f"{where}.optimize: {optimize.name} and {adapt.name} both say at every step which layers learn; adapt with full"
        )
    objective = header("objective", stage.objective["name"], where)
    if "own_parameters" in objective.needs and "merge" in adapt.offers:
        keepers = ", ".join(method.name for method in list_methods("adapt") if "merge" not in method.offers)
        raise UserError(
            f"{where}.objective: {objective.name} weighs the model's own weights, and {adapt.name} trains others in their "
            f"place; adapt with one of {keepers}"
        )
    if "losses" in header("select", stage.select["name"], where).needs and "records" in objective.exceptions:
        raise UserError(
            f"{where}.select: {stage.select['name']} goes by each example's loss, and {objective.name} gives the training "
            f"forward other inputs than the examples ({objective.exceptions['records']}); choose another objective"
        )
    if stage.dynamics is not None and stage.dynamics.mode == "online" and "records" in objective.exceptions:
        raise UserError(
            f"{where}.dynamics: {objective.name} gives the training forward other inputs than the examples "
            f"({objective.exceptions['records']}); record with {where}.dynamics: {{mode: epoch_end}}"
        )


def _check_dynamics(name: str, stage: Stage, recipe: Recipe, where: str) -> None:
    method = stage.select["name"]
    source = stage.use_dynamics_of
    if source is None:
        if "dynamics" in header("select", method, f"{where}.select").needs:
            recording = [other for other in _before(name, recipe) if recipe.stages[other].dynamics is not None]
            instead = f"name the stage {recording[-1]}" if recording else "name an earlier stage that has `dynamics`, or a file"
            raise UserError(f"{where}.select: {method} needs training dynamics; add {where}.use_dynamics_of and {instead}")
        return
    if is_path(source, recipe):
        return
    if source not in recipe.stages:
        near = did_you_mean(source, _before(name, recipe))
        nor = (
            "" if "did you mean" in near else ", and no file or folder of that name beside the recipe or in the current folder"
        )
        raise UserError(f'{where}.use_dynamics_of: there is no stage "{source}"{nor}{near}')
    if source not in _before(name, recipe):
        which = "the stage itself" if source == name else f'the stage "{source}", which comes later'
        raise UserError(
            f"{where}.use_dynamics_of names {which}; only a stage before it has left dynamics, so change their order"
        )
    reference = recipe.stages[source]
    if reference.trainer is not None:
        raise UserError(
            f'{where}.use_dynamics_of: no score is made of what {reference.trainer["name"]} records in the stage "{source}"; '
            "name a stage that the engine runs"
        )
    if reference.dynamics is None:
        raise UserError(
            f'{where}.use_dynamics_of: the stage "{source}" records no dynamics; add stages.{source}.dynamics: {{mode: online}}'
        )
    _check_epochs(stage.select, source, reference, where)


def _check_models_used(name: str, stage: Stage, recipe: Recipe, where: str) -> None:
    found = header("combine", stage.combine["name"], f"{where}.combine")
    for place, other in enumerate(stage.use_models_of):
        if other not in recipe.stages:
            raise UserError(f'{where}.use_models_of: there is no stage "{other}"{did_you_mean(other, _before(name, recipe))}')
        if other not in _before(name, recipe):
            raise UserError(f'{where}.use_models_of names "{other}", which is not finished before; name earlier stages')
        if other in stage.use_models_of[:place]:
            raise UserError(f'{where}.use_models_of names "{other}" twice; name each stage once')
    if stage.use_models_of and "members" not in (*found.needs, *found.offers):
        takers = [method.name for method in list_methods("combine") if "members" in (*method.needs, *method.offers)]
        raise UserError(f"{where}.use_models_of is given, and {found.name} combines no other models; use {', '.join(takers)}")
    if "members" in found.needs and not stage.use_models_of:
        raise UserError(f"{where}.combine: {found.name} combines several models; name their stages in {where}.use_models_of")


def _check_scoring(name: str, stage: Stage, recipe: Recipe, where: str) -> None:
    """The model that examples are made or looked at with, and the set that is selected towards."""
    found = header("select", stage.select["name"], f"{where}.select")
    other, earlier = stage.use_model_of, _before(name, recipe)
    if "scoring_model" not in found.needs and stage.create is None:
        if other is not None:
            takers = [method.name for method in list_methods("select") if "scoring_model" in method.needs]
            raise UserError(f"{where}.use_model_of is given, and {found.name} looks at no model; use {', '.join(takers)}")
        return
    if other is not None and other not in recipe.stages:
        raise UserError(f'{where}.use_model_of: there is no stage "{other}"{did_you_mean(other, earlier)}')
    if other is not None and other not in earlier:
        raise UserError(f'{where}.use_model_of names "{other}", which is not finished before; name an earlier stage')
    target = stage.select.get("target")
    if target is not None:
        require_target(target, validation_sets(recipe.data), recipe.data.evaluation, where)


def _check_evaluators(stage: Stage, data: DataSettings, where: str) -> None:
    found = [header("evaluate", section["name"], f"{where}.evaluate") for section in evaluators(stage)]
    names = [method.name for method in found]
    if not found:
        raise UserError(f"{where}.evaluate is an empty list; name at least one method, or leave it out")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"{where}.evaluate names {name} twice; name each method once")
    plain = [method.name for method in found if not set(method.needs) & set(OF_MODELS)]
    if len(plain) > 1:
        raise UserError(f"{where}.evaluate: {' and '.join(plain)} both measure predictions on every set; keep one of them")
    forget = [name for name, file in data.evaluation.items() if file.role == "forget"]
    needing = next((method.name for method in found if "base_predictions" in method.needs), None)
    if needing is not None and not forget:
        raise UserError(
            f"{where}.evaluate: {needing} measures what became of earlier knowledge, and no evaluation set has the role "
            "forget; give one that role"
        )


def _check_epochs(select: Mapping[str, Any], source: str, reference: Stage, where: str) -> None:
    """Refuse a score that the reference stage's epochs cannot give, before the reference is paid for."""
    if reference.train.epochs is None:
        return
    given = reference.train.epochs
    chosen, dropped = select.get("epochs"), select.get("drop_first_epochs") or 0
    scored = len(chosen) if isinstance(chosen, list) else max(0.0, given - dropped)
    needed = {score: MINIMUM_EPOCHS.get(score, 1) for score in sorted({*_scores(select)} - {"random"})}
    for score, least in needed.items():
        if scored >= least or (least == 1 and scored > 0):  # part of an epoch is recorded too
            continue
        needs = f"{where}.select: {score} needs dynamics of at least {least} epoch{'s' * (least > 1)}, and"
        if isinstance(chosen, list):
            raise UserError(f"{needs} {where}.select.epochs names {scored:g}; name more, or leave it out to use all")
        if dropped and given >= least:
            raise UserError(
                f'{needs} of the {given:g} that the stage "{source}" gives, {where}.select.drop_first_epochs leaves '
                f"{scored:g}; drop at most {math.floor(given - least)}, or raise stages.{source}.train.epochs"
            )
        raise UserError(
            f'{needs} the stage "{source}" gives {given:g}; raise stages.{source}.train.epochs, or select by confidence'
        )


def _before(name: str, recipe: Recipe) -> list[str]:
    order = list(recipe.stages)
    return order[: order.index(name)]


def _scores(section: Any) -> Iterator[str]:
    """Every value of a key ``score`` in a section, in the parts of a mixture too."""
    if isinstance(section, Mapping):
        if isinstance(section.get("score"), str):
            yield section["score"]
        for inner in section.values():
            yield from _scores(inner)
    elif isinstance(section, list):
        for inner in section:
            yield from _scores(inner)


def _exactly_one(given: Mapping[str, str | None], where: str) -> None:
    present = [key for key, value in given.items() if value is not None]
    names = " or ".join(given)
    if not present:
        raise UserError(f"{where} names no source; give it {names}")
    if len(present) > 1:
        raise UserError(f"{where} has {' and '.join(present)}; give it exactly one of {names}")


def _file_name(name: str, where: str) -> None:
    if not FILE_NAME.fullmatch(name):
        raise UserError(
            f'{where}: "{name}" cannot be used as a file name; use letters, digits, _, - and dots, '
            "beginning with a letter or digit"
        )


def _distinct_files(names: Iterable[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f'{where}: "{other}" and "{name}" differ only in case, which some file systems cannot; rename one')
