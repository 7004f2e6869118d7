"""`ftft list [NAME]`: methods, scores and tasks, read from their files without importing any."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftft.cli.consoles import output_console
from ftft.dynamics.score_names import SCORES
from ftft.errors import UserError, did_you_mean
from ftft.methods.header import MethodHeader, SettingHeader
from ftft.methods.questions import ASKED, QUESTIONS
from ftft.methods.registry import list_methods, list_tasks, list_trainers
from ftft.validation import BOUND_WORDS, show


def command(
    name: Annotated[
        str | None, typer.Argument(help="A question, method, task, trainer or score; `scores`, `tasks`, `trainers`.")
    ] = None,
) -> None:
    """List methods, scores and tasks, or show one of them with its settings."""
    console = output_console()
    if name is None:
        every = list_methods()
        for question in QUESTIONS:
            _print_question(console, question, [method for method in every if method.question == question])
        _print_tasks(console)
        _print_trainers(console)
        _print_scores(console)
    elif name in QUESTIONS:
        _print_question(console, name, list_methods(name))
    elif name == "tasks":
        _print_tasks(console)
    elif name == "trainers":
        _print_trainers(console)
    elif name == "scores":
        _print_scores(console)
    else:
        _print_one(console, name)


def _print_one(console: Console, name: str) -> None:
    every = [*list_methods(), *list_tasks(), *list_trainers()]
    question, _, short = name.rpartition(".")
    found = [method for method in every if method.name == short and question in ("", method.question)]
    if not found and name not in SCORES:
        options = dict.fromkeys([*QUESTIONS, "tasks", "trainers", "scores", *(method.name for method in every), *SCORES])
        raise UserError(f'there is no method, task, score or question "{name}"{did_you_mean(name, options)}')
    for method in found:
        _print_method(console, method)
    if name in SCORES:
        console.print(f"[bold]{name}[/bold] (score): {SCORES[name]}")


def _print_question(console: Console, question: str, methods: list[MethodHeader]) -> None:
    console.print(f"\n[bold]{question}[/bold]  {ASKED[question]}")
    if methods:
        _print_methods(console, methods)
    else:
        console.print("  no method is installed")


def _print_tasks(console: Console) -> None:
    console.print("\n[bold]tasks[/bold]  What kind of data and model is it?")
    _print_methods(console, list_tasks())


def _print_trainers(console: Console) -> None:
    console.print("\n[bold]trainers[/bold]  Which trainer of TRL runs the stage?")
    _print_methods(console, list_trainers())


def _print_methods(console: Console, methods: list[MethodHeader]) -> None:
    columns = {
        "name": [method.name for method in methods],
        "what it does": [method.summary for method in methods],
        "needs": [", ".join(method.needs) for method in methods],
        "tasks": ["" if "*" in method.tasks or method.question == "tasks" else ", ".join(method.tasks) for method in methods],
        "sharded": ["" if method.question == "tasks" else "yes" if _sharded(method) else "no" for method in methods],
        "paper": [method.paper for method in methods],
        "supplied by": [method.library for method in methods],
        "from": ["" if method.package == "ftft" else method.package for method in methods],
    }
    _print_table(console, columns)


def _print_scores(console: Console) -> None:
    console.print("\n[bold]scores[/bold]  What do the training dynamics say of an example?")
    _print_table(console, {"name": list(SCORES), "meaning": list(SCORES.values())})


def _print_method(console: Console, method: MethodHeader) -> None:
    console.print(f"\n[bold]{method.name}[/bold] ({method.question}): {escape(method.summary)}")
    facts = {
        "paper": method.paper,
        "needs": ", ".join(method.needs),
        "other models": ", ".join(method.roles),
        "offers": ", ".join(method.offers),
        "tasks": "" if method.question == "tasks" else "any" if "*" in method.tasks else ", ".join(method.tasks),
        "works on weights in shards": "" if method.question == "tasks" else "yes" if _sharded(method) else "no",
        "supplied by": method.library,
        "from": "" if method.package == "ftft" else method.package,
    }
    for fact, value in facts.items():
        if value:
            console.print(f"  {fact}: {escape(value)}")
    for promise, reason in method.exceptions.items():
        console.print(f"  does not keep the contract's {promise.replace('_', ' ')}: {escape(reason)}")
    if not method.settings:
        console.print("  no settings")
        return
    columns = {
        "setting": [setting.name for setting in method.settings],
        "type": [setting.annotation.replace("ScoreName", "score") for setting in method.settings],
        "default": [_default(setting) for setting in method.settings],
        "meaning": [_meaning(setting) for setting in method.settings],
        "origin of the default": [setting.origin for setting in method.settings],
    }
    _print_table(console, columns)


def _sharded(method: MethodHeader) -> bool:
    """Whether it may stand in a stage with ``train.sharding``."""
    return bool(method.sharded) or not method.meets_shards


def _default(setting: SettingHeader) -> str:
    if setting.required:
        return "(required)"
    words = {None: "null", True: "true", False: "false"}
    return words[setting.default] if isinstance(setting.default, bool | None) else str(setting.default)


def _meaning(setting: SettingHeader) -> str:
    bounds = " and ".join(f"{BOUND_WORDS[name]} {show(bound)}" for name, bound in setting.bounds.items())
    return f"{setting.help} ({bounds})" if bounds else setting.help


def _print_table(console: Console, columns: dict[str, list[str]]) -> None:
    """A table of the columns that hold anything."""
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="italic")
    lengths = [max(map(len, cells)) for cells in shown.values()]
    widest = lengths.index(max(lengths)) if lengths else 0
    for place, title in enumerate(shown):
        table.add_column(title, no_wrap=place == 0, overflow="fold", min_width=24 if place == widest else None)
    for row in zip(*shown.values()):
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
