"""What a run says while it works: its stages, how far it is, when it will end, what the last model scored and the cost."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ftft.cli import progress as module
from ftft.cli.progress import RunProgress, duration, mean_scores


def evaluated(stage: str, flops: float, uses: list[str], erm: float | None) -> dict[str, Any]:
    sets = {
        "test": {"role": "id", "accuracy": 0.9},
        "more": {"role": "id", "accuracy": 0.8},
        "other": {"role": "ood", "accuracy": 0.7},
        "known": {"role": "ood", "accuracy": 0.1, "seen": True},
    }
    fraction = flops / erm if erm else None
    cost = {"flops": flops, "uses": uses, "erm_flops": erm, "fraction_of_erm": fraction}
    return {"event": "evaluated", "stage": stage, "sets": sets, "cost": cost}


def step(number: int, flops: float, steps: int = 40) -> dict[str, Any]:
    return {"event": "step", "stage": "any", "step": number, "steps": steps, "loss": 0.5, "flops": flops}


def stage(name: str, number: int, uses: list[str]) -> dict[str, Any]:
    return {"event": "stage", "stage": name, "number": number, "of": 3, "uses": uses}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the test sets; every step is told of."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def told(events: list[tuple[float, dict[str, Any]]], clock: list[float], *, live: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=live, color_system=None, legacy_windows=False)
    with RunProgress(console) as progress:
        for now, event in events:
            clock[0] = now
            progress(event)
            if live:
                progress._progress.refresh()
    return stream.getvalue()


EVENTS = [
    (0.0, stage("erm", 1, [])),
    (0.0, step(1, 10.0)),
    (20.0, step(11, 1e12)),
    (30.0, evaluated("erm", 4e12, [], 4e12)),
    (30.0, stage("reference", 2, [])),
    (30.0, evaluated("reference", 1e12, [], 4e12)),
    (30.0, stage("main", 3, ["reference"])),
    (31.0, step(1, 0.0)),
    (51.0, step(21, 1e12)),
    (60.0, evaluated("main", 3e12, ["reference"], 4e12)),
    (60.0, stage("second", 3, ["reference", "main"])),
    (61.0, step(1, 0.0)),
    (81.0, step(21, 1e12)),
]


def test_plain_lines_have_stage_step_time_and_cost(clock: list[float]) -> None:
    lines = told(EVENTS, clock).splitlines()
    assert lines[0] == "stage erm (1 of 3)" and "stage main (3 of 3)" in lines
    assert "  erm: step 11 of 40, loss 0.500, about 53 s left, cost so far 1e+12 FLOPs" in lines
    # A quarter of the reference's upstream, and a quarter of its own.
    assert "  main: step 21 of 40, loss 0.500, about 18 s left, cost so far 50.0 % of ERM" in lines
    assert "  main: ID 0.850  OOD 0.700 without 1 seen (mean accuracy), cost so far 75.0 % of ERM" in lines
    # What main used is not counted twice where it is used itself.
    assert "  second: step 21 of 40, loss 0.500, about 18 s left, cost so far 100.0 % of ERM" in lines
    assert not any(line.startswith("  main: step 1 ") for line in lines)  # 15 s apart at least


def test_on_a_terminal_the_latest_figures_stand_below_the_bar(clock: list[float]) -> None:
    text = told(EVENTS[:-4], clock, live=True)
    assert "cost so far 50.0 % of ERM, reference: ID 0.850  OOD 0.700 without 1 seen" in text
    assert "step 21 of 40" not in text


def test_answers_are_counted_and_those_that_were_kept_are_told(clock: list[float]) -> None:
    begun = [(0.0, {"event": "creating", "stage": "main", "method": "s3ft", "kept": kept}) for kept in (0, 1280)]
    written = [
        (now, {"event": "written", "stage": "main", "done": done, "asked": 7473}) for now, done in ((9, 1344), (16, 1408))
    ]
    assert told(begun + written, clock).splitlines() == [
        "  s3ft makes the examples",
        "  s3ft makes the examples, and goes on behind 1,280 answers that were kept",
        "  1,408 of 7,473 rows answered",
    ]


def test_names_are_no_markup(clock: list[float]) -> None:
    assert "stage [red]x (1 of 3)" in told([(0.0, stage("[red]x", 1, []))], clock)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_role_without_sets_is_not_told_of() -> None:
    event = evaluated("erm", 1.0, [], None)
    event["sets"] = {"known": event["sets"]["known"]}
    assert mean_scores(event) == ""
