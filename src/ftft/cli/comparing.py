"""What a user sees while a suite runs: what is being computed, how long it will take, and the table so far."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ftft.cli.progress import PLAIN_SECONDS, Listener, duration, mean_scores
from ftft.comparison.cells import Cell
from ftft.comparison.planning import Plan, Work
from ftft.comparison.suite import Suite
from ftft.report.measures import measure_of


class ComparisonProgress(Listener):
    """Shows the events of :func:`ftft.comparison.running.run_suite`; live on a terminal, plain lines elsewhere."""

    def __init__(self, suite: Suite, jobs: int, console: Console | None = None) -> None:
        self.suite, self.jobs = suite, jobs
        self.console = console or Console(stderr=True)
        self.plan: Plan | None = None
        self.seconds: list[float] = []  # of the cells that ended here
        self.running: dict[str, tuple[Work, float, str]] = {}  # key -> work, start, what it does
        self.begun: dict[str, tuple[str, float, int]] = {}  # key -> the stage that trains, when and at which step it began
        self.latest: dict[str, str] = {}  # key -> what the stage that was evaluated last scored and cost
        self._last_line = 0.0
        self.live = Live(console=self.console, transient=True, refresh_per_second=4, get_renderable=self._screen)

    def __enter__(self) -> ComparisonProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def _say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def _on_warning(self, event: dict[str, Any]) -> None:
        if "work" not in event:  # what a cell warns of stands in the cell
            self._say(f"warning: {event['text']}")

    def _on_plan(self, event: dict[str, Any]) -> None:
        self.plan = event["plan"]
        self._say(self._summary())

    def _on_started(self, event: dict[str, Any]) -> None:
        self.running[event["work"].key] = (event["work"], time.monotonic(), "starts")
        self._say(f"  {event['work'].title}: started")

    def _on_ended(self, event: dict[str, Any]) -> None:
        key = event["work"].key
        self.running.pop(key, None)
        self.begun.pop(key, None)
        latest = self.latest.pop(key, "")
        if event["why"] is None:
            self.seconds.append(event["seconds"])
            said = f": {latest}" if latest else ""
            self._say(f"  {event['work'].title}: finished in {event['seconds']:.0f} s{said}")
        elif event["why"]:
            self._say(f"  {event['work'].title}: failed: {event['why']}")

    def _on_stage(self, event: dict[str, Any]) -> None:
        self._does(event, f"{event['stage']} ({event['number']} of {event['of']})")

    def _on_evaluated(self, event: dict[str, Any]) -> None:
        work = event["work"]
        cost = self._cost(work, event["cost"]["flops"], event["cost"]["fraction_of_erm"])
        self.latest[work.key] = ", ".join(part for part in (mean_scores(event), cost) if part)

    def _cost(self, work: Work, flops: float, fraction: float | None) -> str:
        """Against the baseline's cell of the same seed where it is finished, else against the estimate of the run itself."""
        state = self.plan.rows.get((work.task, self.suite.baseline)) if self.plan is not None else None
        baseline = state.cells.get(work.seed) if state is not None else None
        if baseline is not None:
            fraction = flops / baseline.flops
        return f"cost {100 * fraction:.0f} % of ERM" if fraction is not None else ""

    def _on_step(self, event: dict[str, Any]) -> None:
        key, stage, step = event["work"].key, event["stage"], event["step"]
        if self.begun.get(key, ("",))[0] != stage:
            self.begun[key] = (stage, time.monotonic(), step)
        _, started, first = self.begun[key]
        left = ""
        if step > first:
            left = f", about {duration((time.monotonic() - started) / (step - first) * (event['steps'] - step))} left"
        self._does(event, f"{stage} step {step} of {event['steps']}, loss {event['loss']:.3f}{left}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            for work, _, does in self.running.values():
                self._say(f"  {work.title}: {does}")

    def _does(self, event: dict[str, Any], text: str) -> None:
        key = event["work"].key
        if key in self.running:
            work, started, _ = self.running[key]
            self.running[key] = (work, started, text)

    def _summary(self) -> str:
        plan = self.plan
        assert plan is not None
        left = len(plan.ready) + plan.blocked
        eta = ""
        if self.seconds and left:
            eta = f", about {duration(float(np.mean(self.seconds)) * left / self.jobs)} left"
        return f"{plan.finished} cells finished, {left} to come{eta}"

    def _screen(self) -> Group:
        parts: list[Any] = []
        if self.plan is not None:
            parts += [self._so_far(self.plan), Text(self._summary(), style="bold")]
        now = time.monotonic()
        for work, started, does in self.running.values():
            latest = self.latest.get(work.key)
            parts.append(Text(f"  {work.title}: {does} ({duration(now - started)})"))
            parts += [Text(f"    latest: {latest}", style="dim")] if latest else []
        return Group(*parts)

    def _so_far(self, plan: Plan) -> Table:
        """Means over the finished seeds; intervals come with the table at the end."""
        metric = self.suite.headline
        table = Table(title=f"{self.suite.name}, so far ({metric})", title_justify="left")
        table.add_column("row")
        for name in ("seeds", "ID", "OOD", "cost"):
            table.add_column(name, justify="right")
        for (task, row), state in plan.rows.items():
            label = row if len(self.suite.tasks) == 1 else f"{task} / {row}"
            baseline = plan.rows[task, self.suite.baseline].cells
            costs = [cell.flops / baseline[seed].flops for seed, cell in state.cells.items() if seed in baseline]
            cells = list(state.cells.values())
            cost = f"{100 * float(np.mean(costs)):.0f} %" if costs else "-"
            means = [_mean(cells, role, metric) for role in ("id", "ood")]
            table.add_row(label, f"{len(cells)} of {len(self.suite.seeds)}", *means, cost)
        return table


def _mean(cells: list[Cell], role: str, metric: str) -> str:
    values = [
        one["figures"]["metrics"][metric]["value"]
        for cell in cells
        for one in cell.sets.values()
        if one["role"] == role and not (role == "ood" and one["seen"])
    ]
    if not values:
        return "-"
    return measure_of(metric).figure(float(np.mean(values)))
