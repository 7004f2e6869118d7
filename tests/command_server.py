"""Starts the command `ftft` as often as asked, each time as a process of its own, forked from one that has imported
everything: the seconds that importing takes are spent once.

One JSON line on standard input asks for one process: {"folder": its working folder, "arguments": of the command, "output":
the file that gets what it prints, "largest_file": bytes or null, "code": the file that gets its exit code (minus the signal's
number where one ended it), "trouble": what trouble.py's class is given, or left out, "script": a file that is run in the
command's place, or left out, "environment": variables of its own, or left out, "modules": more to import before, or left out}.
The answer is its number. At the end of the input what still runs is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import runpy
import select
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def import_all() -> None:
    import pandas  # noqa: F401  pyarrow imports it when it first makes an array
    import transformers.models.bert.modeling_bert  # noqa: F401
    from transformers import BertConfig, BertForSequenceClassification

    import ftft.cli.run
    import ftft.report.terminal
    import ftft.report.writing
    import ftft.run.runner  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:  # what transformers prepares when it first loads a model
        size = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 4}
        logging.disable(logging.WARNING)
        BertForSequenceClassification(BertConfig(**size)).save_pretrained(folder)
        BertForSequenceClassification.from_pretrained(folder)
        logging.disable(logging.NOTSET)


def become(request: dict[str, Any]) -> None:
    """Be the command, in a process that was just forked."""
    import numpy as np

    from ftft.cli.main import main

    np.random.seed()  # as if it had begun on its own; Python's own generator sees to that
    code: Any = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
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
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    import_all()
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
