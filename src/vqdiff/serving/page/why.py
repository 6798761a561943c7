"""The tab that shows how an image was generated, step by step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr
import torch

from vqdiff.foundation.images import to_images
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import Trace
from vqdiff.serving.page.controls import Controls, Values
from vqdiff.serving.page.generation import Progress, data_url, draw
from vqdiff.serving.page.parts import empty, grid, note, script, state
from vqdiff.serving.page.running import Buttons
from vqdiff.serving.schemas import ImageRequest
from vqdiff.serving.service import Service

_HELP = """An image is a square of tokens. At first all are masked; at each step the network predicts all of them, and a
few are revealed, mostly the most confident ones. Move through the steps to see its predictions at each."""

_TEMPLATE = """<div class="vq-why" hidden>
  <div class="vq-steps"><button type="button" data-play>▶ Play</button>
    <input type="range" min="1" max="1" value="1" aria-label="step"></div>
  <p class="vq-words vq-note"></p>
  <div class="vq-panels">
    <figure><img alt="the image after this step"><figcaption>The image so far</figcaption></figure>
    <figure><canvas class="vq-sure"></canvas><figcaption>Confidence of the network
      <span class="vq-scale"></span></figcaption></figure>
    <figure><canvas class="vq-order"></canvas><figcaption>Order of reveal: bright first</figcaption></figure>
  </div></div>"""


class Why:
    """The tab; ``ask`` sets its fields for a generated image, ``run`` generates it again and shows its steps."""

    def __init__(self, service: Service, model: gr.Dropdown) -> None:
        with gr.Tab("Why?", id="why"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                gr.Markdown(_HELP)
                self.controls = Controls(service, model, seed=0)
                self.buttons = Buttons("Show why")
            with gr.Column(scale=3, min_width=320):
                now = gr.HTML(empty("The image and its steps appear here."), elem_id="now", apply_default_css=False)
                viewer = gr.HTML(
                    None, html_template=_TEMPLATE, js_on_load=script("why.js"), elem_id="why", apply_default_css=False
                )
        self.inputs, self.outputs = self.controls.inputs, [now, viewer]

        def start(values: Values, client: str) -> AsyncGenerator[Progress]:
            return draw(service, [self.controls.drawing(values)], trace=trace_of, client=client)

        also = (viewer, lambda progress: progress.trace)
        self.run = self.buttons.draw(self.inputs, now, start, _show, enter=self.controls.prompt, also=also)

    def ask(self, event: gr.EventData) -> list[Any]:
        """Return the values of the fields for the image whose button was pressed."""
        return self.controls.filled(ImageRequest.model_validate_json(event.drawing))


def trace_of(pipe: Pipeline, steps: Sequence[Trace]) -> dict[str, Any]:
    """Return what `why.js` shows: images and confidences after each step, and when each position was revealed."""
    trace = Trace.join(steps)
    with torch.inference_mode():
        pictures = [to_images(pipe.preview(tokens.to(pipe.model.device)))[0] for tokens in trace.tokens]
    return {
        "steps": len(steps),
        "side": pipe.model.image_tokenizer.grid_size,
        "pictures": [data_url(one) for one in pictures],
        "revealed": trace.reveal_step()[0].tolist(),
        "confidence": (trace.confidence[:, 0].float() * 255).round().int().tolist(),
    }


def _show(progress: Progress) -> str:
    cell = progress.cells[0][0]
    if progress.complete:
        return note(f"{cell.drawing.prompt or 'An image'}, seed {cell.seed}")
    return state(progress) + grid([cell], [])
