"""Reading the whole body of a request, and replaying it for the next application."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import Message, Receive


async def read(receive: Receive) -> bytes:
    """Read the whole body; raises HTTPException if the client disconnects before its end."""
    parts = list[bytes]()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request is not complete")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that returns ``body``, and then the messages of ``receive``."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again
