"""The endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from vqdiff.sampling import samplers
from vqdiff.serving.events import ImageEvents, NativeEvents, events, first_and_rest
from vqdiff.serving.openai_schemas import Edit, Generation, Images, OpenAIBody
from vqdiff.serving.schemas import Failure, ImageRequest, ImageResponse, ModelCard, ModelList, models_in
from vqdiff.serving.service import Service


def _service(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(_service)]
FAILURES: dict[int | str, dict[str, Any]] = {"4XX": {"model": Failure}, "5XX": {"model": Failure}}
openai = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=FAILURES)
native = APIRouter(prefix="/api", tags=["native"], responses=FAILURES)
health = APIRouter(tags=["health"], responses=FAILURES)


_TEXT = {"type": "string"}
_EVENT = {"type": "object", "properties": {"event": _TEXT, "data": _TEXT}, "required": ["event", "data"]}
_EVENTS: dict[str, Any] = {"content": {"text/event-stream": {"schema": _EVENT}}}


@openai.post("/images/generations", response_model=Images, response_model_exclude_none=True, responses={200: _EVENTS})
async def generations(options: Generation, request: Request, service: Served) -> BaseModel | Response:
    """Generate images from a prompt."""
    return await _draw(service, options, request, ImageEvents("image_generation", options))


@openai.post("/images/edits", response_model=Images, response_model_exclude_none=True, responses={200: _EVENTS})
async def edits(
    options: Annotated[Edit, Form(media_type="multipart/form-data")], request: Request, service: Served
) -> BaseModel | Response:
    """Resample a part of an image."""
    return await _draw(service, options, request, ImageEvents("image_edit", options))


async def _draw(
    service: Service, options: ImageRequest | OpenAIBody, request: Request, event_format: NativeEvents | ImageEvents
) -> BaseModel | Response:
    if not options.stream:
        return await service.draw(options, request)
    stream = await first_and_rest(events(service, options, request, event_format))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@openai.get("/models")
async def models(service: Served) -> ModelList:
    """List the models."""
    return ModelList(data=[ModelCard(id=name) for name in service.pipes])


@openai.get("/models/{name:path}")
async def model(name: str, service: Served) -> ModelCard:
    """Return one model."""
    if not name:
        raise HTTPException(404, "no model is named: use /v1/models/NAME, or /v1/models")
    return ModelCard(id=service.pipe(name)[0])


@native.post("/draw", response_model=ImageResponse, responses={200: _EVENTS})
async def draw(options: ImageRequest, request: Request, service: Served) -> BaseModel | Response:
    """Generate, edit, vary or revise images, with all sampling options; optionally respond with events."""
    return await _draw(service, options, request, NativeEvents(options))


@native.get("/models")
async def native_models(service: Served) -> dict[str, Any]:
    """List the models with their sizes and default settings, and the samplers."""
    return {"models": models_in(service.pipes), "samplers": samplers()}


@health.head("/healthz", include_in_schema=False)
@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process responds."""
    return {"status": "ok"}


@health.head("/readyz", include_in_schema=False)
@health.get("/readyz")
async def readyz(service: Served) -> dict[str, str]:
    """Whether requests are accepted."""
    if not service.engine.alive:
        raise HTTPException(503, "the engine accepts no requests")
    return {"status": "ready"}


@health.head("/metrics", include_in_schema=False)
@health.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
