"""docs/methods.md: every method of this library by the question it answers, its settings and its paper, read from the files,
and what the committed comparisons found of it.

    python benchmarks/methods.py          # method files, recipes/suites/*.yaml, results/*/table.json -> docs/methods.md

Nothing in the page is written by hand; a test holds it against the files.

A row of a suite tries the methods in which it differs from the row it is like, or else from the baseline. What is claimed of a
method is a *mechanism* (its oracles hold) or an *effect*: the suite asks questions in the paper's direction (the contrasts of
that row), and the intervals of all answers lie on that side. Figures without such a question, and those of a suite that calls
itself a toy, claim nothing beyond the mechanism.
An evaluator that looks at models is tried by every row whose stage names it; what it measured there is told and claims nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ftft.comparison.making import cell_recipe
from ftft.comparison.reading import read_suite
from ftft.comparison.suite import MAIN, Suite
from ftft.methods.header import MethodHeader, SettingHeader
from ftft.methods.questions import ASKED, QUESTIONS
from ftft.methods.registry import list_methods, list_tasks, list_trainers
from ftft.report.comparison_figures import Row
from ftft.report.comparison_measured import told_figures
from ftft.report.figures import Interval
from ftft.report.measures import measure_of
from ftft.run.evaluators import of_models
from ftft.run.recipe import Stage
from ftft.validation import BOUND_WORDS, show

ROOT = Path(__file__).resolve().parent.parent
PAGE, SUITES, RESULTS = ROOT / "docs" / "methods.md", ROOT / "recipes" / "suites", ROOT / "results"
HEAD = """# Methods

Made by `python benchmarks/methods.py` from the method files; `ftft list NAME` shows the same of one method. Every method
passes the contract suite (`tests/contract`) and the oracles of its paper (`tests/methods`). How to write one:
[adding-a-method.md](adding-a-method.md).

*Mechanism*: its oracles hold. *Effect*: the paper's direction was seen here too, with an interval that lies on its side, in a
comparison of [recipes/suites](../recipes/suites) whose cells are committed; differences are of the row against the one it is
compared with, with 95 % intervals over seeds and examples. *Not measured*: no cell of such a comparison is committed. What an
evaluator measured of a row's models is a mean over its seeds, and claims nothing.
"""


class Found(NamedTuple):
    """What one row of a comparison found on one task, in a sentence, and whether it is the paper's effect."""

    sentence: str
    effect: bool


def page(suites: Path = SUITES, results: Path = RESULTS) -> str:
    """The whole page."""
    found = findings(suites, results)
    own = [method for method in list_methods() if method.package == "ftft"]
    parts = [HEAD]
    for question in QUESTIONS:
        methods = [method for method in own if method.question == question]
        if methods:
            parts.append(f"## {question}: {ASKED[question]}\n")
            parts += [_method(method, found.get((question, method.name), [])) for method in methods]
    parts.append("## Tasks\n")
    parts += [_method(task) for task in list_tasks()]
    parts.append("## Trainers of TRL, which run a stage instead of the engine\n")
    trainers = list_trainers()
    parts += [_method(trainer) for trainer in trainers]
    parts.append("## Papers\n")
    parts.append(_papers([*own, *trainers]))
    return "\n".join(parts)


def findings(suites: Path, results: Path) -> dict[tuple[str, str], list[Found]]:
    """(question, method) -> what the committed comparisons found of it, in the order of suites, rows and tasks."""
    found: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for path in sorted(suites.glob("*.yaml")):
        suite = read_suite(path)
        place = results / str(suite.name) / "table.json"
        if not place.is_file():
            continue
        table = json.loads(place.read_text(encoding="utf-8"))
        for row in suite.rows:
            for task in suite.tasks:
                for method in tried(suite, task, row):
                    told = _told(table, row, task, method)
                    if told is not None:
                        found[method].append(told)
    return found


def tried(suite: Suite, task: str, row: str) -> list[tuple[str, str]]:
    """(question, method) of all that a row tries: where it differs from the row that it is like, or else from the baseline, in
    a method or in a setting other than the learning rate. Of the baseline, all its methods. And, of every row, the evaluators
    that look at its model."""
    own = _sections(suite, task, row)
    before = {} if row == suite.baseline else _sections(suite, task, suite.rows[row].like or suite.baseline)
    methods = [(question, section["name"]) for question, section in own.items() if section != before.get(question)]
    return [*methods, *(("evaluate", section["name"]) for section in of_models(_main(suite, task, row)))]


