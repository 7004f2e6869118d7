"""Runs scripts of benchmarks/, each in a process of its own, forked from one that has imported the libraries: the seconds that
importing takes are spent once.

One JSON line on standard input asks for one run: {"script": its path, "arguments": its own, "folder": where it runs, "out" and
"err": the files that get what it prints}. The answer is its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def import_libraries() -> None:
    """What the scripts import; their own modules are forgotten, and every run imports them itself."""
    sys.path.insert(0, str(BENCHMARKS))
    import common
    import transformers.models.bert.modeling_bert  # noqa: F401

    assert Path(common.__file__).parent == BENCHMARKS
    sys.path.pop(0)
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def become(request: dict[str, Any]) -> None:
    """Be the script, in a process that was just forked."""
    code: Any = 1
    try:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), descriptor)
        os.chdir(request["folder"])
        sys.argv = [request["script"], *request["arguments"]]
        sys.path[0] = str(Path(request["script"]).parent)  # as Python does for a script
        runpy.run_path(request["script"], run_name="__main__")
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    import_libraries()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
