"""Generation for the page: requests as in the API, and their images as they progress."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from PIL import Image

from vqdiff.foundation.errors import InputError
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import Trace
from vqdiff.serving.running_batch import EnginePreview
from vqdiff.serving.schemas import ImageRequest
from vqdiff.serving.service import Service, Submitted, client_wait

_PULSE = 1.0
"""Seconds between reports of a waiting request, at which disconnected clients are noticed."""

_MOST_STEPS = 64
"""The most steps of a trace to show, as each is an image to decode."""


@dataclass(frozen=True)
class Panel:
    """An image of a request, in progress or finished (``file``, a PNG in base64); ``image`` is a data URL."""

    drawing: ImageRequest
    seed: int
    image: str | None = None
    step: int = 0
    steps: int = 0
    file: str | None = None


@dataclass(frozen=True)
class Progress:
    """The progress of requests: steps × images done and in total, waiting requests, and the images of each."""

    done: int
    total: int
    waiting: int
    cells: Sequence[Sequence[Panel]]
    pipe: Pipeline
    trace: object = None
    """At the end, what was made of the steps of the first image."""
    remarks: Sequence[str] = ()
    """At the end, remarks about the prompts."""

    @property
    def complete(self) -> bool:
        """Whether all images are finished."""
        return all(cell.file for row in self.cells for cell in row)


def data_url(image: Image.Image, kind: str = "webp") -> str:
    """Encode an image as a small data URL, by default a lossy WebP."""
    file = io.BytesIO()
    image.save(file, format=kind, quality=80, method=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


async def draw(
    service: Service,
    drawings: Sequence[ImageRequest],
    *,
    client: str,
    trace: Callable[[Pipeline, Sequence[Trace]], object] | None = None,
) -> AsyncGenerator[Progress]:
    """Run all requests together; yield at every step and preview, at least once a second, and at the end.

    client: the client that the rows count for. trace: makes something of the steps of the first image. Raises what
    `Service.submit` raises.
    """
    async with AsyncExitStack() as stack:
        wait = await stack.enter_async_context(client_wait(None, service.limits.timeout, client))
        changed, requests = asyncio.Event(), list[Submitted]()
        for one in drawings:
            request = service.submit(one, wait, previews=True, trace=trace is not None, changed=changed)
            requests.append(await stack.enter_async_context(request))
        first, shown = requests[0].ticket, dict[int, str]()
        if trace is not None and first.steps[0] > _MOST_STEPS:
            raise InputError(f"this takes {first.steps[0]} steps, at most {_MOST_STEPS} can be shown: use fewer")

        def progress() -> Progress:
            done, total = (sum(counts) for counts in zip(*(one.ticket.progress for one in requests), strict=True))
            cells = [_cells(submitted, one, shown) for submitted, one in zip(requests, drawings, strict=True)]
            return Progress(done, total, service.engine.waiting, cells, first.pipe)

        while not all(submitted.ticket.done() for submitted in requests):
            yield progress()
            await wait(_within(changed, _PULSE))
            changed.clear()
        cells, remarks = list[list[Panel]](), dict[str, None]()
        for submitted, one in zip(requests, drawings, strict=True):
            images = await service.finish(submitted, wait)
            remarks |= dict.fromkeys(images[0].warnings)
            cells.append([_finished(one, image.seed, image.file) for image in images])
        made = None
        if trace is not None and first.traces is not None:
            made = await service.compute(partial(trace, first.pipe, first.traces[0]), wait)
        total = sum(submitted.ticket.progress[1] for submitted in requests)
        yield Progress(total, total, 0, cells, first.pipe, made, list(remarks))


async def _within(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass


def _cells(submitted: Submitted, drawing: ImageRequest, shown: dict[int, str]) -> list[Panel]:
    previews = submitted.ticket.previews
    return [
        Panel(
            drawing, submitted.seed + i, _shown(previews.get(i), shown), previews[i].step if i in previews else 0, steps
        )
        for i, steps in enumerate(submitted.ticket.steps)
    ]


def _shown(preview: EnginePreview | None, shown: dict[int, str]) -> str | None:
    if preview is None:
        return None
    if preview.number not in shown:
        shown[preview.number] = data_url(preview.image)
    return shown[preview.number]


def _finished(drawing: ImageRequest, seed: int, file: str) -> Panel:
    return Panel(drawing, seed, f"data:image/png;base64,{file}", file=file)
