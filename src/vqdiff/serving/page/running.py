"""Buttons that draw and stop."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.components import Component

from vqdiff.serving.page.drawing import Progress
from vqdiff.serving.page.parts import note, problem

QUIET: dict[str, Any] = {
    "preprocess": False,
    "postprocess": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Options of all events. Values go to and fro as they are: Gradio would make files of some of them."""


class Buttons:
    """A button that starts a drawing, and one that stops it.

    Gradio's own way to cancel an event can leave the button that started it without effect for good, where the page
    closes its stream while the next event begins. So a drawing is told here that it is over, and ends by itself.
    """

    def __init__(self, label: str) -> None:
        with gr.Row():
            self.go = gr.Button(label, variant="primary", scale=3)
            self.stop = gr.Button("Stop", min_width=80, scale=1)
        self._numbers = itertools.count()
        self._drawing = dict[str | None, int]()
        """The number of the drawing each open page waits for."""
        self.stop.click(self._end, None, None, **QUIET)

    def draw(
        self,
        inputs: Sequence[Component],
        output: Component,
        start: Callable[[Sequence[Any]], AsyncGenerator[Progress]],
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
            page, number, shown = request.session_hash, next(self._numbers), ""
            self._drawing[page] = number
            try:
                yield self._both(note("Starting …"), also)
                async with aclosing(start(values)) as progress:
                    async for one in progress:
                        if self._drawing.get(page) != number:
                            break
                        shown = show(one)
                        done = also and one.complete
                        yield [shown, also[1](one)] if also and done else self._both(shown, also)
                    else:
                        return
                if page not in self._drawing:
                    yield self._both(note("Stopped."), also)
            except Exception as error:
                yield self._both(problem(error) + shown, also)
            finally:
                if self._drawing.get(page) == number:
                    del self._drawing[page]

        outputs = [output] if also is None else [output, also[0]]
        triggers = [self.go.click] if enter is None else [self.go.click, enter.submit]
        gr.on(triggers, run, list(inputs), outputs, js=js, trigger_mode="multiple", **QUIET)
        return run

    def _end(self, request: gr.Request) -> None:
        self._drawing.pop(request.session_hash, None)

    @staticmethod
    def _both(shown: str, also: Any) -> Any:
        return shown if also is None else [shown, gr.skip()]
