"""docs/methods.md: every method of this library by the question it answers, its settings and its paper, read from the files.

    python benchmarks/methods.py

Nothing in the page is written by hand; a test holds it against the files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from ftft.methods.header import MethodHeader, SettingHeader
from ftft.methods.questions import ASKED, QUESTIONS
from ftft.methods.registry import list_methods, list_tasks
from ftft.validation import BOUND_WORDS, show

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
HEAD = """# Methods

Made by `python benchmarks/methods.py` from the method files; `ftft list NAME` shows the same of one method. Every method
passes the contract suite (`tests/contract`) and the oracles of its paper (`tests/methods`). How to write one:
[adding-a-method.md](adding-a-method.md).
"""


def page() -> str:
    """The whole page."""
    own = [method for method in list_methods() if method.package == "ftft"]
    parts = [HEAD]
    for question in QUESTIONS:
        methods = [method for method in own if method.question == question]
        if methods:
            parts.append(f"## {question}: {ASKED[question]}\n")
            parts += [_method(method) for method in methods]
    parts.append("## Tasks\n")
    parts += [_method(task) for task in list_tasks()]
    parts.append("## Papers\n")
    parts.append(_papers(own))
    return "\n".join(parts)


def _method(method: MethodHeader) -> str:
    facts = {
        "paper": method.paper,
        "supplied by": method.library,
        "needs": ", ".join(method.needs),
        "offers": ", ".join(method.offers),
        "tasks": "" if "*" in method.tasks else ", ".join(method.tasks),
        "on weights in shards": "" if not method.meets_shards else "yes" if method.sharded else "no",
    }
    lines = [f"### {method.name}\n", method.summary]
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    lines += [f"- does not keep the contract's {name.replace('_', ' ')}: {why}" for name, why in method.exceptions.items()]
    if len(lines) > 2:
        lines.insert(2, "")
    if method.settings:
        lines += ["", "| setting | default | meaning | origin of the default |", "|---|---|---|---|"]
        lines += [_setting(one) for one in method.settings]
    return "\n".join(lines) + "\n"


def _setting(one: SettingHeader) -> str:
    bounds = " and ".join(f"{BOUND_WORDS[name]} {show(bound)}" for name, bound in one.bounds.items())
    meaning = f"{one.help} ({bounds})" if bounds else one.help
    value = json.dumps(one.default) if isinstance(one.default, (list, tuple, dict)) else show(one.default)
    default = "required" if one.required else f"`{value}`"
    return " | ".join(["", f"`{one.name}`", default, meaning.replace("|", "\\|"), one.origin, ""]).strip()


def _papers(methods: list[MethodHeader]) -> str:
    """Every paper once, with the methods it stands for."""
    index: dict[str, list[str]] = defaultdict(list)
    for method in methods:
        for paper in filter(None, (part.strip() for part in method.paper.split(";"))):
            index[paper].append(f"{method.question}.{method.name}")
    return "\n".join(f"- {paper}: {', '.join(names)}" for paper, names in sorted(index.items())) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
