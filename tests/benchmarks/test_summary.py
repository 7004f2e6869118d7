"""The table of benchmarks/README.md is what its command makes of the committed results, and says whether targets are met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from telling import between_markers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def summary(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("summary")


def test_the_readme_holds_the_table_of_the_committed_results(summary: ModuleType) -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert summary.written(text, summary.RESULTS) == text


def ratio(value: float) -> dict[str, Any]:
    return {"ratio": value, "interval_95": [value - 0.01, value + 0.01]}


@pytest.mark.parametrize(
    ("overhead", "seconds", "ours", "met"), [(1.004, 31.0, 2.1, True), (1.02, 61.0, 1.9, False)], ids=["met", "not met"]
)
def test_a_figure_says_whether_its_target_is_met(
    overhead: float, seconds: float, ours: float, met: bool, summary: ModuleType, tmp_path: Path
) -> None:
    machine = {"machine": {"processor": "some processor", "threads": 2, "load_before": 0.1}}
    side = {"padding": 0.1}
    pair = {"wall": ratio(overhead), "processor_time": ratio(overhead)}
    speed = {"wall": ratio(ours), "ftft": side, "trainer": side}
    equal = {**speed, "wall": ratio(0.98 if met else 0.9)}
    written: dict[str, Any] = {
        "throughput": {
            "precision_of_defaults": "fp32",
            "speedup_of_bf16_products": 0.6,
            "defaults": speed,
            "defaults_same_batch_size": speed,
            "equal": equal,
            **machine,
        },
        "flop_rate": {
            "precision_of_auto": "fp32",
            "auto": {
                "wall": {"training_gflops": 177.0}
                | {f"{name}_product_gflops": 354.0 for name in ("float32", "bfloat16")}
                | {f"fraction_of_{name}": ratio(0.5) for name in ("float32", "bfloat16")}
            },
            **machine,
        },
        "recorder_overhead": {
            "loop": {**pair, "share_inside_the_recorder": {"median": 0.0007, "largest": 0.0014}},
            "trainer": pair,
            **machine,
        },
        "score_ten_million": [
            {"layout": "wide", "scores": ["a"] * 12, "examples": 10**7, "epochs": 6, "seconds": seconds}
            | {"peak_bytes": 2**30, "cores": 2, "load_before": 0.0}
        ],
    }
    for name, document in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    table = summary.table(tmp_path)
    assert table.count(": met |") == (5 if met else 0) and table.count(": not met |") == (0 if met else 5)
    assert f"{overhead:.3f} [{overhead - 0.01:.3f}, {overhead + 0.01:.3f}]" in table
    assert "177 GFLOP/s, 50 % of the bfloat16 matrix rate (354 GFLOP/s), 50 % of the float32 matrix rate" in table
    assert "| 0.07 % (at most 0.14 %) |" in table
    assert f"{seconds:.1f} s, 1.00 GiB" in table and "where bf16 is faster; here its products run at 0.60x" in table


def test_a_machine_that_does_not_tell_its_load_has_none_in_the_table(summary: ModuleType, tmp_path: Path) -> None:
    mode = {"processor_ms_per_frame": 9.0, "between_ms": {"median": 17.0}}
    document = {"examples": 400_000, "points": mode, "density": mode, "cores": 2, "load_before": None}
    (tmp_path / "map_pan.json").write_text(json.dumps(document))
    table = summary.table(tmp_path)
    assert table.count("| headless Chromium without graphics, 2 cores |") == 2 and "load" not in table


def test_what_stands_between_the_markers_is_replaced_and_nothing_else() -> None:
    page = "before\n<a>\nold\nlines\n</a>\nafter\n"
    assert between_markers(page, "<a>", "</a>", "new") == "before\n<a>\nnew\n</a>\nafter\n"
    assert between_markers(between_markers(page, "<a>", "</a>", "new"), "<a>", "</a>", "old\nlines") == page
