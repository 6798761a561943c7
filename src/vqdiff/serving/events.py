"""Server-sent events: the progress and previews of a request, and its images or its error."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from fastapi import Request

from vqdiff.serving.errors import failure_of
from vqdiff.serving.openai_schemas import OpenAIBody, Usage
from vqdiff.serving.running_batch import EnginePreview, Ticket
from vqdiff.serving.schemas import Finished, ImageRequest, RequestBody
from vqdiff.serving.service import ClientGoneError, Service, Submitted, client_wait


class EventFormat(Protocol):
    """The events of a request."""

    previews: bool
    """Whether the engine makes previews."""

    def new_events(self, ticket: Ticket) -> list[bytes]:
        """Return the events since the last call; this may take a while, and runs in a thread."""
        ...

    def finished(self, submitted: Submitted, images: Sequence[Finished]) -> list[bytes]:
        """Return the last events."""
        ...


class NativeEvents:
    """The events of the native endpoint: progress, preview and done."""

    def __init__(self, options: ImageRequest) -> None:
        self.options, self.previews = options, options.previews
        self._reported, self._shown = -1, dict[int, int]()

    def new_events(self, ticket: Ticket) -> list[bytes]:
        new, (done, total) = list[bytes](), ticket.progress
        if done != self._reported:
            self._reported = done
            new.append(_event("progress", {"done": done, "total": total}))
        for index, preview in sorted(ticket.previews.items()):
            if self._shown.get(index) != preview.number:
                self._shown[index] = preview.number
                new.append(_preview(index, preview))
        return new

    def finished(self, submitted: Submitted, images: Sequence[Finished]) -> list[bytes]:
        return [_event("done", self.options.answer(submitted.model, images).model_dump())]


class ImageEvents:
    """The events of OpenAI's endpoints: ``kind``.partial_image, and ``kind``.completed for each image.

    Partial images come at equal intervals; an image that is generated faster than it is previewed has fewer.
    """

    def __init__(self, kind: str, options: OpenAIBody) -> None:
        self.kind, self.options, self.previews = kind, options, options.partial_images > 0
        self._begun, self._shown = False, dict[int, int]()

    def new_events(self, ticket: Ticket) -> list[bytes]:
        # First a comment, which clients skip: the request is accepted, and the response may take long.
        new, wanted = [] if self._begun else [b": generating\n\n"], self.options.partial_images
        self._begun = True
        for index, preview in sorted(ticket.previews.items()):
            shown = self._shown.get(index, 0)
            if shown < wanted and preview.step * (wanted + 1) >= preview.steps * (shown + 1):
                self._shown[index] = shown + 1
                image = ticket.job.finish(preview.image)
                content = self.options.encoding.encode(image, {"step": preview.step, "steps": preview.steps})
                file = base64.b64encode(content).decode()
                more = {"partial_image_index": shown, "index": index}
                new.append(self._image_event("partial_image", file, image.size, more))
        return new

    def finished(self, submitted: Submitted, images: Sequence[Finished]) -> list[bytes]:
        last = list[bytes]()
        for one in images:
            more = {"seed": one.seed, "usage": Usage.of(one).model_dump(), "warnings": one.warnings}
            last.append(self._image_event("completed", one.file, one.size, more))
        return last

    def _image_event(self, name: str, file: str, size: tuple[int, int], more: dict[str, Any]) -> bytes:
        kind, (width, height) = f"{self.kind}.{name}", size
        data = {"type": kind, "created_at": int(time.time()), "b64_json": file, "size": f"{width}x{height}"}
        data |= {"output_format": self.options.output_format, "background": "opaque", "quality": "auto"}
        return _event(kind, data | more)


async def first_and_rest(events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Wait for the first event, so that an immediate error is a status and not an event; return all events."""
    first = await anext(events)

    async def both() -> AsyncIterator[bytes]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return both()


async def events(
    service: Service, options: RequestBody, request: Request, event_format: EventFormat
) -> AsyncGenerator[bytes]:
    """Yield events until the images are done; a client that reads slowly misses some and delays no others."""
    begun = False
    try:
        async with (
            client_wait(request, service.limits.timeout) as wait,
            service.submit(options, wait, previews=event_format.previews) as submitted,
        ):
            while True:
                ended = submitted.ticket.done()  # read before the progress, so that the last progress is reported too
                for event in await service.compute(partial(event_format.new_events, submitted.ticket), wait):
                    begun = True
                    yield event
                if ended:
                    break
                await wait(submitted.changed.wait())
                submitted.changed.clear()
            for event in event_format.finished(submitted, await service.finish(submitted, wait)):
                begun = True
                yield event
    except ClientGoneError:
        if not begun:
            raise
    except Exception as error:
        if not begun:
            raise
        yield _event("error", failure_of(error)[1].model_dump())


def _preview(index: int, preview: EnginePreview) -> bytes:
    file = io.BytesIO()
    preview.image.save(file, format="PNG", compress_level=1)
    content = base64.b64encode(file.getvalue()).decode()
    return _event("preview", {"index": index, "step": preview.step, "steps": preview.steps, "b64_json": content})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
