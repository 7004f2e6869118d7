"""The command line: listings stay light, commands are imported when invoked, errors are a sentence and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftft.cli import main as cli
from ftft.dynamics.score_names import SCORES
from ftft.errors import Interrupted, UserError
from ftft.methods.registry import list_methods, list_tasks
from ftft.run.reading import recipe_to_yaml

HEAVY = ("torch", "transformers", "accelerate", "datasets", "pandas", "pyarrow", "numpy", "safetensors", "peft", "trl")


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "adamw"],
        ["list", "scores"],
        ["schema"],
        ["run", "--help"],
        ["pretrain", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ftft.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    code = f"import sys, ftft\nftft.load_recipe\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


SEEN = """
import os, sys
from ftft.cli.main import main
def say():
    answers = sys.modules.get("transformers.generation.candidate_generator")
    theirs = ["sklearn"] if hasattr(answers, "roc_curve") else []  # older releases import it by themselves
    seen = [name for name in {names!r} if name in sys.modules and name not in theirs]
    sys.stderr.write("HEAVY " + " ".join(seen) + "\\n")
    sys.stderr.flush()
"""
CHECK = SEEN + "try:\n    main(['check', {recipe!r}])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\nsay()\n"
FIRST_STEP = (
    SEEN + "import ftft.engine.loop\nftft.engine.loop.TrainingLoop.run = lambda loop: (say(), os._exit(0))\n"
    "main(['run', {recipe!r}])\n"
)


@pytest.mark.parametrize(
    ("program", "others"),
    [
        (
            CHECK,
            (*(name for name in HEAVY if name not in ("pandas", "pyarrow", "numpy", "safetensors")), "scipy", "matplotlib"),
        ),
        (FIRST_STEP, ("datasets", "peft", "trl", "ray", "matplotlib", "sklearn", "statsmodels")),
    ],
    ids=["check", "run, up to the first step"],
)
def test_what_a_command_has_no_use_for_is_not_imported(
    program: str,
    others: tuple[str, ...],
    tmp_path: Path,
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Any],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_to_yaml(tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}})))
    code = program.format(names=others, recipe=str(recipe))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("HEAVY")] == ["HEAVY "]


def test_help_lists_every_command_without_importing_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cli.COMMANDS:
        monkeypatch.delitem(sys.modules, f"ftft.cli.{name}", raising=False)
    assert call("--help") == 0
    shown = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert name in shown and line.split()[0] in shown
        assert f"ftft.cli.{name}" not in sys.modules


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_module_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(name, "--help") == 0
    assert f"ftft {name}" in capsys.readouterr().out


def test_listing_every_method_costs_little_more_than_help() -> None:
    """Processor seconds of the best of three runs, as a ratio: reading sixty files is less than what typer and rich take."""
    best = {}
    for arguments in (["--help"], ["list"]):
        code = (
            "import sys, time\nfrom ftft.cli.main import main\n"
            f"try:\n    main({arguments!r})\nexcept SystemExit:\n    print('SECONDS', time.process_time())"
        )
        run = [sys.executable, "-c", code]
        shown = [subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout for _ in range(3)]
        best[arguments[0]] = min(float(text.rpartition("SECONDS")[2]) for text in shown)
    assert best["list"] < 3 * best["--help"], best


def test_list_names_every_method_task_and_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    words = capsys.readouterr().out.split()
    for name in [*SCORES, *(method.name for method in [*list_methods(), *list_tasks()])]:
        assert name in words


def test_list_of_a_question_shows_its_methods_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "optimize") == 0
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")}
    assert {"adamw", "sgd"} <= names and "full" not in names and "variability" not in names


def test_list_of_a_method_shows_settings_with_default_help_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "adamw") == 0
    shown = capsys.readouterr().out
    for part in ("learning_rate", "2e-05", "peak learning rate (above 0)", "FTFT code", "tuple[float, float]"):
        assert part in shown


def test_unknown_name_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "adamm") == 2
    captured = capsys.readouterr()
    assert captured.err == 'error: there is no method, task, score or question "adamm"; did you mean "adamw"?\n'
    assert captured.out == ""


def test_unknown_command_and_option_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("lst") == 2
    assert capsys.readouterr().err == 'error: there is no command "lst"; did you mean "list"?\n'
    assert call("list", "--nope") == 2
    assert capsys.readouterr().err == 'error: ftft list has no option "--nope"; there is --help\n'


def test_version_and_schema_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("ftft ")
    assert call("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "ftft recipe"


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("data.train is missing"), 2, "error: data.train is missing\n"),
        (Interrupted("saved step 7; run again to resume"), 130, "saved step 7; run again to resume\n"),
        (Interrupted(), 130, "interrupted; run the same command again to resume\n"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_what_a_command_raises_becomes_a_sentence_and_a_code(
    raised: BaseException, code: int, message: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise raised

    fake = ModuleType("ftft.cli.run")
    fake.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftft.cli.run", fake)
    assert call("run") == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and captured.out == ""
    assert message is None or captured.err == message


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise RuntimeError("ours")

    fake = ModuleType("ftft.cli.run")
    fake.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftft.cli.run", fake)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["run"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    writer = subprocess.Popen([sys.executable, "-m", "ftft", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    assert b"Traceback" not in writer.stderr.read()
    writer.stderr.close()
    writer.wait(timeout=60)
