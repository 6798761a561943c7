"""Progress on stderr: a bar on a terminal, one line per minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_LINE_EVERY = 60.0  # seconds


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
        if now - printed > _LINE_EVERY:
            printed, rate = now, done / (now - start)
            left = f" of {total:,}, {timedelta(seconds=round((total - done) / rate))} left" if total else ""
            print(f"{description}: {done:,}{left}, {rate:.3g}/s", file=sys.stderr, flush=True)
