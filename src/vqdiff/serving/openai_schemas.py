"""Requests and responses in the format of OpenAI's images API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import UploadFile
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.fitting import white
from vqdiff.model import Model
from vqdiff.requests import EditRequest, Request
from vqdiff.serving.encoding import Encoding, Format
from vqdiff.serving.limits import Limits
from vqdiff.serving.schemas import Finished, RequestBody, Warnings

_Ignored = Annotated[str | None, Field(description="Accepted and ignored.")]


class OpenAIBody(RequestBody):
    """`RequestBody` and the fields of OpenAI's API, some of which are accepted and ignored."""

    size: str | None = Field(None, description="auto, or the model's own as in 128x128.")
    response_format: Literal["b64_json", "url"] = Field("b64_json", description="url: a data URL in the response.")
    output_format: Format = Field("png", description="The format of the files.")
    output_compression: int = Field(100, ge=0, le=100, description="Quality in percent, for JPEG and WebP.")
    stream: bool = Field(False, description="Respond with server-sent events, as OpenAI does.")
    partial_images: int = Field(0, ge=0, le=3, description="Previews of each image in a stream.")
    background: _Ignored = None
    input_fidelity: _Ignored = None
    moderation: _Ignored = None
    quality: _Ignored = None
    safety_identifier: _Ignored = None
    style: _Ignored = None
    user: _Ignored = None

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.output_format, self.output_compression)

    def common(self, model: Model, seed: int) -> dict[str, Any]:
        side = model.image_tokenizer.config.image_size
        with about("size"):
            if self.size not in (None, "auto", f"{side}x{side}"):
                raise InputError(f"size is {self.size!r}: this model generates {side}x{side}, leave it out")
        return super().common(model, seed)

    def answer(self, model: str, finished: Sequence[Finished]) -> Images:
        return Images.of(self, finished)


class Generation(OpenAIBody):
    """A request to /v1/images/generations."""

    model_config = ConfigDict(strict=True)


class Edit(OpenAIBody):
    """A request to /v1/images/edits: resample where the mask, or without one the image, is transparent."""

    model_config = ConfigDict(json_schema_extra=None)  # a form has no null

    image: list[UploadFile] = Field([], description="The image to edit, under this name or image[].")
    images: list[UploadFile] = Field([], alias="image[]", description="The same.")
    mask: UploadFile | None = Field(
        None, description="Fully transparent where to resample; without an alpha channel, white where to resample."
    )

    def check(self, limits: Limits) -> None:
        super().check(limits)
        with about("image"):
            if (count := len(self.image) + len(self.images)) != 1:
                raise InputError(f"{count or 'no'} images are given: send one image to edit, as image")

    def request(self, model: Model, seed: int, limits: Limits) -> Request:
        with about("image"):
            image = limits.read_image((self.image or self.images)[0].file.read())
        with about("mask"):
            mask = None if self.mask is None else limits.read_image(self.mask.file.read(), "mask")
            holes = _holes(image, mask)
        return EditRequest(image=image, mask=holes, prompt=self.prompt, **self.common(model, seed))


def _holes(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Return a mask, white where to resample: where the mask (or without one the image) is transparent.

    A mask without transparency is white where to resample. Raises InputError if that is nowhere, and for a mask of
    another size.
    """
    source, what = (image, "image, or a mask,") if mask is None else (mask, "mask")
    holes, needs = source, "a white part, or a transparent one"
    if mask is None or mask.has_transparency_data:
        alpha = source.convert("RGBA").getchannel("A")
        holes, needs = alpha.point(lambda value: 255 if value == 0 else 0), "a fully transparent part"
    if not white(holes, image.size).any():
        raise InputError(f"there is nothing to resample: the {what} needs {needs}")
    return holes


class OpenAIPicture(BaseModel):
    """A finished image, in base64 or as a data URL."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class Usage(BaseModel):
    """Image tokens of the images; tokens of the prompt are not counted."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, *finished: Finished) -> Usage:
        """Return the usage of these images."""
        tokens = sum(one.tokens for one in finished)
        return cls(output_tokens=tokens, total_tokens=tokens)


class Images(BaseModel):
    """The response of OpenAI's endpoints."""

    created: int
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str
    data: list[OpenAIPicture]
    usage: Usage
    warnings: Warnings

    @classmethod
    def of(cls, options: OpenAIBody, finished: Sequence[Finished]) -> Images:
        """Return the response with these images."""
        links, data = options.response_format == "url", list[OpenAIPicture]()
        for one in finished:
            url = f"data:image/{options.output_format};base64,{one.file}" if links else None
            data.append(OpenAIPicture(b64_json=None if links else one.file, url=url, seed=one.seed))
        width, height = finished[0].size
        return cls(
            created=int(time.time()),
            output_format=options.output_format,
            size=f"{width}x{height}",
            data=data,
            usage=Usage.of(*finished),
            warnings=finished[0].warnings,
        )
