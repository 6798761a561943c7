"""Progress on stderr, a bar on a terminal and a line every half minute in a log; lines for what takes long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

LINE_EVERY = 30.0
"""Seconds between two lines of progress."""


def track(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Iterate over ``items`` and show how many of ``total`` are done, the rate and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _log(items, description, total)
        return

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.3g}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(items, total, description=description)


def _log(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = printed = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - printed > LINE_EVERY:
            printed, rate = now, done / (now - start)
            left = f" of {total:,}, {timedelta(seconds=round((total - done) / rate))} left" if total else ""
            print(f"{description}: {done:,}{left}, {rate:.3g}/s", file=sys.stderr, flush=True)


@contextmanager
def still(description: str, say: Callable[[str], None]) -> Iterator[None]:
    """A context during which a line says every half minute that ``description`` goes on."""
    start, done = time.monotonic(), threading.Event()

    def beat() -> None:
        while not done.wait(LINE_EVERY):
            say(f"{description}: {time.monotonic() - start:.0f} s so far")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