def _sections(suite: Suite, task: str, row: str) -> dict[str, dict[str, Any]]:
    """The method sections of a row's main stage without their learning rates, by question."""
    stage = _main(suite, task, row)
    sections = {name: getattr(stage, name, None) for name in QUESTIONS if name != "evaluate"}
    return {
        name: {key: value for key, value in section.items() if key != "learning_rate"}
        for name, section in sections.items()
        if isinstance(section, Mapping)
    }


def _main(suite: Suite, task: str, row: str) -> Stage:
    return cell_recipe(suite, task, row, 0).stages[MAIN]


def _told(table: Mapping[str, Any], row: str, task: str, method: tuple[str, str]) -> Found | None:
    """What the table says of a method that a row tries on a task; None where no cell of it is finished."""
    one = table["tasks"].get(task, {}).get("rows", {}).get(row)
    if not one or not one["seeds"]:
        return None
    question, name = method
    if question == "evaluate":
        figures = told_figures(Row(row, one), name)
        return Found(f"{_place(table, row, task, one)}: {', '.join(figures)}", False) if figures else None
    asked = [ask for ask in table["contrasts"] if ask["row"] == row and ask["task"] == task]
    effect = bool(asked) and all(map(_holds, asked)) and not table.get("toy")
    return Found(f"{_place(table, row, task, one)}: {', '.join(_quality(table, one, asked))}", effect)


def _place(table: Mapping[str, Any], row: str, task: str, one: Mapping[str, Any]) -> str:
    """Where a figure comes from, and how much stands behind it."""
    count, waiting = len(one["seeds"]), len(one["pending"])
    fewer = f"; {waiting} seed{'s' * (waiting > 1)} to come" if waiting else ""
    label = f", {table['label'].split(':')[0]}" if table["label"] else ""
    label += ", a toy" if table.get("toy") else ""
    where = f"[{table['name']}](../results/{table['name']}/table.md), {task}, row {row}"
    return f"{where} ({count} seed{'s' * (count > 1)}{label}{fewer})"


def _quality(table: Mapping[str, Any], one: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """How good a row is, its answers to the questions ``asked`` of it, and what it cost."""
    metric, against = table["headline"], table["baseline"]
    said = []
    for role, mean in one["means"].items():
        if mean is not None:
            level = f"{role.upper()} {measure_of(metric).words} {measure_of(metric).figure(mean[metric]['value'])}"
            gap = one["versus"] and _gap(metric, one["versus"]["means"][role][metric])
            said.append(f"{level} ({gap} to {against})" if gap else level)
    for ask in asked:
        gap = _gap(ask["metric"], ask["difference"])
        if gap and (ask["against"], ask["metric"]) != (against, metric):
            on = ask["on"].upper() if ask["on"] in ("id", "ood") else ask["on"]
            said.append(f"{on} {measure_of(ask['metric']).words} {gap} to {ask['against']}")
    if (cost := one["cost"]["charged"]["value"]) is not None:
        said.append(f"cost {cost:.2f} of {against}'s")
    return said


def _holds(ask: Mapping[str, Any]) -> bool:
    """Whether the interval of a contrast lies on the side of its row: better, or no worse by the margin."""
    low, high = ask["difference"]["low"], ask["difference"]["high"]
    if low is None or high is None:
        return False
    worst = -high if measure_of(ask["metric"]).lower else low
    return worst > (-ask["margin"] if ask["kind"] == "no worse" else 0.0)


def _gap(metric: str, estimate: Mapping[str, Any]) -> str:
    """A difference with its interval; nothing where it is not known."""
    if estimate["value"] is None:
        return ""
    return measure_of(metric).difference(Interval(estimate["value"], estimate["low"], estimate["high"]))


def _claim(found: list[Found]) -> list[str]:
    if not found:
        return ["- claimed: *mechanism*; its effect is not measured"]
    claimed = "*effect*" if any(one.effect for one in found) else "*mechanism*"
    return [f"- claimed: {claimed}", *(f"- measured: {one.sentence}{', *effect*' * one.effect}" for one in found)]


def _method(method: MethodHeader, found: list[Found] | None = None) -> str:
    facts = {
        "paper": method.paper,
        "supplied by": method.library,
        "needs": ", ".join(method.needs),
        "other models": ", ".join(method.roles),
        "offers": ", ".join(method.offers),
        "tasks": "" if "*" in method.tasks else ", ".join(method.tasks),
        "on weights in shards": "" if not method.meets_shards else "yes" if method.sharded else "no",
    }
    lines = [f"### {method.name}\n", method.summary]
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    lines += [f"- does not keep the contract's {name.replace('_', ' ')}: {why}" for name, why in method.exceptions.items()]
    lines += [] if found is None else _claim(found)
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
