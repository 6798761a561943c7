"""Forwarding from the address of a cluster to its replicas, with a retry if one of them dies."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.bodies import again, read
from vqdiff.serving.errors import answer_of, failure_of

_PASSED = ("type", "asgi", "http_version", "server", "client", "scheme", "method", "root_path", "path", "raw_path")
_PASSED += ("query_string", "headers")
_SEED = re.compile(rb'name="?seed"?\r\n(?:[^\r\n]+\r\n)*\r\n\d')
_LOST = HTTPException(503, "the replica that processed this request has died: try again", {"Retry-After": "1"})


async def answered_by(app: ASGIApp, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message]:
    """Yield the messages of the response of ``app``; closing the generator disconnects."""
    messages, gone = asyncio.Queue[Message | None](), asyncio.Event()

    async def end() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    task = asyncio.ensure_future(app(scope, again(body, end), messages.put))
    task.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            yield message
        await task
    finally:
        gone.set()


class Forward:
    """An ASGI application that forwards requests to replicas.

    handle: a handle of a Ray Serve deployment with a method ``answer``, as `answered_by` without its first argument.
    lost: the errors that mean that a replica has died. A request that is repeatable, because it generates nothing or
    has a seed, is then repeated once by another replica; otherwise the response, or a stream's last event, is an error.
    """

    def __init__(self, handle: Any, lost: tuple[type[Exception], ...]) -> None:
        self._handle, self._lost = handle, lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _live(receive, send)
        answer = _Response(send)
        try:
            body = await read(receive)
            sent = asyncio.ensure_future(self._send({one: scope[one] for one in _PASSED if one in scope}, body, answer))
            gone = asyncio.ensure_future(_until_gone(receive))
            try:
                await asyncio.wait({sent, gone}, return_when=asyncio.FIRST_COMPLETED)
                if sent.done():
                    await sent
            finally:
                for task in (sent, gone):
                    task.cancel()
                await asyncio.wait({sent, gone})
        except Exception as error:
            await answer.fail(error, scope, receive)

    async def _send(self, scope: dict[str, Any], body: bytes, answer: _Response) -> None:
        for once_more in (_repeatable(scope, body), False):
            response = self._handle.options(method_name="answer", stream=True).remote(scope, body)
            try:
                async for message in response:
                    await answer.send(message)
                return
            except self._lost as error:
                if not (once_more and answer.can_begin_again):
                    raise _LOST from error
            finally:
                response.cancel()


class _Response:
    """A response that is being sent to a client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = self._events = self._refused = False
        """refused: the client has not received it."""

    @property
    def can_begin_again(self) -> bool:
        """Whether another response may follow: nothing has been sent, or it is a stream of events."""
        return self._events or not self._begun

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._begun:
                return
            self._begun = True
            self._events = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        try:
            await self._send(message)
        except Exception:
            self._refused = True
            raise

    async def fail(self, error: Exception, scope: Scope, receive: Receive) -> None:
        """Send an error as a response or an event, whichever is still possible, unless the client is gone."""
        if self._refused:
            raise error
        if not self._begun:
            await answer_of(error)(scope, receive, self._send)
        elif self._events:
            event = f"event: error\ndata: {failure_of(error)[1].model_dump_json()}\n\n".encode()
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            raise error


def _repeatable(scope: Scope, body: bytes) -> bool:
    if scope["method"] != "POST":
        return True
    with suppress(ValueError, RecursionError):
        fields = json.loads(body)
        return isinstance(fields, dict) and fields.get("seed") is not None
    return _SEED.search(body) is not None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
