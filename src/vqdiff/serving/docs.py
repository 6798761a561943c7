"""The OpenAPI page with local scripts; FastAPI's own loads them from other hosts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

_KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}


def add_docs(app: FastAPI) -> None:
    """Serve the page at /docs."""
    for name, kind in _KINDS.items():
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        app.add_route(f"/docs/{name}", _always(Response(content, media_type=kind)), include_in_schema=False)
    script, style, icon = (f"/docs/{name}" for name in _KINDS)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{app.title}: API",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
    )
    app.add_route("/docs", _always(page), include_in_schema=False)


def _always(response: Response) -> Callable[[Request], Response]:
    return lambda request: response
