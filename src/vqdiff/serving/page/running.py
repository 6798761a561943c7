"""Buttons that draw and stop."""

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
"""Options of all events. Values go to and fro as they are: Gradio would make files of some of them."""


def told(function: Callable[..., T]) -> Callable[..., T]:
    """The same, for an event whose values a client may have made up: what is wrong with them is told to it alone."""

    @wraps(function)
    def telling(*values: Any) -> T:
        try:
            return function(*values)
        except (AttributeError, TypeError, ValueError, UnknownModelError) as error:
            logger.info("an event of the page was refused: %s", error)
            raise gr.Error("this is no event of the page", print_exception=False) from error

    return telling


@dataclass(eq=False)
class _Turn:
    """A drawing on a page, and whether it is over before it is finished."""

    over: bool = False
    stopped: bool = False
    """Over because of the second button, not because the first was pressed again."""


class Buttons:
    """A button that starts a drawing, and one that stops it.

    Gradio's own way to cancel an event can leave the button that started it without effect for good, where the page
    closes its stream while the next event begins. So a drawing is told here that it is over, and ends by itself.
    """

    def __init__(self, label: str) -> None:
        with gr.Row():
            self.go = gr.Button(label, variant="primary", scale=3)
            self.stop = gr.Button("Stop", min_width=80, scale=1)
        self._turns = dict[str | None, _Turn]()
        """The drawing each open page waits for."""
        self.stop.click(self._stop, None, None, **QUIET)

    def draw(
        self,
        inputs: Sequence[Component],
        output: Component,
        start: Callable[[Sequence[Any], str], AsyncGenerator[Progress]],
        show: Callable[[Progress], str],
        *,
        enter: gr.Textbox | None = None,
        also: tuple[Component, Callable[[Progress], Any]] | None = None,
        js: str | None = None,
    ) -> Callable[..., AsyncIterator[Any]]:
        """Have the button draw what ``start`` makes of the values of ``inputs``, and ``output`` show it.

        Pressed again, it ends the drawing before. enter: a field in which the Enter key does the same. also: something
        else to set when all is drawn. js: what is done to the values before they are sent. Returns the function that
        the button calls.
        """

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
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
                # Gradio shows the last again at the end: over what the next drawing shows, unless that is nothing.
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
    def _both(shown: Any, also: Any) -> Any:
        return shown if also is None else [shown, gr.skip()]
