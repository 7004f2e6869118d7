"""What a user sees while a recipe runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
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
from rich.text import Text

PLAIN_SECONDS = 15.0  # between two plain lines about steps


class Listener:
    """Called with an event, hands it to the method ``_on_<event>``, where there is one."""

    def __call__(self, event: dict[str, Any]) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)


class _Bar(Progress):
    """A progress bar with a line of text below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below and self.tasks:
            yield Text(f"  {self.below}", style="dim", no_wrap=True, overflow="ellipsis")


class CostSoFar:
    """What a stage has cost by now, the stages it uses included, from the events of a run."""

    def __init__(self) -> None:
        self._own: dict[str, float] = {}  # finished stage -> floating-point operations of its own
        self._uses: list[str] = []
        self._erm: float | None = None

    def begin(self, event: dict[str, Any]) -> None:
        """A stage begins."""
        self._uses = event["uses"]

    def finish(self, event: dict[str, Any]) -> None:
        """A stage was evaluated."""
        cost = event["cost"]
        self._own[event["stage"]] = cost["flops"] - self._of(cost["uses"])
        self._erm = cost["erm_flops"] or self._erm

    def words(self, flops: float) -> str:
        """The cost in words when the present stage has spent ``flops`` itself."""
        spent = self._of(self._uses) + flops
        return f"cost so far {100 * spent / self._erm:.1f} % of ERM" if self._erm else f"cost so far {spent:.2g} FLOPs"

    def _of(self, stages: list[str]) -> float:
        return sum(self._own.get(name, 0.0) for name in stages)


def mean_scores(event: dict[str, Any]) -> str:
    """The mean of the event's metric for each role that an ``evaluated`` event tells of: "ID 0.950  OOD 0.701"."""
    shown, metric = [], event.get("metric", "accuracy")
    for role in ("id", "ood", "forget"):
        own = [one for one in event["sets"].values() if one["role"] == role]
        values = [one[metric] for one in own if not (role == "ood" and one.get("seen"))]
        if values:
            without = f" without {len(own) - len(values)} seen" if len(values) < len(own) else ""
            shown.append(f"{role.upper()} {sum(values) / len(values):.3f}{without}")
    return "  ".join(shown)


class RunProgress(Listener):
    """Shows the events of a run; use it as a context manager and pass it as ``notify``."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self._progress = _Bar(
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
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = (0.0, 0)
        self._last_line = 0.0
        self._cost = CostSoFar()
        self._latest = ""  # the figures of the stage that was evaluated last

    def __enter__(self) -> RunProgress:
        if self.live:  # elsewhere nothing is drawn, and what was never begun leaves no empty line at its end
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self._progress.stop()

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _on_data(self, event: dict[str, Any]) -> None:
        self._say(f"[dim]{escape(event['text'])}[/dim]")

    def _on_warning(self, event: dict[str, Any]) -> None:
        self._say(f"[yellow]warning:[/yellow] {escape(event['text'])}")

    def _on_stage(self, event: dict[str, Any]) -> None:
        self._stage = event["stage"]
        self._cost.begin(event)
        self._say(f"[bold]stage {escape(self._stage)}[/bold] ({event['number']} of {event['of']})")

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self._say(f"  {escape(event['text'])}")

    def _on_reused(self, event: dict[str, Any]) -> None:
        self._say(f"  stage {event['stage']} was finished before and is taken from the store")

    def _on_creating(self, event: dict[str, Any]) -> None:
        self._last_line = time.monotonic()
        kept = f", and goes on behind {event['kept']:,} answers that were kept" if event["kept"] else ""
        self._say(f"  {event['method']} makes the examples{kept}")

    def _on_written(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            self._say(f"  {event['done']:,} of {event['asked']:,} rows answered")

    def _on_created(self, event: dict[str, Any]) -> None:
        counts = ", ".join(f"{name} {count:,}" for name, count in event["counts"].items())
        self._say(f"  {event['examples']:,} examples were made: {escape(counts)}")

    def _on_selected(self, event: dict[str, Any]) -> None:
        if event["selected"] != event["pool"]:
            self._say(f"  learns from {event['selected']:,} of {event['pool']:,} examples")

    def _on_trial(self, event: dict[str, Any]) -> None:
        now, best = time.monotonic(), event["best"]
        if event["number"] in (1, event["of"]) or now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            score = "diverged" if event["score"] is None else f"{event['score']:.3f}"
            found = "none yet" if best is None else f"{best:.3f}"
            metric = event["metric"].replace("_", " ")
            self._say(f"  trial {event['number']} of {event['of']}: {score}, best so far {found} ({metric})")

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._say(f"  resumed at step {event['step']} of {event['steps']}")

    def _on_step(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task(self._stage, total=event["steps"], loss="-", scores="")
            self._started = (now, event["step"] - 1)
            self._last_line = now
        cost = self._cost.words(event["flops"]) if "flops" in event else ""  # pretraining has no bill to compare with
        self._progress.below = ", ".join(part for part in (cost, self._latest) if part)
        self._progress.update(self._task, completed=event["step"], loss=f"{event['loss']:.3f}")
        if not self.live and now - self._last_line >= PLAIN_SECONDS:
            self._last_line = now
            done = event["step"] - self._started[1]
            eta = (now - self._started[0]) / max(1, done) * (event["steps"] - event["step"])
            where = f"  {escape(self._stage)}: step {event['step']} of {event['steps']}"
            told = [f"{where}, loss {event['loss']:.3f}", f"about {duration(eta)} left", cost]
            self._say(", ".join(part for part in told if part))

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
        self._cost.finish(event)
        metric = event.get("metric", "accuracy").replace("_", " ")
        scores, fraction = mean_scores(event), event["cost"]["fraction_of_erm"]
        self._latest = f"{event['stage']}: {scores}" if scores else ""
        cost = f", cost so far {100 * fraction:.1f} % of ERM" if fraction is not None else ""
        self._say(f"  {escape(event['stage'])}: {scores} (mean {metric}){cost}")


def duration(seconds: float) -> str:
    """Seconds in words: "12 s", "3 min 05 s", "2 h 10 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def escape(text: str) -> str:
    """Text from data or errors, so that rich does not read its brackets as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)
