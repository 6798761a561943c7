"""The endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from vqdiff.sampling import samplers
from vqdiff.serving.events import events, first_and_rest
from vqdiff.serving.schemas import Drawing, Edit, Failure, Generation, ModelCard, ModelList, Pictures
from vqdiff.serving.service import Service


def _service(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(_service)]
_FAILURES: dict[int | str, dict[str, Any]] = {"4XX": {"model": Failure}, "5XX": {"model": Failure}}
openai = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=_FAILURES)
native = APIRouter(prefix="/api", tags=["native"], responses=_FAILURES)
health = APIRouter(tags=["health"], responses=_FAILURES)


@openai.post("/images/generations")
async def generations(options: Generation, request: Request, service: Served) -> Pictures:
    """Draw pictures from a prompt."""
    return await service.draw(options, request)


@openai.post("/images/edits")
async def edits(
    options: Annotated[Edit, Form(media_type="multipart/form-data")], request: Request, service: Served
) -> Pictures:
    """Draw the transparent part of a picture anew."""
    return await service.draw(options, request)


@openai.get("/models")
async def models(service: Served) -> ModelList:
    """The names of the models."""
    return ModelList(data=[ModelCard(id=name) for name in service.pipes])


@native.post(
    "/draw",
    response_model=Pictures,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def draw(options: Drawing, request: Request, service: Served) -> Any:
    """Draw, edit, vary or revise pictures, with all options of the samplers, and with events if asked for them."""
    if not options.stream:
        return await service.draw(options, request)
    stream = await first_and_rest(events(service, options, request))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@native.get("/models")
async def native_models(service: Served) -> dict[str, Any]:
    """The models with their sizes and own settings, and the samplers."""
    return {
        "models": {
            name: {
                "draws": "text" if pipe.model.text_encoder else "labels" if pipe.model.num_classes else "nothing",
                "image_size": pipe.model.image_tokenizer.config.image_size,
                "num_tokens": pipe.model.num_tokens,
                "settings": pipe.model.sampling,
            }
            for name, pipe in service.pipes.items()
        },
        "samplers": samplers(),
    }


@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@health.get("/readyz")
async def readyz(service: Served) -> dict[str, str]:
    """Whether requests are taken."""
    if not service.engine.alive:
        raise HTTPException(503, "the engine takes no requests")
    return {"status": "ready"}


@health.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
