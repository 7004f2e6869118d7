"""What a user sees while a recipe runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 15.0  # between two plain lines about steps


class Listener:
    """Called with an event, hands it to the method ``_on_<event>``, where there is one."""

    def __call__(self, event: dict[str, Any]) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)


class RunProgress(Listener):
    """Shows the events of a run; use it as a context manager and pass it as ``notify``."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}"),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = (0.0, 0)
        self._last_line = 0.0

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _on_data(self, event: dict[str, Any]) -> None:
        self._say(f"[dim]{escape(event['text'])}[/dim]")

    def _on_warning(self, event: dict[str, Any]) -> None:
        self._say(f"[yellow]warning:[/yellow] {escape(event['text'])}")

    def _on_stage(self, event: dict[str, Any]) -> None:
        self._stage = event["stage"]
        self._say(f"[bold]stage {self._stage}[/bold]")

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self._say(f"  {escape(event['text'])}")

    def _on_reused(self, event: dict[str, Any]) -> None:
        self._say(f"  stage {event['stage']} was finished before and is taken from the store")

    def _on_selected(self, event: dict[str, Any]) -> None:
        if event["selected"] != event["pool"]:
            self._say(f"  learns from {event['selected']:,} of {event['pool']:,} examples")

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._say(f"  resumed at step {event['step']} of {event['steps']}")

    def _on_step(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task(self._stage, total=event["steps"], loss="-", scores="")
            self._started = (now, event["step"] - 1)
            self._last_line = now
        self._progress.update(self._task, completed=event["step"], loss=f"{event['loss']:.3f}")
        if not self.live and now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            done = event["step"] - self._started[1]
            eta = (now - self._started[0]) / max(1, done) * (event["steps"] - event["step"])
            self._say(
                f"  {self._stage}: step {event['step']} of {event['steps']}, loss {event['loss']:.3f}, about {eta:.0f} s left"
            )

    def _on_evaluation(self, event: dict[str, Any]) -> None:
        measured = event["scores"].values()
        metric = next((name for values in measured for name in ("accuracy", *values) if name in values), "")
        scores = "  ".join(f"{name} {values[metric]:.3f}" for name, values in event["scores"].items())
        if self._task is not None:
            self._progress.update(self._task, scores=scores)
        self._say(f"  step {event['step']}: {scores} ({metric.replace('_', ' ')})")

    def _on_predicted(self, event: dict[str, Any]) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _on_evaluated(self, event: dict[str, Any]) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        shown, metric = [], event.get("metric", "accuracy")
        for role in ("id", "ood", "forget"):
            own = [one for one in event["sets"].values() if one["role"] == role]
            values = [one[metric] for one in own if not (role == "ood" and one.get("seen"))]
            if values:
                without = f" without {len(own) - len(values)} seen" if len(values) < len(own) else ""
                shown.append(f"{role.upper()} {sum(values) / len(values):.3f}{without}")
        fraction = event["cost"]["fraction_of_erm"]
        cost = f", cost so far {100 * fraction:.1f} % of ERM" if fraction is not None else ""
        self._say(f"  {event['stage']}: {'  '.join(shown)} (mean {metric.replace('_', ' ')}){cost}")


def escape(text: str) -> str:
    """Text from data or errors, so that rich does not read its brackets as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)
