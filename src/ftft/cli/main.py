"""The command line. Each command is a module `ftft/cli/<command>.py` with a function `command`, imported when invoked.

`ftft --help` reads the table below only, so that it and `ftft list` answer at once: no torch, no transformers.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from typer.core import TyperGroup

from ftft.engine.processes import launched
from ftft.errors import Interrupted, UserError, did_you_mean
from ftft.version import version

# Command -> what `ftft --help` says of it; the module is `ftft.cli.<command>`.
COMMANDS = {
    "run": "Train and evaluate a recipe; run again to resume.",
    "compare": "Compare recipes fairly: run what a suite lacks, then show its table.",
    "check": "Check a recipe, then its data and model headers; nothing is trained.",
    "init": "Look at a data file and write a commented recipe for it.",
    "report": "Write the page, card and table of finished runs anew, from what they stored.",
    "select": "Choose examples by their training dynamics.",
    "score": "Write every score of every example, from dynamics or from checkpoints.",
    "map": "Draw the data map of training dynamics, to explore and select in.",
    "eval": "Evaluate a saved model on a recipe's evaluation sets.",
    "bundle": "Make a folder of a run's training dynamics that can be given to others.",
    "export": "Write training dynamics in the format of dataset cartography.",
    "pretrain": "Pretrain a tiny decoder or encoder from plain text.",
    "demo": "Plain fine-tuning against FTFT on generated data, in minutes.",
    "verify": "Replay a run's first steps and compare them, bit for bit.",
    "list": "List methods, scores and tasks, or show one of them.",
    "schema": "Write the recipe's JSON Schema, for editors.",
}

WRITING = (
    "compare",
    "init",
    "report",
    "select",
    "score",
    "map",
    "eval",
    "bundle",
    "export",
    "pretrain",
    "demo",
)  # `run` alone knows how to share its work

USER_ERROR, INTERRUPTED = 2, 130
SECONDS_TO_SPEAK = 30


class LazyGroup(TyperGroup):
    """A group whose commands are known by name and help line, and imported only when one is invoked."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UserError(f'there is no command "{args[0]}"{did_you_mean(args[0], COMMANDS)}')
        processes = launched()[1]
        if processes > 1 and args[0] in WRITING:
            raise UserError(
                f"`ftft {args[0]}` works in one process, and {processes} were launched together; start it without torchrun or "
                "accelerate launch"
            )
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
    app = typer.Typer(cls=LazyGroup, add_completion=False)
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
    """Run the command line and exit: 0 on success, 2 for what the user can mend, 130 when interrupted.

    What the user can mend is one sentence on standard error, also where a command was called wrongly.
    """
    own_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if launched()[1] > 1:
        # torch would warn at length, in every process, about a setting of DDP that the loop needs.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = make_app().main(args=arguments or ["--help"], prog_name="ftft", standalone_mode=False)
    except UserError as error:
        _exit(f"error: {error}", USER_ERROR)
    except Interrupted as error:
        if own_process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a last Ctrl-C finds nothing to stop, only an exit to garble
        _exit(str(error) or "interrupted; run the same command again to resume", INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        _exit("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) went away; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # Usage errors have no class that all versions of typer share (newer ones bring a click of their own).
        if not hasattr(error, "format_message"):
            raise
        _exit(f"error: {_usage_sentence(error)}", USER_ERROR)
    _leave(code if isinstance(code, int) else 0)


def _usage_sentence(error: Any) -> str:
    """One sentence for a command that was called wrongly: which command, what is wrong, the nearest right spelling."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    command = context.command_path if context is not None else "ftft"
    wrong = getattr(error, "option_name", None)
    if context is not None and wrong is not None and type(error).__name__ == "NoSuchOption":
        known = [option for one in context.command.get_params(context) for option in one.opts if option.startswith("--")]
        return f'{command} has no option "{wrong}"{did_you_mean(wrong, known)}'
    if parameter is not None and type(error).__name__ == "MissingParameter":
        is_option = parameter.param_type_name == "option"
        what = f"the option {parameter.opts[-1]}" if is_option else f"the argument {parameter.name}"
        return f"{command} needs {what}; `{command} --help` says what it is"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{command}: {message[:1].lower()}{message[1:]}"


def _exit(sentence: str, code: int) -> NoReturn:
    index, count = launched()
    if index > 0:
        if code == INTERRUPTED:
            _leave(code)
        # The first process nearly always has the same to say. Its launcher ends this one when it has said it, and would
        # end it unheard if this one left before.
        time.sleep(SECONDS_TO_SPEAK)
        sentence = f"process {index} of {count}: {sentence}"
    print(sentence, file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit. A process that has joined others goes without taking the interpreter down: torch's communication threads may still
    hold tensors, and then abort in it (pytorch pull request 179291), which its launcher would take for a failed run."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
