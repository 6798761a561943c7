"""What of Gradio's own routes can be reached: those that the page needs, and none that reads or writes a file."""

from __future__ import annotations

import json
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.errors import failure_of

_READ = ("/", "/theme.css", "/favicon.ico", "/gradio_api/queue/data")
_STATIC = ("/assets/", "/static/")
_SEND = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
_HEARTBEAT = "/gradio_api/heartbeat/"


class Gate:
    """Lets a request through to the page if it is one of the few that the page makes, and answers 404 to all others.

    Gradio also has routes to upload and fetch files, to fetch addresses and to restore a state by name: none of them
    is let through. What is sent to the page must have no ``path`` in it, from which Gradio would read a file.
    """

    def __init__(self, page: ASGIApp) -> None:
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive, send)
        except (HTTPException, RecursionError, ValueError) as error:
            if not isinstance(error, HTTPException):
                error = HTTPException(400, "the request is no JSON that can be read")
            status, failure, headers = failure_of(error)
            answer = JSONResponse(failure.model_dump(), status, headers)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        if scope["type"] != "http":
            raise HTTPException(404, "nothing is here")
        method, path = scope["method"], scope["path"]
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"origin"]  # no CORS
        if method in ("GET", "HEAD") and (path in _READ or path.startswith(_STATIC)):
            if path == "/":
                scope["query_string"] = b""  # which could name a state
            await self.page(scope, receive, send)
            return None
        if method == "GET" and path.startswith(_HEARTBEAT):
            return Response(status_code=204)  # a stream without end would keep the server from stopping
        if method != "POST" or path not in _SEND:
            raise HTTPException(404, f"nothing is at {path}")
        body = await _read(receive)
        if _has_path(json.loads(body)):
            raise HTTPException(400, "the page sends no files")
        await self.page(scope, _again(body, receive), send)
        return None


async def _read(receive: Receive) -> bytes:
    parts = list[bytes]()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request is not complete")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _has_path(data: Any) -> bool:
    if isinstance(data, dict):
        return "path" in data or any(_has_path(one) for one in data.values())
    return isinstance(data, list) and any(_has_path(one) for one in data)
