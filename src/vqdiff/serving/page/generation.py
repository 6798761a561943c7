"""Drawing for the page: requests of the API's own kind, and their pictures as they come."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from vqdiff.foundation.errors import InputError
from vqdiff.pipeline import Pipeline
from vqdiff.sampling import Trace
from vqdiff.serving.running_batch import View
from vqdiff.serving.schemas import ImageRequest
from vqdiff.serving.service import Service, Submitted, patience_of

_PULSE = 1.0
"""Seconds after which a request that waits is heard of again: who has gone meanwhile is noticed then."""

_MOST_STEPS = 64
"""Steps of which a story is made: each is a picture to decode."""


@dataclass(frozen=True)
class Panel:
    """A picture of a drawing, on its way or finished (``file``, a PNG in base64); ``image`` is a data URL."""

    drawing: ImageRequest
    seed: int
    image: str | None = None
    step: int = 0
    steps: int = 0
    file: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far drawings are: steps × pictures taken and in all, requests that wait, and each drawing's pictures."""

    done: int
    total: int
    waiting: int
    cells: Sequence[Sequence[Panel]]
    pipe: Pipeline
    story: Any = None
    """What was made of the steps of the first picture, at the end."""
    remarks: Sequence[str] = ()
    """What there is to say about the prompts, at the end."""

    @property
    def complete(self) -> bool:
        """Whether all is drawn."""
        return all(cell.file for row in self.cells for cell in row)


def data_url(image: Image.Image, kind: str = "webp") -> str:
    """A picture inside an address, small: WebP loses a little."""
    file = io.BytesIO()
    image.save(file, format=kind, quality=80, method=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


async def draw(
    service: Service,
    drawings: Sequence[ImageRequest],
    *,
    client: str,
    story: Callable[[Pipeline, Sequence[Trace]], Any] | None = None,
) -> AsyncGenerator[Progress]:
    """Have all drawings drawn together; yields at every step and preview, at least once a second, and at the end.

    client: whom the rows are counted for. story: what to make of the steps of the first picture. Raises what
    `Service.order` does.
    """
    async with AsyncExitStack() as stack:
        patience = await stack.enter_async_context(patience_of(None, service.limits.timeout, client))
        changed, orders = asyncio.Event(), list[Submitted]()
        for one in drawings:
            order = service.order(one, patience, previews=True, trace=story is not None, changed=changed)
            orders.append(await stack.enter_async_context(order))
        first, shown = orders[0].ticket, dict[int, str]()
        if story is not None and first.steps[0] > _MOST_STEPS:
            raise InputError(f"this takes {first.steps[0]} steps, at most {_MOST_STEPS} can be shown: take fewer")

        def progress() -> Progress:
            done, total = (sum(counts) for counts in zip(*(one.ticket.progress for one in orders), strict=True))
            cells = [_cells(order, one, shown) for order, one in zip(orders, drawings, strict=True)]
            return Progress(done, total, service.engine.waiting, cells, first.pipe)

        while not all(order.ticket.done() for order in orders):
            yield progress()
            await patience(_within(changed, _PULSE))
            changed.clear()
        cells, remarks = list[list[Panel]](), dict[str, None]()
        for order, one in zip(orders, drawings, strict=True):
            pictures = await service.finish(order, patience)
            remarks |= dict.fromkeys(pictures[0].warnings)
            cells.append([_finished(one, picture.seed, picture.file) for picture in pictures])
        told = None
        if story is not None and first.traces is not None:
            told = await service.compute(partial(story, first.pipe, first.traces[0]), patience)
        total = sum(order.ticket.progress[1] for order in orders)
        yield Progress(total, total, 0, cells, first.pipe, told, list(remarks))


async def _within(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass


def _cells(order: Submitted, drawing: ImageRequest, shown: dict[int, str]) -> list[Panel]:
    views = order.ticket.views
    return [
        Panel(drawing, order.seed + i, _shown(views.get(i), shown), views[i].step if i in views else 0, steps)
        for i, steps in enumerate(order.ticket.steps)
    ]


def _shown(view: View | None, shown: dict[int, str]) -> str | None:
    if view is None:
        return None
    if view.number not in shown:
        shown[view.number] = data_url(view.image)
    return shown[view.number]


def _finished(drawing: ImageRequest, seed: int, file: str) -> Panel:
    return Panel(drawing, seed, f"data:image/png;base64,{file}", file=file)
