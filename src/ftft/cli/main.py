"""The command line. Each command is a module `ftft/cli/<command>.py` with a function `command`, imported when invoked.

`ftft --help` reads the table below only, so that it and `ftft list` answer at once: no torch, no transformers.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from ftft.errors import Interrupted, UserError
from ftft.version import version

# Command -> what `ftft --help` says of it; the module is `ftft.cli.<command>`.
COMMANDS = {
    "run": "Train and evaluate a recipe; run again to resume.",
    "check": "Check a recipe, then its data and model headers; nothing is trained.",
    "init": "Look at a data file and write a commented recipe for it.",
    "select": "Choose examples by their training dynamics.",
    "score": "Write every score of every example, from dynamics or from checkpoints.",
    "eval": "Evaluate a saved model on a recipe's evaluation sets.",
    "export": "Write training dynamics in the format of dataset cartography.",
    "demo": "Plain fine-tuning against FTFT on generated data, in minutes.",
    "list": "List methods, scores and tasks, or show one of them.",
    "schema": "Write the recipe's JSON Schema, for editors.",
}

USER_ERROR, INTERRUPTED = 2, 130


class LazyGroup(TyperGroup):
    """A group whose commands are known by name and help line, and imported only when one is invoked."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


def load_command(name: str) -> Any:
    """Import a command's module and make its function ``command`` the command of that name."""
    module = importlib.import_module(f"ftft.cli.{name}")
    single = typer.Typer(add_completion=False)
    single.command(name, help=COMMANDS[name] if not module.command.__doc__ else None)(module.command)
    return typer.main.get_command(single)


def make_app() -> Any:
    """The command group, ready to be called with arguments."""
    app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True)
    app.callback(help="Fine-tune models accurate in distribution, robust out of distribution and cheap to train.")(_options)
    for name, line in COMMANDS.items():
        app.command(name, help=line)(_listed_only)
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ftft {version()}")
        raise typer.Exit()


def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _listed_only() -> None:
    raise AssertionError("the group replaces this with the command's own module before it is invoked")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 on success, 2 for what the user can mend, 130 when interrupted."""
    try:
        make_app().main(args=arguments, prog_name="ftft", standalone_mode=True)
    except UserError as error:
        _exit(f"error: {error}", USER_ERROR)
    except Interrupted as error:
        _exit(str(error) or "interrupted; run the same command again to resume", INTERRUPTED)
    except KeyboardInterrupt:
        _exit("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) went away; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _exit(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
