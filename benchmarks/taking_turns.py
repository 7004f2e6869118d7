"""Two runs side by side: each works in a process of its own, so that neither inherits what the other allocated, and they take
turns, A B B A A B ..., while the other waits.

A module of its own that imports nothing heavy: each process imports it, and then what its run needs.
"""

from __future__ import annotations

import multiprocessing
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Run = TypeVar("Run")  # what a run of a benchmark gives
Turn = Callable[[], None]  # gives the other side its turn, and returns when it is ours again


def side_by_side(first: Callable[[Turn], Run], second: Callable[[Turn], Run], arguments: Namespace) -> tuple[Run, Run]:
    """What both runs give, each in a process of its own, taking turns; a smoke run does one after the other, in this one."""
    if arguments.smoke:
        return first(_go_on), second(_go_on)
    sides = [_Side(first), _Side(second)]
    try:
        # The first turn is loading and warming up, the others are timed.
        for turn in range(arguments.pairs + 1):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                side.take_turn()
    finally:
        for side in sides:
            side.end()
    return sides[0].result, sides[1].result


def _go_on() -> None:
    pass


class _Side:
    """A run in a process of its own that works only while it has its turn."""

    result: Any = None

    def __init__(self, work: Callable[[Turn], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work_in_turns, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def take_turn(self) -> None:
        self.connection.send("go")
        try:
            self.result = self.connection.recv()
        except EOFError:
            raise SystemExit("a run ended early; its error stands above") from None

    def end(self) -> None:
        """Waits for a run that gave its result; one that waits for its turn ends with the pipe."""
        self.connection.close()
        self.process.join()


def _work_in_turns(connection: Connection, work: Callable[[Turn], Any]) -> None:
    def wait() -> None:
        try:
            connection.recv()
        except EOFError:
            raise SystemExit from None  # the benchmark has ended before this run

    def turn() -> None:
        connection.send(None)
        wait()

    wait()
    connection.send(work(turn))
