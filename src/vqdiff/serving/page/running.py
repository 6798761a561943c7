"""Buttons that start and stop generation."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from vqdiff.serving.page.generation import Progress
from vqdiff.serving.page.parts import note, problem
from vqdiff.serving.page_routes import client_of, reader_of
from vqdiff.serving.service import UnknownModelError

T = TypeVar("T")
logger = logging.getLogger(__name__)

QUIET: dict[str, Any] = {
    "preprocess": False,
    "postprocess": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Options of all events. Values are passed unchanged, as Gradio would turn some of them into files."""


def reporting_errors(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap an event whose values a client may have made up: errors in them are reported only to that client."""

    @wraps(function)
    def wrapped(*values: object) -> T:
        try:
            return function(*values)
        except (AttributeError, TypeError, ValueError, UnknownModelError) as error:
            logger.info("an event of the page was rejected: %s", error)
            raise gr.Error("this is not an event of the page", print_exception=False) from error

    return wrapped


@dataclass(eq=False)
class _Turn:
    """A run on a page, and whether it was ended before it finished."""

    over: bool = False
    stopped: bool = False
    """Ended by the stop button, not by pressing the first button again."""


class Buttons:
    """A button that starts a run, and one that stops it.

    Gradio's own cancelling of events can disable the button that started one for good, if the page closes its stream
    while the next event begins. Therefore a run is marked here as over, and ends by itself.
    """

    def __init__(self, label: str) -> None:
        with gr.Row():
            self.go = gr.Button(label, variant="primary", scale=3)
            self.stop = gr.Button("Stop", min_width=80, scale=1)
        self._turns = dict[str | None, _Turn]()
        """The run that each open page waits for."""
        self.stop.click(self._stop, None, None, **QUIET)

    def draw(
        self,
        inputs: Sequence[Component],
        output: Component,
        start: Callable[[Sequence[Any], str], AsyncGenerator[Progress]],
        show: Callable[[Progress], str],
        *,
        enter: gr.Textbox | None = None,
        also: tuple[Component, Callable[[Progress], object]] | None = None,
        js: str | None = None,
    ) -> Callable[..., AsyncIterator[object]]:
        """Make the button run ``start`` with the values of ``inputs``, and show the progress in ``output``.

        Pressing it again ends the previous run. enter: a field in which the Enter key does the same. also: another
        component to set when the run is complete. js: applied to the values before they are sent. Returns the function
        that the button calls.
        """

        async def run(request: gr.Request, *values: object) -> AsyncIterator[object]:
            page, turn, shown = request.session_hash, _Turn(), ""
            reader = reader_of(request)
            self._end(page)
            self._turns[page] = turn
            try:
                yield self._both(note("Starting …"), also)
                if not await reader.comes():
                    return
                async with aclosing(start(values, client_of(request))) as progress:
                    async for one in progress:
                        if turn.over or not reader.here:
                            break
                        shown = show(one)
                        done = also and one.complete
                        yield [shown, also[1](one)] if also and done else self._both(shown, also)
                    else:
                        return
                # Gradio shows the last value again at the end, over what the next run shows, unless it is skipped.
                yield self._both(note("Stopped.") if turn.stopped else gr.skip(), also)
            except Exception as error:
                yield self._both(problem(error) + shown, also)
            finally:
                if not turn.over:
                    del self._turns[page]

        outputs = [output] if also is None else [output, also[0]]
        triggers = [self.go.click] if enter is None else [self.go.click, enter.submit]
        gr.on(triggers, run, list(inputs), outputs, js=js, trigger_mode="multiple", **QUIET)
        return run

    def _stop(self, request: gr.Request) -> None:
        self._end(request.session_hash, stopped=True)

    def _end(self, page: str | None, *, stopped: bool = False) -> None:
        if turn := self._turns.pop(page, None):
            turn.over, turn.stopped = True, stopped

    @staticmethod
    def _both(shown: object, also: object) -> object:
        return shown if also is None else [shown, gr.skip()]
