"""Real servers on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import uvicorn

from toy_pipelines import toy_pipeline
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
    settings = {"http": "h11", "loop": "asyncio", "log_level": "warning"}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=5, **settings))
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


@contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``vqdiff serve`` with a toy model: its address, and the process."""
    toy_pipeline(steps=40).save(folder / "toy")
    command = [sys.executable, "-m", "vqdiff", "serve", "--model", f"toy={folder / 'toy'}", "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().partition("/: ")[0].partition("/docs")[0], server
        finally:
            server.kill()


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
