"""A program that notes when it works, to see how programs take turns; light, since it is made in many processes."""

from __future__ import annotations

import os
import signal
import time

from vqdiff.bench.workers import Turn
from vqdiff.foundation.errors import InputError


class Diary:
    """Notes when it works, and fails in the ways that a program may."""

    def __init__(self, pace: float) -> None:
        if pace < 0:
            raise InputError("nobody can be that fast")
        self.pace = pace

    def work(self, times: int, turn: Turn) -> list[tuple[float, float]]:
        """Beginning and end of each turn, on a clock that all processes share."""
        notes = list[tuple[float, float]]()
        for _ in range(times):
            turn()
            start = time.monotonic()
            time.sleep(self.pace)
            notes.append((start, time.monotonic()))
        return notes

    def double(self, number: int) -> int:
        return 2 * number

    def refuse(self) -> None:
        raise InputError("not on a Sunday")

    def fail(self) -> None:
        raise KeyError("keys")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
