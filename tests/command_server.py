"""Starts the command `ftft` as often as asked, each time as a process of its own, forked from one that has imported
everything and run a recipe: the seconds that this takes are spent once.

One JSON line on standard input asks for one process: {"folder": its working folder, "arguments": of the command, "output":
the file that gets what it prints, "errors": another for what it prints as such, or left out, "largest_file": bytes or null,
"code": the file that gets its exit code (minus the signal's number where one ended it), "trouble": what trouble.py's class is
given, or left out, "script": a file that is run in the command's place, or left out, "environment": variables of its own, or
left out, "modules": more to import before, or left out}.
The answer is its number. At the end of the input what still runs is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import runpy
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def warm_up() -> None:
    """Import what a run needs, and run one: much is imported, and made ready, by the first call alone."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers import BertConfig, BertForSequenceClassification

    from ftft.cli.main import main

    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, silent():
        os.chdir(folder)
        size = {"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 9}
        BertForSequenceClassification(BertConfig(**size)).save_pretrained("model")
        write_tokenizer(Path("model"))
        Path("recipe.yaml").write_text(json.dumps(small_recipe()))
        for _ in range(2):  # once to train, and once to find everything done
            with contextlib.suppress(SystemExit):
                main(["run", "recipe.yaml"])
        if not Path("runs/recipe/result.json").is_file():
            raise RuntimeError("the run that was to warm up did not end")
        os.chdir(here)
    AcceleratorState._reset_state(reset_partial_state=True)  # the next run may be one of several processes
    GradientState._reset_state()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What is printed goes nowhere, libraries' own printing included."""
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    yield
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, old in zip((1, 2), kept):
        os.dup2(old, descriptor)
    for descriptor in (*kept, nowhere):
        os.close(descriptor)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def small_recipe() -> dict[str, Any]:
    """FTFT on a few rows, which are written to the working folder."""
    for name in ("train", "validation", "ood"):
        rows = [{"id": f"{name}{number}", "text": "a b" if number % 2 else "b", "label": number % 2} for number in range(8)]
        Path(f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    common = {
        "train": {"batch_size": 4, "steps": 4, "precision": "fp32"},
        "evaluate": {"name": "classification", "resamples": 2},
    }
    return {
        "data": {
            "train": {"path": "train.jsonl"},
            "columns": {"id": "id", "text": ["text"], "label": "label"},
            "evaluation": {
                "validation": {"path": "validation.jsonl", "role": "id", "split": "validation"},
                "ood": {"path": "ood.jsonl", "role": "ood"},
            },
        },
        "stages": {
            "reference": {**common, "model": {"path": "model", "keep_layers": 1}, "dynamics": {"mode": "online"}},
            "main": {
                **common,
                "model": {"path": "model"},
                "use_dynamics_of": "reference",
                "select": {"name": "top", "score": "variability", "fraction": 0.5},
                "stop": {"patience": 2},
                "combine": "best",
            },
        },
    }


def become(request: dict[str, Any]) -> None:
    """Be the command, in a process that was just forked."""
    import numpy as np

    from ftft.cli.main import main

    np.random.seed()  # as if it had begun on its own; Python's own generator sees to that
    code: Any = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for descriptor, file in ((1, request["output"]), (2, request.get("errors", request["output"]))):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        os.chdir(request["folder"])
        if request["largest_file"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
        if request.get("trouble"):
            sys.path.insert(0, str(Path(__file__).with_name("run")))
            from trouble import Trouble

            Trouble(**request["trouble"]).install()
        os.environ.update(request.get("environment", {}))
        script = request.get("script")
        sys.argv = [script or "ftft", *request["arguments"]]
        if script is None:
            main()
        else:
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
            code = 0
    except SystemExit as end:  # as Python ends: with a number, or with a sentence and 1
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    warm_up()
    # What the processes write need not outlive the machine: only they are killed, and the system keeps what they wrote.
    os.fsync = lambda descriptor: None
    running: dict[int, Path] = {}
    while True:
        readable, _, _ = select.select([0], [], [], 0.01 if running else None)
        if readable:
            line = b""
            while not line.endswith(b"\n"):
                byte = os.read(0, 1)
                if not byte:
                    break
                line += byte
            if not line:
                break
            request = json.loads(line)
            for module in request.get("modules", ()):
                importlib.import_module(module)
            child = os.fork()
            if child == 0:
                become(request)
            running[child] = Path(request["code"])
            print(child, flush=True)
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                path = running.pop(child)
                path.with_suffix(".new").write_text(str(os.waitstatus_to_exitcode(status)))
                os.replace(path.with_suffix(".new"), path)
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    serve()
