"""The HTTP application."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from PIL import Image
from prometheus_client import CollectorRegistry

from vqdiff import __version__
from vqdiff.foundation.errors import InputWarning
from vqdiff.pipeline import Pipeline
from vqdiff.serving.docs import add_docs
from vqdiff.serving.engine import Engine
from vqdiff.serving.errors import add_handlers
from vqdiff.serving.guards import Guards
from vqdiff.serving.hosts import AllowedHosts
from vqdiff.serving.limits import Limits
from vqdiff.serving.metrics import EngineMetrics, RequestMetrics
from vqdiff.serving.page_routes import PageRoutes
from vqdiff.serving.routes import health, native, openai
from vqdiff.serving.service import Service


def create_app(
    pipes: Mapping[str, Pipeline],
    engine: Engine,
    limits: Limits | None = None,
    token: str | None = None,
    *,
    page: bool = False,
    allowed_hosts: AllowedHosts | None = None,
) -> FastAPI:
    """An application that draws with ``pipes``, by name, the first of them by default, and stops ``engine`` at its end.

    token: what requests must bring as a bearer token; None for an open server. page: whether there is a page at ``/``.
    allowed_hosts: localhost and addresses by default.
    """
    limits, registry = limits or Limits(), CollectorRegistry()
    service = Service(pipes, engine, limits)
    shell = None
    if page:
        from vqdiff.serving.page import create_page  # seconds to import

        shell = create_page(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if shell is not None:
                await stack.enter_async_context(shell.router.lifespan_context(shell))
            yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="vqdiff", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.registry = service, registry
    registry.register(EngineMetrics(engine))
    for router in (openai, native, health):
        app.include_router(router)
    add_docs(app)
    if shell is not None:
        app.router.default = PageRoutes(shell)  # what is asked for and is none of the above
    add_handlers(app)
    app.add_middleware(Guards, limits=limits, token=token, allowed_hosts=allowed_hosts)
    app.add_middleware(RequestMetrics, registry=registry)
    return app


def quieten() -> None:
    """Keep what clients ask for out of this process's log; for processes that do nothing but serve."""
    # What is beyond the limits is refused, and an upgrade is not made: no client shall fill the log by asking for it.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=InputWarning)  # the answer says it
    logging.getLogger("uvicorn.error").addFilter(_is_no_upgrade)


def _is_no_upgrade(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Unsupported upgrade request", "No supported WebSocket library"))
