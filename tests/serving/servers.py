"""Real servers on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import uvicorn

from vqdiff.pipeline import Pipeline
from vqdiff.serving.api import create_app
from vqdiff.serving.engine import Engine
from vqdiff.serving.limits import Limits


@contextmanager
def serving(
    *pipes: Pipeline,
    limits: Limits | None = None,
    token: str | None = None,
    max_rows: int = 8,
    max_waiting: int = 64,
    page: bool = False,
) -> Iterator[tuple[str, Engine]]:
    """A server in a thread of this process, with models called toy0, toy1 …: its address, and its engine."""
    engine = Engine(max_rows=max_rows, max_waiting=max_waiting)
    app = create_app({f"toy{i}": pipe for i, pipe in enumerate(pipes)}, engine, limits, token, page=page)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_for(lambda: server.started)
        yield address, engine
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition: object, seconds: float = 30.0) -> None:
    """Wait until ``condition()`` holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def client(address: str) -> httpx.Client:
    """A client that has patience."""
    return httpx.Client(base_url=address, timeout=60)
