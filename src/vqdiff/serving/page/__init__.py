"""The web page; it uses the same `Service` as the API."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.themes import Soft

from vqdiff.serving.page.compare import compare_tab
from vqdiff.serving.page.draw import draw_tab
from vqdiff.serving.page.edit import edit_tab, picture_of
from vqdiff.serving.page.event_check import EventCheck
from vqdiff.serving.page.parts import script
from vqdiff.serving.page.running import QUIET, reporting_errors
from vqdiff.serving.page.why import Why
from vqdiff.serving.service import Service

_SESSIONS = 200
"""Visitors whose state is kept between two clicks; the oldest are discarded."""

_HEAD = """<div class="vq-head"><h1>vqdiff</h1>
<p>Images from text, by discrete diffusion over image tokens. <a href="docs" target="_blank">API</a></p></div>"""


def create_page(service: Service) -> FastAPI:
    """Create an application with the page at ``/``."""
    theme = Soft(
        primary_hue="violet",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        block_label_background_fill="transparent",
        block_title_background_fill="transparent",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_padding="0",
    )
    with gr.Blocks(title="vqdiff", analytics_enabled=False, fill_width=True) as blocks:
        blocks.state_session_capacity = _SESSIONS
        gr.HTML(_HEAD)
        names = list(service.pipes)
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="model")
        last = gr.State()
        with gr.Tabs(selected="draw") as tabs:
            pictures = draw_tab(service, model, last)
            brush = edit_tab(service, model, last)
            why = Why(service, model)
            compare_tab(service, model)

        def edit(event: gr.EventData) -> list[Any]:
            return [picture_of(event), gr.Tabs(selected="edit")]

        def ask(event: gr.EventData) -> list[Any]:
            return [*why.ask(event), gr.Tabs(selected="why")]

        pictures.edit(reporting_errors(edit), None, [brush, tabs], **QUIET)
        filled = pictures.why(reporting_errors(ask), None, [*why.inputs, tabs], **QUIET)
        filled.success(why.run, why.inputs, why.outputs, **QUIET)
    # Requests wait in the engine's queue, by its rules, not in Gradio's.
    blocks.queue(default_concurrency_limit=None, max_size=service.engine.max_waiting, api_open=False)
    blocks._queue.pending_messages_per_session.max_size = _SESSIONS  # unread messages stay in memory
    shell = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    shell.add_middleware(EventCheck, blocks=blocks)
    return gr.mount_gradio_app(
        shell,
        blocks,
        "/",
        theme=theme,
        css=script("page.css"),
        footer_links=[],
        run_history=False,
        favicon_path=str(files("vqdiff.serving.page") / "icon.png"),
        max_file_size=1,  # bytes: there are no uploads
        mcp_server=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )
