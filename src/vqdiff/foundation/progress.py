"""Progress on stderr, a bar on a terminal and a line every half minute in a log; lines for what takes long.

The bar of a call, in a notebook or on a terminal.
"""

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
    """A context during which a line says every half minute that ``description`` is still running."""
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


@contextmanager
def step_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``show(done, total)``, which draws a bar in a notebook or on a terminal; the bar disappears at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_jupyter:
        yield from _notebook_bar()
        return
    columns = (BarColumn(), "{task.completed}/{task.total} steps", TimeRemainingColumn())
    with Progress(
        "{task.description}", *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def in_notebook() -> bool:
    """Return whether this runs in the kernel of a notebook; imports nothing unless IPython is loaded."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def _notebook_bar() -> Iterator[Callable[[int, int], None]]:
    """One output that is replaced in place: it needs no widgets, and leaves nothing in a saved notebook."""
    from IPython.display import HTML, DisplayHandle  # pyright: ignore[reportMissingImports]

    output = DisplayHandle()
    output.display(HTML(""))
    try:
        yield lambda done, total: output.update(
            HTML(f'<progress max="{total}" value="{done}"></progress> {done}/{total} steps')
        )
    finally:
        output.update(HTML(""))
