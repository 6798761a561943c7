"""A server of the Model Context Protocol: tools with which a language model generates, edits and explains images."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from inspect import cleandoc
from typing import Any

import anyio
import mcp_types as types
from anyio import from_thread, to_thread
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from PIL import Image, ImageDraw
from pydantic import ConfigDict, Field, ValidationError

from vqdiff import __version__
from vqdiff.explanation import explain
from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.formats import encode
from vqdiff.model import Model
from vqdiff.pipeline import Pipeline
from vqdiff.requests import EditRequest, Request, VaryRequest
from vqdiff.sampling import samplers
from vqdiff.serving.limits import Limits
from vqdiff.serving.schemas import Body, RequestBody, field_of, models_in, nullable

LIMITS = Limits(max_images=4, max_image_bytes=2**20, max_image_pixels=512**2)
"""What a tool accepts; images that it returns are not larger either."""
_MOST_BYTES = 2**18
"""Images of more bytes as PNG are returned as JPEG, since clients limit the size of a result."""
_REMEMBERED = 64
"""The last images, which `edit` takes by number."""

Content = list[types.ContentBlock]
OnStep = Callable[[int, int], None]


class Draw(RequestBody):
    """Generate images from a prompt. The result has the images, each with its number and seed."""

    model_config = ConfigDict(strict=True)


class Edit(RequestBody):
    """Change an image: resample a region of it (give region or mask), or vary the whole image (give strength)."""

    model_config = ConfigDict(strict=True)

    image: int | str = Field(description="The number of an image of this session, or a file in base64.")
    region: list[int] | None = Field(
        None, min_length=4, max_length=4, description="Pixels to resample: left, top, right, bottom."
    )
    mask: str | None = Field(None, description="Or an image file in base64 of the same size, white where to resample.")
    feather: int = field_of(EditRequest, "feather", 0, most=256)
    strength: float | None = field_of(VaryRequest, "strength", None)


class Explain(RequestBody):
    """Generate one image and show why it looks like this.

    Three maps beside it, bright for much: when each token was revealed (first is bright), how confident the network
    was, and how much more probable the prompt made the token; the same in numbers, step by step, with the tokens that
    the prompt explains most.
    """

    model_config = ConfigDict(strict=True)

    n: int = Field(1, ge=1, le=1, description="One image.")


class Models(Body):
    """List the models with what they draw, their size and default settings, and the samplers."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=nullable)


TOOLS: dict[str, type[Body]] = {"draw": Draw, "edit": Edit, "explain": Explain, "models": Models}


