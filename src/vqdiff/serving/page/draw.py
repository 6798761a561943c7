"""The tab that generates images from prompts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from vqdiff.serving.page.controls import Controls, Values
from vqdiff.serving.page.generation import Progress, draw
from vqdiff.serving.page.parts import empty, grid, script, state
from vqdiff.serving.page.running import QUIET, Buttons, reporting_errors
from vqdiff.serving.schemas import ImageRequest
from vqdiff.serving.service import Service


def draw_tab(service: Service, model: gr.Dropdown, last: gr.State) -> gr.HTML:
    """Add the tab; ``last`` is set to the last image, a data URL. Returns the images, with the events edit and why."""
    with gr.Tab("Draw", id="draw"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            controls = Controls(service, model, count=("Images", 4))
            buttons = Buttons("Draw")
        with gr.Column(scale=3, min_width=320):
            pictures = gr.HTML(
                empty("Images appear here, with previews while they are generated."),
                js_on_load=script("pictures.js"),
                elem_id="pictures",
                apply_default_css=False,
            )

    def start(values: Values, client: str) -> AsyncGenerator[Progress]:
        return draw(service, [controls.drawing(values)], client=client)

    def show(progress: Progress) -> str:
        return state(progress) + grid(progress.cells[0], ["keep", "edit", "why"])

    def keep(event: gr.EventData) -> list[Any]:
        return [str(ImageRequest.model_validate_json(event.drawing).seed), False]

    also = (last, lambda progress: progress.cells[0][-1].image)
    buttons.draw(controls.inputs, pictures, start, show, enter=controls.prompt, also=also)
    pictures.keep(reporting_errors(keep), None, [controls.parts["seed"], controls.parts["random"]], **QUIET)
    return pictures
