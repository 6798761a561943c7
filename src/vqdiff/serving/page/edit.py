"""The tab that resamples a part of an image."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import gradio as gr

from vqdiff.foundation.errors import InputError
from vqdiff.serving.page.controls import Controls, Values
from vqdiff.serving.page.generation import Progress, draw
from vqdiff.serving.page.parts import empty, grid, script, state
from vqdiff.serving.page.running import QUIET, Buttons, reporting_errors
from vqdiff.serving.service import Service

_TEMPLATE = """<div class="vq-brush">
  <div class="vq-tools">
    <label class="vq-button">Open an image<input type="file" accept="image/png,image/jpeg,image/webp" hidden></label>
    <button type="button" data-tool="paint" class="vq-on">Brush</button>
    <button type="button" data-tool="erase">Eraser</button>
    <label>Size <input type="range" class="vq-size" min="2" max="50" value="16"></label>
    <button type="button" data-tool="undo">Undo</button>
    <button type="button" data-tool="clear">Clear</button>
  </div>
  <div class="vq-canvas">
    <p>Open an image, drop one here, or take one from the Draw tab. Then paint over the part to resample.</p>
    <img alt="the image to edit" hidden><canvas hidden aria-label="paint over the part to resample"></canvas></div>
</div>"""

_TAKE_MASK = """(...values) => {
  const brush = document.querySelector('#brush .vq-brush');
  values[0] = brush ? brush.read() : null;
  return values;
}"""


def edit_tab(service: Service, model: gr.Dropdown, last: gr.State) -> gr.HTML:
    """Add the tab; returns the brush, whose value is the image to edit, a data URL."""
    most = int(service.limits.max_image_pixels**0.5)
    with gr.Tab("Edit", id="edit"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            brush = gr.HTML(
                None,
                html_template=_TEMPLATE,
                js_on_load=script("brush.js"),
                elem_id="brush",
                apply_default_css=False,
                most=most,
            )
            take = gr.Button("Take the last generated image", size="sm")
        with gr.Column(scale=3, min_width=320):
            controls = Controls(service, model, prompt="a green apple", count=("Images", 3))
            with controls.more:
                feather = gr.Slider(0, 32, 0, step=1, label="Soft seam, in pixels")
            buttons = Buttons("Resample what is painted")
            edited = gr.HTML(
                empty("The edited images appear here."),
                js_on_load=script("pictures.js"),
                elem_id="edited",
                apply_default_css=False,
            )

    def start(values: Values, client: str) -> AsyncGenerator[Progress]:
        painted, seam, *rest = values
        if not isinstance(painted, dict) or not painted.get("image"):
            raise InputError("there is no image yet: open one, or take one from the Draw tab")
        if not painted.get("mask"):
            raise InputError("nothing is painted: paint over the part to resample")
        drawing = controls.drawing(rest, image=painted["image"], mask=painted["mask"], feather=seam)
        return draw(service, [drawing], client=client)

    def show(progress: Progress) -> str:
        return state(progress) + grid(progress.cells[0], ["edit"])

    inputs = [brush, feather, *controls.inputs]
    buttons.draw(inputs, edited, start, show, enter=controls.prompt, js=_TAKE_MASK)
    take.click(lambda picture: picture or gr.skip(), last, brush, **QUIET)
    edited.edit(reporting_errors(picture_of), None, brush, **QUIET)
    return brush


def picture_of(event: gr.EventData) -> object:
    """Return the image whose button was pressed, a data URL."""
    return event.picture if str(event.picture).startswith("data:image/") else gr.skip()
