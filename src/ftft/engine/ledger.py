"""What a stage cost, by phase: floating-point operations, wall seconds, examples, tokens, steps and peak memory.

Two books. ``effective`` is what an undisturbed run would have cost; ``repeated`` is work that an interruption lost and
that was done again. The ledger travels in the checkpoint, and between checkpoints it appends what has been spent to a
journal. On resume

    effective = the checkpoint's effective          repeated = spent (journal) - effective

so work after the checkpoint counts as lost. Work after the last line of the journal is unknown and in neither book.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ftft.errors import UserError, did_you_mean
from ftft.files import explain_os_error

PHASES = ("creation", "search", "calibration", "reference", "scoring", "training", "evaluation")
VERSION = 1
COUNTS = ("flops", "examples", "tokens", "steps")


@dataclass(frozen=True)
class Cost:
    """``flops``: counted floating-point operations; ``seconds``: wall time; ``examples`` and ``tokens`` that went through
    a model (padding is in the flops, not in the tokens); ``steps``: optimizer steps."""

    flops: int = 0
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    steps: int = 0

    def __add__(self, other: Cost) -> Cost:
        return self._with(other, operator.add)

    def beyond(self, other: Cost) -> Cost:
        """What this cost has over ``other``, field by field, never below 0."""
        return self._with(other, lambda mine, theirs: max(mine - theirs, type(mine)(0)))

    def at_least(self, other: Cost) -> Cost:
        """The larger of the two, field by field."""
        return self._with(other, max)

    def _with(self, other: Cost, combine: Callable[[Any, Any], Any]) -> Cost:
        return Cost(**{name: combine(value, getattr(other, name)) for name, value in asdict(self).items()})


Book = dict[str, Cost]


class Ledger:
    """The costs of one stage, or of several merged.

    ``peak_memory``: {phase: {"rss": bytes, "cuda": bytes}}. ``reused``: the stage was taken from the store, and these are
    its costs when it ran.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._effective: Book = {}
        self._repeated: Book = {}
        self._running: list[tuple[str, bool]] = []
        self._since = 0.0
        self._high_water = _high_water()
        self.peak_memory: dict[str, dict[str, int]] = {}
        self.reused = False

    @property
    def effective(self) -> Book:
        """{phase: cost} of an undisturbed run, running timers included."""
        self._settle()
        return dict(self._effective)

    @property
    def repeated(self) -> Book:
        """{phase: cost} of what interruptions lost, running timers included."""
        self._settle()
        return dict(self._repeated)

    def add(
        self,
        phase: str,
        *,
        flops: int = 0,
        seconds: float = 0.0,
        examples: int = 0,
        tokens: int = 0,
        steps: int = 0,
        repeated: bool = False,
    ) -> None:
        """Charge work to a phase; ``repeated`` for work that is done only because of an interruption.

        ValueError for an unknown phase or a negative amount, TypeError for a count that is no integer.
        """
        counts = [operator.index(count) for count in (flops, examples, tokens, steps)]
        if min(counts) < 0 or not seconds >= 0.0:
            raise ValueError(f"a cost cannot be negative or NaN: flops, examples, tokens, steps {counts}, seconds {seconds}")
        book = self._repeated if repeated else self._effective
        cost = Cost(flops=counts[0], seconds=float(seconds), examples=counts[1], tokens=counts[2], steps=counts[3])
        book[_known(phase)] = book.get(phase, Cost()) + cost

    @contextlib.contextmanager
    def timed(self, phase: str, *, repeated: bool = False) -> Iterator[None]:
        """Charge the wall seconds of the block. A block inside another takes its time over, so no second counts twice;
        what has run so far is in the books at any time. Peak memory is observed at every switch."""
        _known(phase)
        self._switch()
        self._running.append((phase, repeated))
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def observe_memory(self, phase: str) -> None:
        """Note the peak memory since the last observation: resident memory of the process and, where torch is in use on
        CUDA, its allocated bytes. Where an earlier phase reached higher, the operating system does not say this phase's
        own peak, and the present use stands for it (a lower bound): observe often."""
        known = self.peak_memory.setdefault(_known(phase), {})
        present = _present_memory()
        for kind, peak in _high_water().items():
            reached = peak if peak > self._high_water.get(kind, 0) else present[kind]
            known[kind] = max(known.get(kind, 0), reached)
            self._high_water[kind] = max(peak, self._high_water.get(kind, 0))

    def raise_peaks(self, peaks: Mapping[str, Mapping[str, int]]) -> None:
        """Take over what another process reached, or this one earlier, where it is higher."""
        for phase, kinds in peaks.items():
            for kind, value in kinds.items():
                known = self.peak_memory.setdefault(_known(phase), {})
                known[kind] = max(known.get(kind, 0), int(value))

    def total(self, effective_only: bool = True, *, phases: Iterable[str] = PHASES) -> Cost:
        """The sum over ``phases`` of the effective costs, or of everything that was spent."""
        self._settle()
        total = Cost()
        for phase in phases:
            total += self._effective.get(_known(phase), Cost())
            if not effective_only:
                total += self._repeated.get(phase, Cost())
        return total

    def fraction_of(self, erm_flops: float, *, phases: Iterable[str] = PHASES) -> float:
        """Effective operations as a fraction of plain fine-tuning's (1.0 is ERM's cost); NaN where those are 0."""
        return self.total(phases=phases).flops / erm_flops if erm_flops else float("nan")

    def merge(self, other: Ledger) -> Ledger:
        """A new ledger with the costs of both, the higher of the memory peaks; ``reused`` where either is."""
        merged = Ledger(clock=self._clock)
        merged._effective = _sum(self.effective, other.effective)
        merged._repeated = _sum(self.repeated, other.repeated)
        for source in (self, other):
            merged.raise_peaks(source.peak_memory)
        merged.reused = self.reused or other.reused
        return merged

    def moved(self, phases: Mapping[str, str]) -> Ledger:
        """A copy with phases booked under others, such as all of a reference stage under the main stage's ``reference``."""
        target = {phase: _known(phases.get(phase, phase)) for phase in PHASES}
        copy = Ledger(clock=self._clock)
        for phase in PHASES:
            copy._effective = _sum(copy._effective, {target[phase]: self.effective.get(phase, Cost())})
            copy._repeated = _sum(copy._repeated, {target[phase]: self.repeated.get(phase, Cost())})
            copy.raise_peaks({target[phase]: self.peak_memory.get(phase, {})})
        copy.reused = self.reused
        return copy

    def without(self, phase: str) -> Ledger:
        """A copy that leaves out a phase."""
        copy = self.moved({})
        for book in (copy._effective, copy._repeated, copy.peak_memory):
            book.pop(_known(phase), None)
        return copy

    def as_reused(self) -> Ledger:
        """A copy for a stage that was taken from the store: charged as it ran, and marked."""
        copy = self.moved({})
        copy.reused = True
        return copy

    def to_json(self) -> dict[str, Any]:
        """The books as JSON; phases without costs are left out."""
        return {
            "format_version": VERSION,
            "effective": _book_to_json(self.effective),
            "repeated": _book_to_json(self.repeated),
            "peak_memory": {phase: dict(peaks) for phase, peaks in self.peak_memory.items()},
            "reused": self.reused,
        }

    state = to_json

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, clock: Callable[[], float] = time.perf_counter) -> Ledger:
        """Read what :meth:`to_json` gave; UserError where it is damaged or of a newer format."""
        version = document.get("format_version")
        if version != VERSION:
            raise UserError(
                f"a ledger has the format version {version}, and this ftft reads {VERSION}; upgrade ftft to read it"
            )
        ledger = cls(clock=clock)
        try:
            ledger._effective = _book_from_json(document["effective"])
            ledger._repeated = _book_from_json(document["repeated"])
            ledger.raise_peaks(document["peak_memory"])
            ledger.reused = bool(document["reused"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"a ledger is damaged: {type(error).__name__} {error}") from None
        return ledger

    def journal(self, path: Path | str) -> None:
        """Append what has been spent so far, with the peaks, as one flushed line; call it every few seconds."""
        spent = _book_to_json(_sum(self.effective, self.repeated))
        line = {"format_version": VERSION, "spent": spent, "peak_memory": self.peak_memory}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as stream:
                # A line that a kill cut short must not swallow this one.
                if stream.tell() > 0:
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":
                        stream.write(b"\n")
                stream.write(json.dumps(line).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise explain_os_error(error, path) from error

    @classmethod
    def resume(
        cls,
        state: Mapping[str, Any] | None,
        journal: Path | str | None,
        *,
        prepared: Ledger | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Ledger:
        """Continue from a checkpoint's :meth:`state` (None: no checkpoint, a new start) and the stage's journal.

        All that the journal knows beyond the checkpoint's effective costs becomes repeated. ``prepared`` holds what this
        process has charged before it came here: preparation done a second time, and so repeated, where there is a
        checkpoint; the undisturbed run's where there is none. Damaged lines and a missing journal are passed over;
        amounts only grow, so the highest in it are the last ones.
        """
        ledger = cls(clock=clock) if state is None else cls.from_json(state, clock=clock)
        spent = _sum(ledger._effective, ledger._repeated)
        for line_spent, peaks in _read_journal(journal):
            spent = {phase: spent.get(phase, Cost()).at_least(line_spent.get(phase, Cost())) for phase in PHASES}
            ledger.raise_peaks(peaks)
        ledger._repeated = _sum({}, {p: cost.beyond(ledger._effective.get(p, Cost())) for p, cost in spent.items()})
        if prepared is not None:
            again = ledger._effective if state is None else ledger._repeated
            again.update(_sum(again, prepared.effective))
            ledger._repeated = _sum(ledger._repeated, prepared.repeated)
            ledger.raise_peaks(prepared.peak_memory)
        return ledger

    def _settle(self) -> None:
        """Book the running timer's seconds up to now."""
        now = self._clock()
        if self._running:
            phase, repeated = self._running[-1]
            self.add(phase, seconds=max(now - self._since, 0.0), repeated=repeated)
        self._since = now

    def _switch(self) -> None:
        self._settle()
        if self._running:
            self.observe_memory(self._running[-1][0])
        else:
            self._high_water = _high_water()


def _known(phase: str) -> str:
    if phase not in PHASES:
        raise ValueError(f'there is no phase "{phase}"{did_you_mean(phase, PHASES)}')
    return phase


def _sum(one: Book, other: Book) -> Book:
    summed = {phase: one.get(phase, Cost()) + other.get(phase, Cost()) for phase in PHASES}
    return {phase: cost for phase, cost in summed.items() if cost != Cost()}


def _book_to_json(book: Book) -> dict[str, dict[str, Any]]:
    return {phase: asdict(book[phase]) for phase in PHASES if phase in book}


def _book_from_json(document: Mapping[str, Mapping[str, Any]]) -> Book:
    book = {}
    for phase, fields in document.items():
        counts = {name: operator.index(fields[name]) for name in COUNTS}
        book[_known(phase)] = Cost(seconds=float(fields["seconds"]), **counts)
    return book


def _read_journal(path: Path | str | None) -> Iterator[tuple[Book, dict[str, dict[str, int]]]]:
    if path is None or not Path(path).exists():
        return
    for line in Path(path).read_bytes().splitlines():
        try:
            entry = json.loads(line)
            yield _book_from_json(entry["spent"]), {_known(phase): dict(peaks) for phase, peaks in entry["peak_memory"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            continue


def _cuda() -> Any:
    """torch.cuda where torch is already imported and using a device; the ledger never imports torch itself."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _high_water() -> dict[str, int]:
    """The process' peaks since it began, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    peaks = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    cuda = _cuda()
    if cuda is not None:
        peaks["cuda"] = int(cuda.max_memory_allocated())
    return peaks


def _present_memory() -> dict[str, int]:
    present = {"rss": int(psutil.Process().memory_info().rss)}
    cuda = _cuda()
    if cuda is not None:
        present["cuda"] = int(cuda.memory_allocated())
    return present
