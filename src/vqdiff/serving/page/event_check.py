"""Between the page's clients and Gradio: rejects invalid events, and converts errors to the API's format."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs

import gradio as gr
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqdiff.serving.bodies import again, read
from vqdiff.serving.errors import answer_of

logger = logging.getLogger(__name__)

_TAKEN = ("data", "event_data", "fn_index", "session_hash", "trigger_id")
"""The fields that the page sends with an event."""


class EventCheck:
    """ASGI middleware around the page: an event must be one of the page's own, with as many values as it takes."""

    def __init__(self, app: ASGIApp, *, blocks: gr.Blocks) -> None:
        self.app, self.blocks = app, blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _CheckedResponse(send)
        try:
            if scope["path"] == "/gradio_api/queue/join":
                receive = await self._checked(receive)
            elif scope["path"] == "/gradio_api/queue/data":
                self._check_session(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0])
            await self.app(scope, receive, answer.send)
        except HTTPException as error:
            answer.error = error
        except Exception as error:
            if answer.begun and isinstance(error, OSError):
                raise  # the client has not received it
            logger.error("the page failed", exc_info=error)
            answer.error = HTTPException(500, "the page failed: see the server's log")
        await answer.end(scope, receive)

    async def _checked(self, receive: Receive) -> Receive:
        """Check a request, and return it with only the fields that the page sends."""
        event = json.loads(await read(receive))
        if not isinstance(event, dict):
            raise HTTPException(400, "the request is not a JSON object")
        values, number, trigger = (event.get(name) for name in ("data", "fn_index", "trigger_id"))
        function = self.blocks.fns.get(number) if type(number) is int else None
        if function is None or function.fn is None:
            raise HTTPException(404, f"the page has no event with the number {number!r:.40}")
        if not isinstance(values, list) or len(values) != len(function.inputs):
            raise HTTPException(400, f"data is wrong: this event takes a list of {len(function.inputs)} values")
        if trigger is not None and (type(trigger) is not int or trigger not in self.blocks.blocks):
            raise HTTPException(404, f"the page has no component with the number {trigger!r:.40}")
        name = event.get("session_hash")
        if not isinstance(name, str) or not name.isascii():
            raise HTTPException(400, "session_hash is wrong: it must be ASCII text")
        return again(json.dumps({one: event[one] for one in _TAKEN if one in event}).encode(), receive)

    def _check_session(self, name: str) -> None:
        if name not in self.blocks._queue.pending_messages_per_session:
            raise HTTPException(404, "this session has no events")


class _CheckedResponse:
    """Pass a response on, or, if it is an error, hold it back until `end` has converted it."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun, self._ended = send, False, False
        self._status, self._body = 0, b""
        self.error: HTTPException | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._status = message["status"]
        elif self._status:
            self._body += message.get("body", b"")
        else:
            self.begun = True
            self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Send the response that was held back; one that has begun can only end."""
        if self._ended or not (self._status or self.error):
            return
        if self.begun:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await answer_of(self.error or self._held())(scope, receive, self._send)

    def _held(self) -> Exception:
        """Return the error in the response that was held back."""
        detail: object = HTTPStatus(self._status).phrase
        with suppress(ValueError, TypeError, KeyError):
            detail = json.loads(self._body)["detail"]
        if isinstance(detail, list) and detail and self._status == 422:
            return RequestValidationError(detail)
        return HTTPException(self._status, str(detail))