class Tools:
    """The tools, by name, for models by name (by default the first); one call computes at a time."""

    def __init__(self, pipes: Mapping[str, Pipeline], limits: Limits = LIMITS) -> None:
        self.pipes, self.limits = dict(pipes), limits
        self.images = OrderedDict[int, Image.Image]()
        self._turn = anyio.Lock()

    async def call(self, name: str, arguments: Mapping[str, Any], on_step: OnStep) -> Content:
        """Run a tool; raises InputError, with one line, for whatever the caller can correct."""
        if name not in TOOLS:
            raise InputError(f"there is no tool {name!r}: choose one of {', '.join(TOOLS)}")
        try:
            body = TOOLS[name].model_validate(dict(arguments))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise InputError(f"{where}: {problem['msg']}") from error
        async with self._turn:
            return await to_thread.run_sync(self._run, body, on_step)

    def _run(self, arguments: Body, on_step: OnStep) -> Content:
        if not isinstance(arguments, RequestBody):
            return [_text({"models": models_in(self.pipes), "samplers": samplers()})]
        arguments.check(self.limits)
        name = arguments.model or next(iter(self.pipes))
        if name not in self.pipes:
            raise InputError(f"no model {name!r}: choose one of {', '.join(self.pipes)}")
        pipe, seed = self.pipes[name], arguments.seeded()
        if isinstance(arguments, Explain):
            return self._explain(arguments, pipe, seed)
        request = self._request(arguments, pipe.model, seed)
        job = request.job(pipe.model)
        content: Content = []
        for i, image in enumerate(pipe.sample(job, on_step=on_step)):
            number = self._remember(image)
            content += [_image(image, job.record_of(i)), _text({"image": number, "seed": seed + i})]
        return content + [_text({"warning": remark}) for remark in job.remarks(pipe.model)]

    def _explain(self, arguments: Explain, pipe: Pipeline, seed: int) -> Content:
        settings = asdict(arguments.settings(pipe.model))
        explanation = explain(pipe, arguments.prompt, seed=seed, negative=arguments.negative, **settings)
        summary = {"image": self._remember(explanation.image), "seed": seed} | dict(explanation.summary())
        return [_image(explanation.image, explanation.record), _image(explanation.maps(), {}), _text(summary)]

    def _request(self, arguments: RequestBody, model: Model, seed: int) -> Request:
        if not isinstance(arguments, Edit):
            return arguments.request(model, seed, self.limits)
        common = arguments.common(model, seed) | {"prompt": arguments.prompt, "image": self._opened(arguments.image)}
        ways = [one for one in ("region", "mask", "strength") if getattr(arguments, one) is not None]
        if len(ways) != 1:
            raise InputError(f"{' and '.join(ways) or 'nothing'} is given: give one of region, mask and strength")
        if arguments.strength is not None:
            return VaryRequest(strength=arguments.strength, **common)
        if arguments.mask is not None:
            with about("mask"):
                return EditRequest(
                    mask=self.limits.read_base64(arguments.mask, "mask"), feather=arguments.feather, **common
                )
        return EditRequest(
            mask=_mask(common["image"].size, arguments.region or []), feather=arguments.feather, **common
        )

    def _opened(self, image: int | str) -> Image.Image:
        if isinstance(image, str):
            return self.limits.read_base64(image)
        if image not in self.images:
            known = f"{min(self.images)} to {max(self.images)} are" if self.images else "none is"
            raise InputError(f"there is no image {image}: {known} in this session")
        return self.images[image]

    def _remember(self, image: Image.Image) -> int:
        number = next(reversed(self.images), 0) + 1
        self.images[number] = image
        if len(self.images) > _REMEMBERED:
            self.images.popitem(last=False)
        return number


def _mask(size: tuple[int, int], region: list[int]) -> Image.Image:
    """Return a mask that is white from left and top up to, not including, right and bottom."""
    left, top, right, bottom = region
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise InputError(f"region is {region}: give left, top, right, bottom within {size[0]}×{size[1]} pixels")
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask


def _text(value: Mapping[str, Any]) -> types.TextContent:
    return types.TextContent(type="text", text=json.dumps(value, default=asdict))


def _image(image: Image.Image, record: dict[str, Any]) -> types.ImageContent:
    file, kind = encode(image, record), "png"
    if len(file) > _MOST_BYTES:
        file, kind = encode(image, record, "jpeg", quality=90), "jpeg"
    return types.ImageContent(type="image", data=base64.b64encode(file).decode(), mime_type=f"image/{kind}")


def create_server(pipes: Mapping[str, Pipeline]) -> Server[Any]:
    """Create the server of these models."""
    tools = Tools(pipes)

    async def list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        listed = [
            types.Tool(name=name, description=cleandoc(one.__doc__ or ""), input_schema=one.model_json_schema())
            for name, one in TOOLS.items()
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        def on_step(done: int, total: int) -> None:
            from_thread.run(context.session.report_progress, done, total)

        try:
            return types.CallToolResult(content=await tools.call(params.name, params.arguments or {}, on_step))
        except InputError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)

    return Server("vqdiff", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)


def run(pipes: Mapping[str, Pipeline]) -> None:
    """Serve over stdin and stdout until stdin ends."""

    async def serve() -> None:
        server = create_server(pipes)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(serve)
