"""Compute what a suite lacks, cell by cell, until it is complete, interrupted, or only failures are left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftft.comparison.cells import CellFolder
from ftft.comparison.executing import Ended, Executor
from ftft.comparison.planning import Plan, make_plan
from ftft.comparison.sources import changed_files
from ftft.comparison.suite import Suite
from ftft.engine.interrupting import StopSignals
from ftft.errors import Interrupted
from ftft.files import FolderLock
from ftft.paths import expand
from ftft.run.portable import portable_sentences

POLL_SECONDS = 0.2

Notify = Callable[[dict[str, Any]], None]


def results_folder(suite: Suite) -> Path:
    """The folder of a suite's cells and tables."""
    return expand(suite.results, "results") / str(suite.name)


def stand(suite: Suite, folder: CellFolder) -> Plan:
    """Where a suite stands by its finished cells, nothing else looked at; failures are those of the last run."""
    return make_plan(suite, folder.read(), folder.failures())


def run_suite(suite: Suite, executor: Executor, *, notify: Notify = lambda event: None) -> Plan:
    """Compute every missing cell; returns where the suite stands then.

    Events: ``plan`` (``plan``), ``started``, ``ended`` (``work``, ``why``) and, of a cell, what `ftft run` tells, with
    ``work``. Raises UserError where another process computes this suite, and Interrupted after Ctrl-C: finished cells
    are kept, and the stages in work have saved checkpoints.
    """
    results = results_folder(suite)
    place = expand(suite.output, "output") / f".compare-{suite.name}"
    with FolderLock(place), StopSignals() as stop:
        return _Running(
            suite, CellFolder(results, lambda text: notify({"event": "warning", "text": text})), executor, notify, stop
        ).run()


@dataclass
class _Running:
    suite: Suite
    folder: CellFolder
    executor: Executor
    notify: Notify
    stop: StopSignals
    failures: dict[str, str] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)  # keys of cells whose files were compared with those that are here

    def run(self) -> Plan:
        plan = self._plan()
        asked = False
        try:
            while True:
                if self.stop.requested and not asked:
                    asked = True
                    self.executor.stop(now=False)
                if not asked:
                    self._start(plan)
                if not self.started:
                    break
                if self._news():
                    plan = self._plan()
        except KeyboardInterrupt:
            asked = True
        finally:
            self.executor.close()
        if asked:
            raise Interrupted("interrupted; finished cells are kept: run the same command again to go on")
        return plan

    def _start(self, plan: Plan) -> None:
        for work in plan.ready:
            if len(self.started) >= self.executor.slots:
                return
            if work.key not in self.started:
                self.started[work.key] = time.monotonic()
                self.notify({"event": "started", "work": work})
                self.executor.start(work, self.folder.folder)

    def _news(self) -> bool:
        """Wait a moment for news; whether a cell has ended."""
        news = self.executor.news(POLL_SECONDS)
        if news is None:
            return False
        if not isinstance(news, Ended):
            self.notify({**news.event, "work": news.work})
            return False
        seconds = time.monotonic() - self.started.pop(news.work.key)
        why = news.why
        if why:
            why = portable_sentences([why], news.work.recipe)[0]
            self.failures[news.work.key] = why
            self.folder.write_failure(news.work.key, why)
        self.notify({"event": "ended", "work": news.work, "why": why, "seconds": seconds})
        return True

    def _plan(self) -> Plan:
        cells = self.folder.read()
        plan = make_plan(self.suite, cells, self.failures)
        while stale := self._stale(plan):
            for key in stale:
                del cells[key]
            plan = make_plan(self.suite, cells, self.failures)
        self.notify({"event": "plan", "plan": plan})
        return plan

    def _stale(self, plan: Plan) -> list[str]:
        """Keys of used cells that were computed from other files than are here now."""
        found = []
        for key, (cell, recipe) in plan.used.items():
            stamp = f"{key} {cell.document['created']}"
            if stamp in self.fresh:
                continue
            changed = changed_files(recipe, cell.document["files"])
            if changed:
                found.append(key)
                text = f"the cell {cell.path.name} was computed from another {changed[0]} and is made again"
                self.notify({"event": "warning", "text": text})
            else:
                self.fresh.add(stamp)
        return found
