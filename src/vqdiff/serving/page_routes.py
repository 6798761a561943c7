"""The routes of Gradio that can be reached: those that the page needs, and none that reads or writes a file."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from fastapi import HTTPException
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vqdiff.serving.addresses import network_of
from vqdiff.serving.bodies import again, read
from vqdiff.serving.errors import answer_of

_DATA, _JOIN = "/gradio_api/queue/data", "/gradio_api/queue/join"
_READ = ("/", "/theme.css", "/favicon.ico", _DATA)
_STATIC = ("/assets/", "/static/")
_SEND = (_JOIN, "/gradio_api/cancel", "/gradio_api/reset")
_HEARTBEAT = "/gradio_api/heartbeat/"
_READER = "vqdiff.reader"
READER_TIMEOUT = 10.0
"""Seconds that a job waits for its reader."""


class Reader:
    """Whether a client reads the events of the jobs of a session; ``timeout``: the seconds that jobs wait for it."""

    def __init__(self, timeout: float = READER_TIMEOUT) -> None:
        self.timeout = timeout
        self._count, self._here = 0, asyncio.Event()

    def __enter__(self) -> None:
        self._count += 1
        self._here.set()

    def __exit__(self, *error: object) -> None:
        self._count -= 1
        if not self._count:
            self._here.clear()

    @property
    def here(self) -> bool:
        """Whether there is a reader now."""
        return self._here.is_set()

    async def comes(self) -> bool:
        """Wait for a reader; return whether one has come in time."""
        try:
            async with asyncio.timeout(self.timeout):
                return await self._here.wait()
        except TimeoutError:
            return False


def reader_of(request: Any) -> Reader:
    """Return the reader of the session of a job that `PageRoutes` has let through; ``request`` is Gradio's."""
    return request.request.scope[_READER]


def client_of(request: Any) -> str:
    """Return the client that a job's rows count for; ``request`` is Gradio's."""
    return network_of(request.request.client)


class PageRoutes:
    """Pass a request to the page if it is one of the few that the page makes, and answer 404 to all others.

    Gradio also has routes that upload and download files, fetch URLs and restore a state by name: none of them can be
    reached. Data sent to the page must not contain a ``path``, from which Gradio would read a file. A job can check
    whether it has a reader (`reader_of`): Gradio notices readers that leave, but not those that never come.
    """

    def __init__(self, page: ASGIApp, reader_timeout: float = READER_TIMEOUT) -> None:
        self.page, self.reader_timeout = page, reader_timeout
        self._readers = WeakValueDictionary[str, Reader]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except (HTTPException, RecursionError, ValueError) as error:
            if not isinstance(error, HTTPException):
                error = HTTPException(400, "the request is not valid JSON")
            answer = answer_of(error)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        if scope["type"] != "http":
            raise HTTPException(404, "there is nothing here")
        method, path = scope["method"], scope["path"]
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"origin"]  # no CORS
        if method in ("GET", "HEAD") and (path in _READ or path.startswith(_STATIC)):
            if path == "/":
                scope["query_string"] = b""  # it could name a state
            names = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
            with self._reader(names[0]) if path == _DATA else nullcontext():
                await self.page(scope, receive, send)
            return None
        if method == "GET" and path.startswith(_HEARTBEAT):
            return Response(status_code=204)  # an endless stream would keep the server from stopping
        if method != "POST" or path not in _SEND:
            raise HTTPException(404, f"there is nothing at {path}")
        body = await read(receive)
        data = json.loads(body)
        if _has_path(data):
            raise HTTPException(400, "the page sends no files")
        name = data.get("session_hash") if isinstance(data, dict) else None
        await self.page({**scope, _READER: self._reader(name)}, again(body, receive), send)
        return None

    def _reader(self, session: object) -> Reader:
        return self._readers.setdefault(str(session), Reader(self.reader_timeout))


def _has_path(data: object) -> bool:
    if isinstance(data, dict):
        return "path" in data or any(_has_path(one) for one in data.values())
    return isinstance(data, list) and any(_has_path(one) for one in data)
