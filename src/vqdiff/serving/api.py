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
from vqdiff.serving.page_routes import READER_TIMEOUT, PageRoutes
from vqdiff.serving.routes import health, native, openai
from vqdiff.serving.service import Service
from vqdiff.serving.webui import Clients, webui


def create_app(
    pipes: Mapping[str, Pipeline],
    engine: Engine,
    limits: Limits | None = None,
    token: str | None = None,
    *,
    page: bool = False,
    reader_timeout: float = READER_TIMEOUT,
    allowed_hosts: AllowedHosts | None = None,
) -> FastAPI:
    """Create the application, which serves ``pipes`` by name (by default the first) and stops ``engine`` at its end.

    token: the bearer token that requests must send; None for an open server. page: whether to serve the page at ``/``.
    reader_timeout: the seconds that a job of the page waits for a client that reads its events. allowed_hosts: by
    default localhost and addresses.
    """
    limits, registry = limits or Limits(), CollectorRegistry()
    service = Service(pipes, engine, limits)
    shell = None
    if page:
        from vqdiff.serving.page import create_page  # takes seconds to import

        shell = create_page(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if shell is not None:
                await stack.enter_async_context(shell.router.lifespan_context(shell))
            yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="vqdiff", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.registry, app.state.webui = service, registry, Clients()
    registry.register(EngineMetrics(engine))
    for router in (openai, native, webui, health):
        app.include_router(router)
    add_docs(app)
    if shell is not None:
        app.router.default = PageRoutes(shell, reader_timeout)  # all other paths
    add_handlers(app)
    app.add_middleware(Guards, limits=limits, token=token, allowed_hosts=allowed_hosts)
    app.add_middleware(RequestMetrics, registry=registry)
    return app


def quieten() -> None:
    """Keep the content of requests out of this process's log; for processes that only serve."""
    # Requests beyond the limits are rejected and upgrades are ignored: clients must not be able to fill the log.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=InputWarning)  # it is part of the response
    logging.getLogger("uvicorn.error").addFilter(_is_no_upgrade)


def _is_no_upgrade(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Unsupported upgrade request", "No supported WebSocket library"))
