"""Server-sent events: the progress and previews of a request, and its pictures or what went wrong."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import Request

from vqdiff.serving.errors import failure_of
from vqdiff.serving.lane import View
from vqdiff.serving.schemas import Drawing
from vqdiff.serving.service import ClientGoneError, Service, patience_of


async def first_and_rest(events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """The same events, the first having been waited for: what is wrong at once is a status, not an event."""
    first = await anext(events)

    async def both() -> AsyncIterator[bytes]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return both()


async def events(service: Service, options: Drawing, request: Request) -> AsyncGenerator[bytes]:
    """Events until the pictures are done. A client that reads slowly misses some, and keeps nobody waiting."""
    begun = False
    try:
        async with (
            patience_of(request, service.limits.timeout) as patience,
            service.order(options, patience, previews=options.previews) as order,
        ):
            begun, told, shown = True, None, dict[int, int]()
            while True:
                ended = order.ticket.done()  # before its progress is looked at: the last of it is told, too
                done, total = order.ticket.progress
                if done != told:
                    told = done
                    yield _event("progress", {"done": done, "total": total})
                for index, view in sorted(order.ticket.views.items()):
                    if shown.get(index) != view.number:
                        shown[index] = view.number
                        yield _preview(index, view)
                if ended:
                    break
                await patience(order.changed.wait())
                order.changed.clear()
            yield _event("done", (await service.answer(order, patience)).model_dump())
    except ClientGoneError:
        return
    except Exception as error:
        if not begun:
            raise
        yield _event("error", failure_of(error)[1].model_dump())


def _preview(index: int, view: View) -> bytes:
    file = io.BytesIO()
    view.image.save(file, format="PNG", compress_level=1)
    picture = base64.b64encode(file.getvalue()).decode()
    return _event("preview", {"index": index, "step": view.step, "steps": view.steps, "b64_json": picture})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
