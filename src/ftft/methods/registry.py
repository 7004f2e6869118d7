"""The file system is the registry: a method is the file `methods/<question>/<name>.py`, a task the file `tasks/<name>.py`.

Listing and checking read headers statically (`header.py`); only :func:`build` imports, and only the one file it needs.
Methods of other packages come in by entry points of the group `ftft.methods`, named "<question>.<name>", whose value is
a module. Where such a name is one of our own, ours is used.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftft.errors import UserError, did_you_mean, nearest
from ftft.methods.header import MethodHeader, locate, read_header
from ftft.methods.questions import QUESTIONS, VERBS
from ftft.validation import check, check_keys, join, show

PACKAGE = Path(__file__).resolve().parent.parent
GROUP = "ftft.methods"
TASKS = "tasks"
TRAINERS = "trainers"  # of TRL, in `bridges/trainers`
MOST_NAMED = 12  # methods that a sentence lists
SUBJECT = re.compile(r"\w+(?=[:.]| is | are | must | cannot )")


def list_methods(question: str | None = None) -> list[MethodHeader]:
    """The headers of every method found, ours first, by question and name; of one question where it is given."""
    asked = QUESTIONS if question is None else (question,)
    own = [header for one in asked for header in _own(one)]
    taken = {(header.question, header.name) for header in own}
    foreign = [
        _foreign_header(question_, name, module, package)
        for question_, name, module, package in _entry_points()
        if question_ in asked and (question_, name) not in taken
    ]
    order = {one: place for place, one in enumerate(asked)}
    return sorted([*own, *foreign], key=lambda header: (order[header.question], header.package != "ftft", header.name))


def list_tasks() -> list[MethodHeader]:
    """The headers of every task found, by name; their ``question`` is "tasks"."""
    return list(_own(TASKS))


def list_trainers() -> list[MethodHeader]:
    """The headers of every trainer that can run a stage instead of the engine; their ``question`` is "trainers"."""
    return list(_own(TRAINERS))


def header(question: str, name: str, where: str = "") -> MethodHeader:
    """The header of one method, reading its file only.

    Raises UserError, led by ``where``, for an unknown name: the nearest spelling, and the question the name belongs to
    where it is another's.
    """
    if question not in QUESTIONS:
        raise UserError(f'{_lead(where)}there is no question "{question}"{did_you_mean(question, QUESTIONS)}')
    found = _find(question, name)
    if found is not None:
        return found
    elsewhere = [other for other in QUESTIONS if other != question and _find(other, name) is not None]
    if elsewhere:
        raise UserError(
            f'{_lead(where)}"{name}" is no method of {question}, it is one of {elsewhere[0]}; '
            f"name it there, and here one of {_some(question)}"
        )
    names = [method.name for method in list_methods(question)]
    file = _file(question, name)
    if file is not None:
        raise UserError(
            f"{_lead(where)}{file} holds no public class that is decorated @dataclass(frozen=True) "
            f"and defines `{VERBS[question]}`"
        )
    options = did_you_mean(name, names) or f"; no method of {question} is installed"
    raise UserError(f'{_lead(where)}there is no method "{name}" of {question}{options}')


def task_header(name: str, where: str = "") -> MethodHeader:
    """The header of one task; UserError with the nearest spelling for an unknown name."""
    file = _file(TASKS, name)
    found = read_header(file, TASKS, "collate", f"ftft.tasks.{name}") if file is not None else None
    if found is None:
        raise UserError(f'{_lead(where)}there is no task "{name}"{did_you_mean(name, [task.name for task in list_tasks()])}')
    return found


def trainer_header(name: str, where: str = "") -> MethodHeader:
    """The header of one trainer; UserError with the nearest spelling for an unknown name."""
    found = _find(TRAINERS, name)
    if found is None:
        raise UserError(
            f'{_lead(where)}there is no trainer "{name}"{did_you_mean(name, [trainer.name for trainer in list_trainers()])}'
        )
    return found


def validate_section(question: str, section: Mapping[str, Any] | str, where: str) -> dict[str, Any]:
    """A recipe's section with every setting filled in and checked against the static header; imports no method.

    ``section`` holds "name" and settings, or is the name alone; ``where`` is its path (``stages.main.adapt``).
    Raises UserError.
    """
    section, name = _named(section, where)
    found = header(question, name, join(where, "name") if len(section) > 1 else where)
    return {"name": name, **_check_settings(found, section, where)}


def validate_task(section: Mapping[str, Any] | str, where: str) -> dict[str, Any]:
    """As :func:`validate_section`, for a task."""
    section, name = _named(section, where)
    return {"name": name, **_check_settings(task_header(name, join(where, "name")), section, where)}


def validate_trainer(section: Mapping[str, Any] | str, where: str) -> dict[str, Any]:
    """As :func:`validate_section`, for a trainer."""
    section, name = _named(section, where)
    return {"name": name, **_check_settings(trainer_header(name, join(where, "name")), section, where)}


def build(question: str, section: Mapping[str, Any] | str, where: str) -> Any:
    """The method instance a section describes, importing its file only. Raises UserError for what the user can mend."""
    checked = validate_section(question, section, where)
    return _construct(header(question, checked.pop("name")), checked, where)


def build_task(section: Mapping[str, Any] | str, where: str = "task") -> Any:
    """The task instance of a section (``{"name": "text_classification", "max_length": 128}``)."""
    checked = validate_task(section, where)
    return _construct(task_header(checked.pop("name")), checked, where)


def build_trainer(section: Mapping[str, Any] | str, where: str) -> Any:
    """The trainer instance of a section (``{"name": "dpo", "beta": 0.1}``); TRL itself is not imported."""
    checked = validate_trainer(section, where)
    return _construct(trainer_header(checked.pop("name")), checked, where)


def load_class(found: MethodHeader) -> type:
    """Import a method's file and give its class."""
    return getattr(importlib.import_module(found.module), found.class_name)


