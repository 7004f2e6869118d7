"""Ctrl-C and SIGTERM as a request that the training loop answers after the step in hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ftft.errors import Interrupted


class StopSignals:
    """While entered, the first Ctrl-C or SIGTERM only sets ``requested``; a second Ctrl-C raises KeyboardInterrupt.

    Python lets only the main thread handle signals; in another one nothing changes. A signal that the process was
    started to ignore (a background job of a script ignores Ctrl-C) stays ignored.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._event.set()


def interrupted(step: int, steps: int) -> Interrupted:
    """What a training of ``steps`` steps raises that was asked to stop and has saved what it had done after ``step``."""
    return Interrupted(f"interrupted at step {step} of {steps}, which is saved; run the same command again to resume")
