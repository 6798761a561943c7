"""Real servers on loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import uvicorn

from toy_pipelines import toy_pipeline
from vqdiff.pipeline import Pipeline
from vqdiff.serving.api import create_app
from vqdiff.serving.connections import ConnectionLimits, config_of
from vqdiff.serving.engine import Engine
from vqdiff.serving.hosts import AllowedHosts
from vqdiff.serving.limits import Limits

TOKEN = "secret"
"""What `head` sends, to servers that require a token and to others."""


@contextmanager
def serving(
    *pipes: Pipeline,
    limits: Limits | None = None,
    token: str | None = None,
    max_rows: int = 8,
    max_waiting: int = 64,
    page: bool = False,
    reader_timeout: float = 120.0,
    connections: ConnectionLimits | None = None,
    allowed_hosts: Sequence[str] = (),
    received: Callable[[bytes], object] | None = None,
) -> Iterator[tuple[str, Engine]]:
    """A server in a thread of this process, with models called toy0, toy1 …: its address, and its engine.

    reader_timeout: longer than the server's own, as the machine may be slow. received: called with all that is read.
    """
    engine = Engine(max_rows=max_rows, max_waiting=max_waiting)
    models = {f"toy{i}": pipe for i, pipe in enumerate(pipes)}
    hosts = AllowedHosts(allowed_hosts)
    app = create_app(models, engine, limits, token, page=page, reader_timeout=reader_timeout, allowed_hosts=hosts)
    config = config_of(app, connections or ConnectionLimits(), stop_timeout=5)
    if received is not None:
        config.http = _noting(config.http, received)
    with running(config) as (address, _):
        yield address, engine


def _noting(protocol: Any, received: Callable[[bytes], object]) -> Any:
    class Noting(protocol):
        def data_received(self, data: bytes) -> None:
            received(data)
            super().data_received(data)

    return Noting


@contextmanager
def running(config: uvicorn.Config) -> Iterator[tuple[str, uvicorn.Server]]:
    """A server in a thread of this process: its address, and the server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_for(lambda: server.started)
        yield address, server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def connect(address: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection to a server, from an address of this machine."""
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0))


def head(path: str, *more: str, method: str = "POST", token: str = TOKEN) -> bytes:
    """The header of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *more, "", ""]
    return "\r\n".join(lines).encode()


def post(address: str, path: str = "/api/draw", *, keep: int | None = None, **content: Any) -> socket.socket:
    """A connection on which a request was sent, or the first ``keep`` bytes of its body, and nothing was read.

    content: as httpx takes it.
    """
    request = httpx.Request("POST", address + path, **content)
    fields = [f"{name}: {value}" for name, value in request.headers.items() if name != "host"]
    sock = connect(address)
    sock.sendall(head(path, *fields) + request.read()[:keep])
    return sock


def page_config(http: httpx.Client) -> dict[str, Any]:
    """What the page's own script knows of its parts and events."""
    found = re.search(r"window\.gradio_config = (\{.*?\});</script>", http.get("/").text)
    assert found is not None
    return json.loads(found[1])


def page_job(http: httpx.Client, **values: Any) -> dict[str, Any]:
    """What the page sends to draw, with these values of the fields of these labels."""
    config = page_config(http)
    fields = {one["id"]: one["props"] for one in config["components"]}
    run = next(one for one in config["dependencies"] if len(one["outputs"]) == 2 and len(one["inputs"]) > 8)
    values = {fields[one].get("label"): fields[one].get("value") for one in run["inputs"]} | values
    return {"data": list(values.values()), "fn_index": run["id"]}


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


def soon(condition: Callable[[], bool], http: httpx.Client) -> bool:
    """Whether it holds within two seconds, or, where the machine is slow, forty answers of the server."""
    for _ in range(40):
        if condition():
            return True
        time.sleep(0.05)
        http.get("/healthz")
    return condition()


def client(address: str) -> httpx.Client:
    """A client that has patience."""
    return httpx.Client(base_url=address, timeout=60)


def openai_client(address: str) -> openai.OpenAI:
    """OpenAI's client, which tries once."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
