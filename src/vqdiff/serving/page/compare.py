"""The tab that compares guidance and orders of reveal side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from html import escape

import gradio as gr

from vqdiff.model import Model
from vqdiff.serving.page.controls import Controls, Values
from vqdiff.serving.page.generation import Panel, Progress, draw
from vqdiff.serving.page.parts import card, empty, state
from vqdiff.serving.page.running import Buttons
from vqdiff.serving.service import Service

_HELP = """Each row starts from the same noise. **Guidance** moves the predictions towards the prompt; **purity**
reveals the most confident tokens first, *random* any of them. With fewer steps, the difference grows."""
_UNGUIDED = {"guidance": 1.0, "negative": None}
_COMPARED = {"fewer-tokens": "random order", "purity": "by purity"}


def compare_tab(service: Service, model: gr.Dropdown) -> None:
    """Add the tab: two orders of reveal, without and with guidance, from the same seeds."""
    with gr.Tab("Compare", id="compare"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(_HELP)
            controls = Controls(service, model, prompt="a cat face", count=("Rows", 3), seed=0)
            buttons = Buttons("Compare")
        with gr.Column(scale=3, min_width=320):
            table = gr.HTML(
                empty("The same prompt, sampled in four ways, appears here."), elem_id="table", apply_default_css=False
            )

    def start(values: Values, client: str) -> AsyncGenerator[Progress]:
        request = controls.drawing(values)
        request = request.model_copy(update={"seed": request.seeded()})
        samplers = ["fewer-tokens", request.settings(service.pipe(request.model)[1].model).sampler]
        guided = [request.model_copy(update={"sampler": one}) for one in samplers]
        return draw(service, [*(one.model_copy(update=_UNGUIDED) for one in guided), *guided], client=client)

    def show(progress: Progress) -> str:
        head = "".join(f"<th>{_name(row[0], progress.pipe.model)}</th>" for row in progress.cells)
        rows = zip(*progress.cells, strict=True)
        body = "".join(f"<tr>{''.join(f'<td>{card(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f'{state(progress)}<table class="vq-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    buttons.draw(controls.inputs, table, start, show, enter=controls.prompt)


def _name(cell: Panel, model: Model) -> str:
    """Describe how an image is sampled, in two lines."""
    settings = cell.drawing.settings(model)
    order, scale = _COMPARED.get(settings.sampler) or settings.sampler, settings.guidance
    return f"{escape(order)}<br>{'no guidance' if scale == 1 else f'guidance {scale:g}'}"
