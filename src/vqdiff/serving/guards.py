"""ASGI middleware: who may ask, how much and how slowly may be sent and taken."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.errors import failure_of
from vqdiff.serving.limits import Limits

OPEN = ("/healthz", "/readyz")
"""Paths that need no token."""
_CHALLENGES = ("Bearer", 'Basic realm="vqdiff: any name, the token as the password", charset="UTF-8"')
_FOREIGN = (b"cross-site", b"same-site")


class Guards:
    """Checks the token, counts and times the body as it comes, and hangs up on who doesn't take the answer.

    The token comes as a bearer token, or, from a browser, as the password of HTTP basic authentication. What a page of
    another site has a browser send is refused: the browser would send the password along.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, token: str | None) -> None:
        self.app, self.limits, self.token = app, limits, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            error = HTTPException(401, "give the token: Authorization: Bearer …")
            return await _refuse(error, scope, receive, send)
        if scope["method"] not in ("GET", "HEAD") and _from_elsewhere(headers):
            error = HTTPException(403, "requests made by pages of other sites are refused")
            return await _refuse(error, scope, receive, send)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.max_body:
            return await _refuse(self._too_large(), scope, receive, send)
        body = _Body(receive, self.limits, self._too_large)
        return await self.app(scope, body.receive, self._hurried(send))

    def _may_enter(self, path: str, header: bytes) -> bool:
        if self.token is None or path in OPEN:
            return True
        kind, _, given = header.partition(b" ")
        if kind.lower() == b"basic":
            given = _password(given)
        return secrets.compare_digest(given.strip(), self.token.encode()) and kind.lower() in (b"bearer", b"basic")

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self.limits.max_body} bytes")

    def _hurried(self, send: Send) -> Send:
        async def hurried(message: Message) -> None:
            async with asyncio.timeout(self.limits.timeout):
                await send(message)

        return hurried


def _from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site had a browser send this.

    Over plain http browsers do not say so outright, other than to this machine itself; but they name the page's origin.
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in _FOREIGN
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


class _Body:
    """The body of a request, which ends in time and within its limit or in an HTTPException."""

    def __init__(self, receive: Receive, limits: Limits, too_large: Any) -> None:
        self._receive, self._limits, self._too_large = receive, limits, too_large
        self._size, self._complete = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.timeout

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the request did not arrive in time") from None
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._limits.max_body:
            raise self._too_large()
        return message


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def _refuse(error: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    status, failure, headers = failure_of(error)
    response = JSONResponse(failure.model_dump(), status, headers | {"Connection": "close"})
    if status == 401:
        for challenge in _CHALLENGES:  # a header each: browsers read no lists of them
            response.headers.append("WWW-Authenticate", challenge)
    await response(scope, receive, send)
