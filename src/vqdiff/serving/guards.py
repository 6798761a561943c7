"""ASGI middleware: access control, and limits on the size and speed of requests and responses."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Mapping
from contextlib import nullcontext

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.connections import Connection, connection_of
from vqdiff.serving.errors import answer_of
from vqdiff.serving.hosts import AllowedHosts
from vqdiff.serving.limits import Limits

OPEN = ("/healthz", "/readyz")
"""Paths that need no token."""
_CROWDED = {"Retry-After": "5", "Connection": "close"}
_CHALLENGES = ("Bearer", 'Basic realm="vqdiff: any name, the token as the password", charset="UTF-8"')
_ALLOW = "use localhost or an address, or start it with --allowed-host"
_FOREIGN = (b"cross-site", b"same-site")


class Guards:
    """Check host and token, limit size and time of the body, and disconnect clients that do not read the response.

    The token is a bearer token or, from a browser, the password of HTTP basic authentication. Requests that a browser
    sends for a page of another site are rejected, since the browser would send the password too. If a response is sent
    before the request has been read to its end, the connection is then closed.
    """

    def __init__(
        self, app: ASGIApp, *, limits: Limits, token: str | None, allowed_hosts: AllowedHosts | None = None
    ) -> None:
        self.app, self.limits, self.token = app, limits, token
        self.allowed_hosts = allowed_hosts or AllowedHosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        connection = connection_of(scope)
        with nullcontext() if connection is None else connection.request():
            headers: dict[bytes, bytes] = dict(scope["headers"])
            body = _Body(receive, headers, self.limits, connection)
            try:
                self._check(scope, headers, connection)
            except HTTPException as error:
                await _refuse(error, scope, body.receive, self._guarded(send, body))
            else:
                await self.app(scope, body.receive, self._guarded(send, body))

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], connection: Connection | None) -> None:
        """Raise HTTPException for requests that can be rejected by their header."""
        if scope["path"] not in OPEN:
            if connection is not None and connection.crowded:
                raise HTTPException(503, "too many connections are open: try again", _CROWDED)
            host = headers.get(b"host")
            if host is not None and host.decode("latin-1") not in self.allowed_hosts:
                raise HTTPException(403, f"this server does not respond to this host name: {_ALLOW}")
            if not self._may_enter(headers.get(b"authorization", b"")):
                raise HTTPException(401, "the token is missing or wrong: send it as Authorization: Bearer …")
        if scope["method"] not in ("GET", "HEAD") and _from_elsewhere(headers):
            raise HTTPException(403, "requests from pages of other sites are rejected")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.max_body:
            raise _too_large(self.limits)

    def _may_enter(self, header: bytes) -> bool:
        if self.token is None:
            return True
        kind, _, given = header.partition(b" ")
        if kind.lower() == b"basic":
            given = _password(given)
        return secrets.compare_digest(given.strip(), self.token.encode()) and kind.lower() in (b"bearer", b"basic")

    def _guarded(self, send: Send, body: _Body) -> Send:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.complete:
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            async with asyncio.timeout(self.limits.timeout):
                await send(message)

        return guarded


def _from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser sent this for a page of another site.

    Over plain http, browsers send Sec-Fetch-Site only to localhost, but they send the page's origin.
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in _FOREIGN
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")


class _Body:
    """The body of a request; raises HTTPException if it is too large or too slow."""

    def __init__(
        self, receive: Receive, headers: Mapping[bytes, bytes], limits: Limits, connection: Connection | None
    ) -> None:
        self._receive, self._limits, self._connection = receive, limits, connection
        self._size, self.complete = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.timeout
        if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0":
            self._end()

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the request did not arrive in time") from None
        self._size += len(message.get("body", b""))
        if not message.get("more_body", False):
            self._end()
        if self._size > self._limits.max_body:
            raise _too_large(self._limits)
        return message

    def _end(self) -> None:
        self.complete = True
        if self._connection is not None:
            self._connection.note_complete()


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the request is larger than {limits.max_body} bytes")


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def _refuse(error: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    response = answer_of(error)
    if response.status_code == 401:
        for challenge in _CHALLENGES:  # one header each: browsers do not read lists
            response.headers.append("WWW-Authenticate", challenge)
    await response(scope, receive, send)
