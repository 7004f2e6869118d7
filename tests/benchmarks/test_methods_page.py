"""docs/methods.md is what its command makes of the method files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftft.methods.registry import list_methods


def test_the_page_is_what_the_files_say(load_benchmark: Callable[[str], ModuleType]) -> None:
    methods = load_benchmark("methods")
    written = Path(methods.PAGE).read_text(encoding="utf-8")
    assert written == methods.page()
    assert all(f"### {one.name}\n" in written for one in list_methods() if one.package == "ftft")


ROWS = """
kind: explore
tasks: {feelings: ../task.yaml}
rows:
  erm: {}
  lora: {change: {stages.main.adapt: lora, stages.main.optimize: {name: adamw, learning_rate: 1.0e-3}}}
  lora_pro: {like: lora, change: {stages.main.optimize: {name: lora_pro, learning_rate: 1.0e-4}}}
  smooth: {change: {stages.main.objective: {name: cross_entropy, label_smoothing: 0.1}}}
  faster: {change: {stages.main.optimize: {name: adamw, learning_rate: 1.0e-2}}}
  later: {change: {stages.main.objective: mixup}}
  looked_at: {like: lora, change: {stages.main.evaluate: [classification, intruder_dimensions]}}
seeds: [0, 1, 2]
baseline: erm
headline: accuracy
"""
TASK = """
data: {train: {path: train.csv}, evaluation: {ood: {path: ood.csv, role: ood, split: validation}}}
stages: {main: {model: {path: model}}}
"""


def estimate(value: float | None, margin: float = 0.01) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - margin, "high": value + margin}


def row_of(value: float | None, gap: float | None, pending: tuple[int, ...] = ()) -> dict[str, Any]:
    mean = {"sets": ["ood"], "accuracy": estimate(value)}
    versus = {"means": {"id": None, "ood": {"accuracy": estimate(gap)}, "forget": None}}
    return {
        "seeds": [] if value is None else [seed for seed in (0, 1, 2) if seed not in pending],
        "pending": list(pending),
        "means": {"id": None, "ood": None if value is None else mean, "forget": None},
        "versus": None if gap is None else versus,
        "cost": {"charged": estimate(0.5)},
    }


def contrast(
    row: str, against: str, gap: float | None, margin: float | None = None, metric: str = "accuracy", on: str = "ood"
) -> dict[str, Any]:
    kind = "different" if margin is None else "no worse"
    ask = {"task": "feelings", "row": row, "against": against, "on": on, "metric": metric}
    return {**ask, "kind": kind, "margin": margin, "difference": estimate(gap)}


@pytest.fixture
def made(load_benchmark: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., dict[str, list[str]]]:
    """``made(contrast, ...)``: the lines of claims and figures by method, of a suite whose table holds these contrasts."""
    methods = load_benchmark("methods")

    def make(
        *contrasts: dict[str, Any], finished: bool = True, measured: dict[str, Any] | None = None, toy: bool = False
    ) -> dict[str, list[str]]:
        (tmp_path / "suites").mkdir(exist_ok=True)
        (tmp_path / "suites" / "tiny.yaml").write_text(ROWS)
        (tmp_path / "task.yaml").write_text(TASK)
        rows = {
            "erm": row_of(0.70, None), "lora": row_of(0.71, 0.01), "lora_pro": row_of(0.74, 0.04, pending=(2,)),
            "smooth": row_of(0.69, -0.01), "faster": row_of(0.72, 0.02), "later": row_of(None, None),
            "looked_at": row_of(0.71, 0.01, pending=(2,)),
        }  # fmt: skip
        for name, figures in (measured or {}).items():
            rows[name]["measured"] = figures
        table = {
            "name": "tiny", "headline": "accuracy", "baseline": "erm", "label": "direction only: 3 seeds", "toy": toy,
            "tasks": {"feelings": {"rows": rows}}, "contrasts": list(contrasts),
        }  # fmt: skip
        (tmp_path / "results" / "tiny").mkdir(parents=True, exist_ok=True)
        place = tmp_path / "results" / "tiny" / "table.json"
        place.write_text(json.dumps(table)) if finished else place.unlink(missing_ok=True)
        found: dict[str, list[str]] = {}
        name = ""
        for line in methods.page(tmp_path / "suites", tmp_path / "results").splitlines():
            name = line.removeprefix("### ") if line.startswith("### ") else name
            if line.startswith(("- claimed", "- measured")):
                found.setdefault(name, []).append(line)
        return found

    return make


def test_without_cells_every_method_is_a_mechanism_that_is_not_measured(made: Callable[..., dict[str, list[str]]]) -> None:
    found = made(finished=False)
    assert len(found) > 30 and all(lines == ["- claimed: *mechanism*; its effect is not measured"] for lines in found.values())
    assert made()["mixup"] == ["- claimed: *mechanism*; its effect is not measured"], "a row without a finished cell"


def test_a_row_stands_under_the_methods_it_differs_in(made: Callable[..., dict[str, list[str]]]) -> None:
    found = made(contrast("lora_pro", "lora", 0.03))
    rows = {name: [line.split("row ")[1].split(" ")[0] for line in lines[1:]] for name, lines in found.items()}
    assert rows["lora"] == ["lora"] and rows["lora_pro"] == ["lora_pro"] and rows["cross_entropy"] == ["erm", "smooth"]
    assert rows["adamw"] == ["erm"], "another learning rate is no other method"
    assert found["lora_pro"] == [
        "- claimed: *effect*",
        "- measured: [tiny](../results/tiny/table.md), feelings, row lora_pro (2 seeds, direction only; 1 seed to come): OOD "
        "accuracy 74.0 (+4.0 [+3.0, +5.0] to erm), OOD accuracy +3.0 [+2.0, +4.0] to lora, cost 0.50 of erm's, *effect*",
    ]


@pytest.mark.parametrize(
    ("asked", "effect"),
    [
        ((), False),
        ((contrast("lora", "erm", 0.02),), True),
        ((contrast("lora", "erm", 0.005),), False),
        ((contrast("lora", "erm", -0.02),), False),
        ((contrast("lora", "erm", None),), False),
        ((contrast("lora", "erm", -0.005, margin=0.02),), True),
        ((contrast("lora", "erm", -0.015, margin=0.02),), False),
        ((contrast("lora", "erm", -0.02, metric="loss"),), True),
        ((contrast("lora", "erm", 0.02, metric="loss"),), False),
        ((contrast("lora_pro", "erm", 0.02),), False),
        ((contrast("lora", "erm", 0.02), contrast("lora", "erm", -0.02, on="id")), False),
        ((contrast("lora", "erm", 0.02), contrast("lora", "erm", 0.03, on="id")), True),
    ],
    ids=["not asked", "better", "perhaps", "worse", "unknown", "no worse", "not shown", "lower", "higher", "another row"]
    + ["yes and no", "twice yes"],
)
def test_an_effect_is_an_answer_with_its_interval_on_the_papers_side(
    asked: tuple[Any, ...], effect: bool, made: Callable[..., dict[str, list[str]]]
) -> None:
    claimed, measured = made(*asked)["lora"]
    assert claimed == f"- claimed: *{'effect' if effect else 'mechanism'}*"
    assert measured.endswith("*effect*") == effect and "OOD accuracy 71.0 (+1.0 [+0.0, +2.0] to erm)" in measured


def test_a_toy_shows_a_mechanism_at_most(made: Callable[..., dict[str, list[str]]]) -> None:
    claimed, measured = made(contrast("lora", "erm", 0.02), toy=True)["lora"]
    assert claimed == "- claimed: *mechanism*" and "(3 seeds, direction only, a toy)" in measured
    assert not measured.endswith("*effect*")


def test_what_an_evaluator_measured_of_a_rows_model_stands_under_it_and_claims_nothing(
    made: Callable[..., dict[str, list[str]]],
) -> None:
    figures = {"count": {"mean": 12.5, "seeds": [12, 13]}, "looked_at": {"mean": 360.0, "seeds": [360, 360]}}
    asked = contrast("looked_at", "erm", 0.05)
    found = made(asked, measured={"looked_at": {"intruder_dimensions": figures}})
    assert found["intruder_dimensions"] == [
        "- claimed: *mechanism*",
        "- measured: [tiny](../results/tiny/table.md), feelings, row looked_at (2 seeds, direction only; 1 seed to come): "
        "count 12.5, looked at 360",
    ]
    nothing = ["- claimed: *mechanism*; its effect is not measured"]
    assert found["classification"] == found["forgetting"] == nothing, "every row has the evaluator of predictions"
    assert made(asked)["intruder_dimensions"] == nothing, "a table of before"
    unnamed = made(measured={"lora": {"intruder_dimensions": figures}})
    assert unnamed["intruder_dimensions"] == nothing, "a row whose stage does not name it"


def test_a_share_among_an_evaluators_figures_is_told_in_per_cent(made: Callable[..., dict[str, list[str]]]) -> None:
    figures = {"mean.macro_f1.difference": {"mean": -0.031, "seeds": [-0.031]}, "none": {"mean": None, "seeds": [None]}}
    line = made(measured={"looked_at": {"intruder_dimensions": figures}})["intruder_dimensions"][1]
    assert line.endswith(": mean macro-F1 difference -3.1 %")