def _construct(found: MethodHeader, settings: dict[str, Any], where: str) -> Any:
    try:
        return load_class(found)(**settings)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ftft":
            raise
        raise UserError(
            f"{where}: {found.name} needs the package {error.name}, which is not installed; install it or choose another method"
        ) from None
    except (ValueError, UserError) as error:  # what a method's own __post_init__ says of settings that do not go together
        raise UserError(_placed(str(error), found, where)) from error


def _placed(sentence: str, found: MethodHeader, where: str) -> str:
    """The sentence led by its place in the recipe: where it says something of a setting by name (``window is 1; ...``,
    ``parts.0.score: ...``), by that setting's path."""
    if sentence.startswith(where):
        return sentence
    subject = SUBJECT.match(sentence)
    named = subject is not None and subject[0] in (setting.name for setting in found.settings)
    return f"{where}.{sentence}" if named else f"{where}: {sentence}"


def _named(section: Mapping[str, Any] | str, where: str) -> tuple[Mapping[str, Any], str]:
    section = {"name": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping):
        raise UserError(f"{where}: expected the name of a method, or a mapping with name and settings, found {show(section)}")
    name = section.get("name")
    if name is None:
        raise UserError(f"{join(where, 'name')} is missing; say which method is meant")
    if not isinstance(name, str):
        raise UserError(f"{join(where, 'name')}: expected the name of a method, found {show(name)}")
    return section, name


def _check_settings(found: MethodHeader, section: Mapping[str, Any], where: str) -> dict[str, Any]:
    check_keys(section, ["name", *(setting.name for setting in found.settings)], where)
    values = {}
    for setting in found.settings:
        path = join(where, setting.name)
        if setting.name in section:
            values[setting.name] = check(section[setting.name], setting.kind, path, setting.bounds)
        elif setting.required:
            raise UserError(
                f"{path} is missing, and {found.name} has no default for it{': ' if setting.help else ''}{setting.help}"
            )
        else:
            values[setting.name] = check(setting.default, setting.kind, path)
    return values


def _own(question: str) -> Iterator[MethodHeader]:
    folder, verb, prefix = _place(question)
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            found = read_header(path, question, verb, f"{prefix}.{path.stem}")
            if found is not None:
                yield found


def _place(question: str) -> tuple[Path, str, str]:
    """The folder of a question (or of the tasks, or the trainers), its verb, and its package."""
    if question == TASKS:
        return PACKAGE / TASKS, "collate", "ftft.tasks"
    if question == TRAINERS:
        return PACKAGE / "bridges" / TRAINERS, "start", "ftft.bridges.trainers"
    return PACKAGE / "methods" / question, VERBS[question], f"ftft.methods.{question}"


def _file(question: str, name: str) -> Path | None:
    """Our file of that name; names that are no plain identifiers never reach the file system."""
    path = _place(question)[0] / f"{name}.py"
    return path if name.isidentifier() and not name.startswith("_") and path.is_file() else None


def _find(question: str, name: str) -> MethodHeader | None:
    path = _file(question, name)
    if path is not None:
        _, verb, prefix = _place(question)
        return read_header(path, question, verb, f"{prefix}.{name}")
    for other, other_name, module, package in _entry_points():
        if (other, other_name) == (question, name):
            return _foreign_header(question, name, module, package)
    return None


def _entry_points() -> Iterator[tuple[str, str, str, str]]:
    """Question, name, module and package of every registered method of other packages."""
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        question, _, name = point.name.partition(".")
        package = point.dist.name if point.dist is not None else point.value.partition(".")[0]
        if question not in QUESTIONS or not name:
            near = nearest(question, QUESTIONS) or QUESTIONS[1]
            raise UserError(
                f'the package {package} registers the method "{point.name}", but such a name is "<question>.<name>", '
                f'for instance "{near}.{name or "mine"}"'
            )
        yield question, name, point.value, package


def _foreign_header(question: str, name: str, module: str, package: str) -> MethodHeader:
    path = locate(module)
    if path is None:
        raise UserError(f"the package {package} registers {question}.{name}, but its module {module} cannot be found")
    found = read_header(path, question, VERBS[question], module, package)
    if found is None:
        raise UserError(
            f"the package {package} registers {question}.{name}, but {module} holds no public class that is decorated "
            f"@dataclass(frozen=True) and defines `{VERBS[question]}`"
        )
    return MethodHeader(**{**found.__dict__, "name": name})


def _some(question: str) -> str:
    names = [method.name for method in list_methods(question)]
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more or "none (no method of it is installed)"


def _lead(where: str) -> str:
    return f"{where}: " if where else ""
