"""The endpoints of AUTOMATIC1111's Stable Diffusion web UI that its clients call."""

from __future__ import annotations

import base64
import io
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from PIL import Image

from vqdiff.sampling import samplers
from vqdiff.serving.engine import StoppedError
from vqdiff.serving.routes import FAILURES, Served
from vqdiff.serving.running_batch import Ticket
from vqdiff.serving.service import ClientWait, Service, Submitted, client_wait
from vqdiff.serving.webui_schemas import (
    ImageToImage,
    Overrides,
    ProgressResponse,
    ProgressState,
    TextToImage,
    WebUIImages,
    named_as_here,
)

_MOST_CLIENTS = 1024
"""The most clients whose choice of a model is remembered."""

webui = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111-compatible"], responses=FAILURES)


@dataclass(eq=False)
class Run:
    """A request in progress."""

    submitted: Submitted
    begun: float = field(default_factory=time.monotonic)
    interrupted: bool = False

    @property
    def ticket(self) -> Ticket:
        """Its ticket in the engine."""
        return self.submitted.ticket


class Clients:
    """What each client, identified by its address, has in progress, and the model it has chosen."""

    def __init__(self) -> None:
        self._runs = dict[str, list[Run]]()
        self._chosen = OrderedDict[str, str]()

    @contextmanager
    def running(self, client: str, submitted: Submitted) -> Iterator[Run]:
        """Note a request of a client for the length of the block."""
        run = Run(submitted)
        self._runs.setdefault(client, []).append(run)
        try:
            yield run
        finally:
            self._runs[client].remove(run)
            if not self._runs[client]:
                del self._runs[client]

    def runs(self, client: str) -> list[Run]:
        """Return the requests of a client that are in progress, oldest first."""
        return self._runs.get(client, [])

    def choose(self, client: str, model: str) -> None:
        """Remember the model that a client has chosen."""
        self._chosen[client] = model
        self._chosen.move_to_end(client)
        if len(self._chosen) > _MOST_CLIENTS:
            self._chosen.popitem(last=False)

    def chosen(self, client: str) -> str | None:
        """Return the model that a client has chosen."""
        return self._chosen.get(client)


def _clients(request: Request) -> Clients:
    return request.app.state.webui


def _client(request: Request) -> str:
    return request.client.host if request.client else ""  # of a Unix socket


Known = Annotated[Clients, Depends(_clients)]
Client = Annotated[str, Depends(_client)]


@webui.post("/txt2img")
async def txt2img(body: TextToImage, request: Request, service: Served, known: Known, client: Client) -> WebUIImages:
    """Generate images from a prompt."""
    return await _generate(body, request, service, known, client)


@webui.post("/img2img")
async def img2img(body: ImageToImage, request: Request, service: Served, known: Known, client: Client) -> WebUIImages:
    """Resample a part of an image, or vary it."""
    return await _generate(body, request, service, known, client)


async def _generate(body: TextToImage, request: Request, service: Service, known: Clients, client: str) -> WebUIImages:
    with named_as_here():
        drawing = body.drawing(service.limits, known.chosen(client))
        async with (
            client_wait(request, service.limits.timeout) as wait,
            service.submit(drawing, wait) as submitted,
        ):
            with known.running(client, submitted) as run:
                try:
                    finished = await service.finish(submitted, wait)
                except StoppedError:
                    if not run.interrupted:
                        raise
                    finished = await service.compute(submitted.finish, wait)  # those that were finished by then
            return body.answer(drawing, finished)


@webui.post("/interrupt")
async def interrupt(known: Known, client: Client) -> None:
    """End the client's requests in progress: they are answered with the images that are finished."""
    for run in known.runs(client):
        run.interrupted = True
        run.ticket.cancel()


@webui.get("/progress")
async def progress(
    request: Request, service: Served, known: Known, client: Client, skip_current_image: bool = False
) -> ProgressResponse:
    """Report the progress of the client's requests, by default with the current state of the oldest one's image."""
    runs = known.runs(client)
    if not runs:
        return ProgressResponse()
    done, total = (sum(counts) for counts in zip(*(run.ticket.progress for run in runs), strict=True))
    first, elapsed = runs[0].ticket, time.monotonic() - runs[0].begun
    own_done, own_total = first.progress
    state = ProgressState(
        job=_kind(runs[0]), job_count=len(runs), interrupted=runs[0].interrupted,
        sampling_step=first.steps[0] * own_done // max(1, own_total), sampling_steps=first.steps[0],
    )  # fmt: skip
    current = None
    if client and not skip_current_image:  # without an address, it may be another client's
        first.wants_previews = True  # from now on, as they take time
        async with client_wait(request, service.limits.timeout) as wait:
            current = await _current_image(first, service, wait)
    left = elapsed * (total - done) / done if done else 0.0
    return ProgressResponse(progress=done / total, eta_relative=left, state=state, current_image=current)


def _kind(run: Run) -> str:
    """Return the kind of a request, as the web UI calls it."""
    return "txt2img" if run.ticket.job.canvas is None else "img2img"


async def _current_image(ticket: Ticket, service: Service, wait: ClientWait) -> str | None:
    if not ticket.previews:
        return None
    image = max(ticket.previews.copy().values(), key=lambda one: one.number).image
    return await service.compute(lambda: _png(image), wait)


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


@webui.get("/options")
async def options(service: Served, known: Known, client: Client) -> dict[str, Any]:
    """Return the client's options: its model, and the format of the files."""
    name, pipe = service.pipe(known.chosen(client))
    return {"sd_model_checkpoint": name, "sd_checkpoint_hash": pipe.model.fingerprint, "samples_format": "png"}


@webui.post("/options")
async def set_options(changes: Overrides, service: Served, known: Known, client: Client) -> None:
    """Choose the model of the client's next requests; all other options are ignored."""
    if changes.sd_model_checkpoint is not None:
        known.choose(client, service.pipe(changes.sd_model_checkpoint)[0])


@webui.get("/sd-models")
async def sd_models(service: Served) -> list[dict[str, Any]]:
    """List the models."""
    return [
        {"title": name, "model_name": name, "hash": pipe.model.fingerprint, "filename": name}
        | {"sha256": None, "config": None}
        for name, pipe in service.pipes.items()
    ]


@webui.get("/samplers")
async def list_samplers() -> list[dict[str, Any]]:
    """List the samplers."""
    return [{"name": name, "aliases": [], "options": {"description": one}} for name, one in samplers().items()]


def _answering(value: Any) -> Any:
    async def answer() -> Any:
        return value

    return answer


_SCHEDULER = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
_UPSCALER = {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}
_FIXED: dict[str, Any] = {
    "cmd-flags": {},
    "embeddings": {"loaded": {}, "skipped": {}},
    "face-restorers": [],
    "hypernetworks": [],
    "latent-upscale-modes": [],
    "loras": [],
    "prompt-styles": [],
    "schedulers": [_SCHEDULER],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "sd-vae": [],
    "upscalers": [_UPSCALER],
}
"""What clients request when they start, and this server does not have."""
for _name, _value in _FIXED.items():
    webui.add_api_route(f"/{_name}", _answering(_value), name=_name, summary="What this server does not have.")
