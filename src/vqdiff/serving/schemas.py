"""Schemas of requests and responses, and so of the OpenAPI page; those of OpenAI's API are in `openai_schemas`."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.options import Interval, Number, Option, options_of
from vqdiff.model import Model
from vqdiff.pipeline import Pipeline
from vqdiff.requests import DrawRequest, EditRequest, Request, ReviseRequest, VaryRequest
from vqdiff.serving.encoding import Encoding
from vqdiff.serving.limits import Limits
from vqdiff.settings import SamplingSettings
from vqdiff.text import Blend

SEEDS = 2**63


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,40}", value) else value


def nullable(schema: dict[str, Any]) -> None:
    """Declare in a JSON schema that each optional field accepts null, and that an unknown one may be null."""
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = kept | {"anyOf": [field, {"type": "null"}]}
    if schema.get("additionalProperties") is False:
        schema["additionalProperties"] = {"type": "null"}


Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=0, le=SEEDS - 1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": SEEDS - 1},
                {"type": "string", "pattern": "^[0-9]{1,19}$"},
            ]
        }
    ),
]
"""A number, or its digits as a string, since JavaScript rounds numbers above 2⁵³."""


@dataclass(frozen=True)
class Finished:
    """An image as a file in base64, with its seed, its width and height in pixels, and its number of tokens.

    warnings: one line for each prompt of its request of which the model knows no word. record: how it was made.
    """

    file: str
    seed: int
    size: tuple[int, int]
    tokens: int
    warnings: list[str]
    record: dict[str, Any]


def _parameters(cls: type[Any]) -> dict[str, Any]:
    """Return fields of a pydantic model, all optional, for the options of a dataclass."""
    return {
        # In a form, an interval is a list of strings.
        name: (kind | None, Field(None, description=one.help, strict=False if isinstance(one, Interval) else None))
        for name, one in options_of(cls).items()
        for kind in [_type(one)]
    }


def field_of(cls: type[Any], name: str, default: Any, most: int | float = math.inf) -> Any:
    """Return a field of a pydantic model for a number that is an option of a request; most: a limit of the server."""
    described = options_of(cls)[name]
    assert isinstance(described, Number)
    return Field(default, ge=described.least, le=min(described.most, most), description=described.help)


def _type(described: Option) -> Any:
    kind = described.type
    if isinstance(described, Number):
        bounds = {"minimum": described.least, "exclusiveMinimum": described.above, "maximum": described.most}
        finite: dict[str, Any] = {name: bound for name, bound in bounds.items() if not math.isinf(bound)}
        # In the schema only: the settings reject values out of range, with the same message everywhere.
        return Annotated[kind, Field(allow_inf_nan=False, json_schema_extra=finite)]
    return tuple[Finite, Finite] if isinstance(described, Interval) else kind


class Body(BaseModel):
    """The body of a request, in which null is the same as leaving a field out."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


Settings: Any = create_model("Settings", __base__=Body, **_parameters(SamplingSettings))
"""The fields of `SamplingSettings`."""


class RequestBody(Settings):
    """What to generate and how; missing settings, or null, default to those of the preset, or the model's own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=nullable)

    model: str | None = Field(None, description="A name of /v1/models; by default the first.")
    prompt: str | None = Field(
        None,
        description="What to generate: a text, in which (red:2) weights a word, or a class by its name or number.",
    )
    n: int = Field(1, ge=1, description="Images; image i has seed + i.")
    seed: Seed | None = Field(None, description="By default a random one, which the response contains.")
    negative: str | None = Field(None, description="A prompt to guide away from.")
    preset: str | None = Field(None, description="Settings by name: fast, best, …; the other fields override them.")

    @property
    def kind(self) -> type[Request]:
        """The kind of request, on which the default settings may depend."""
        return DrawRequest

    @property
    def encoding(self) -> Encoding:
        """The file format of the response."""
        return Encoding()

    def settings(self, model: Model) -> SamplingSettings:
        """Return the settings of the preset, or the model's own, with those of the request."""
        given: dict[str, Any] = {name: getattr(self, name) for name in options_of(SamplingSettings)}
        return self.kind.settings_for(model, preset=self.preset, **given)

    def seeded(self) -> int:
        """Return the seed, or a random one."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def check(self, limits: Limits) -> None:
        """Raise InputError, with the field, for the first limit that is exceeded."""
        for name in ("prompt", "negative"):
            with about(name):
                limits.check_prompt(getattr(self, name))
        with about("n"):
            limits.check_num_images(self.n)
        with about("steps"):
            limits.check_steps(self.steps)
        with about("best_of"):
            limits.check_best_of(self.best_of)
        with about("seed"):
            if self.seed is not None and self.seed + self.n > SEEDS:
                raise InputError(f"seed is {self.seed}: {self.n} images from there on exceed 2^63, give a smaller one")

    def request(self, model: Model, seed: int, limits: Limits) -> Request:
        """Return the request to the model; raises InputError, with the field, for images that cannot be read."""
        return DrawRequest(prompts=self.prompt, **self.common(model, seed))

    def common(self, model: Model, seed: int) -> dict[str, Any]:
        """Return the fields that all requests have."""
        settings = self.settings(model)
        return {"num_images": self.n, "seed": seed, "negative": self.negative, "settings": settings}

    def answer(self, model: str, finished: Sequence[Finished]) -> BaseModel:
        """Return the response."""
        return ImageResponse.of(model, finished)


class ImageRequest(RequestBody):
    """A request to the native endpoint; with an ``image`` it edits (``mask``), revises (``share``) or varies it."""

    model_config = ConfigDict(strict=True)  # no true for 1, no "1" for 1

    towards: str | None = Field(None, description="A second prompt: the image is conditioned on a blend of the two.")
    weight: float = Field(0.5, ge=0, le=1, description="Its weight: 0 is the first prompt, 1 the second.")
    image: str | None = Field(None, description="A PNG, JPEG or WebP file in base64.")
    mask: str | None = Field(None, description="The same for a mask of the image's size: white is resampled.")
    feather: int = field_of(EditRequest, "feather", 0, most=256)
    strength: float | None = field_of(VaryRequest, "strength", None)
    share: float | None = field_of(ReviseRequest, "share", None)
    stream: bool = Field(False, description="Respond with server-sent events: progress, preview, done or error.")
    previews: bool = Field(True, description="Whether the events include previews.")

    @property
    def kind(self) -> type[Request]:
        return DrawRequest if self.share is None else ReviseRequest

    def check(self, limits: Limits) -> None:
        super().check(limits)
        with about("towards"):
            limits.check_prompt(self.towards)
            if self.towards is not None and self.prompt is None:
                raise InputError("towards needs a prompt to start from")
        ways = [name for name in ("mask", "strength", "share") if getattr(self, name) is not None]
        with about(ways[0] if ways else "image"):
            if ways and self.image is None:
                raise InputError(f"{ways[0]} is for editing: give an image with it")
            if len(ways) > 1:
                raise InputError(f"{ways[0]} and {ways[1]} are two ways to edit: give one")
        with about("n"):
            if self.share is not None and self.n > 1:
                raise InputError(f"n is {self.n}: revising generates one image")

    def request(self, model: Model, seed: int, limits: Limits) -> Request:
        common, prompt = self.common(model, seed), self.prompt
        if self.towards is not None and self.prompt is not None:
            prompt = Blend(self.prompt, self.towards, self.weight)
        if self.image is None:
            return DrawRequest(prompts=prompt, **common)
        with about("image"):
            common |= {"prompt": prompt, "image": limits.read_base64(self.image)}
        if self.mask is not None:
            with about("mask"):
                mask = self.read_mask(limits)
            return EditRequest(mask=mask, feather=self.feather, **common)
        if self.share is not None:
            return ReviseRequest(share=self.share, **common)
        return VaryRequest(**common) if self.strength is None else VaryRequest(strength=self.strength, **common)

    def read_mask(self, limits: Limits) -> Image.Image:
        """Return the mask, white where to resample; raises InputError if it cannot be read."""
        assert self.mask is not None
        return limits.read_base64(self.mask, "mask")


Warnings = Annotated[list[str], Field(description="A line for each prompt of which the model knows no word.")]


class GeneratedImage(BaseModel):
    """A finished image: a PNG file in base64, with its settings inside."""

    b64_json: str
    seed: int


class ImageResponse(BaseModel):
    """The response of the native endpoint."""

    created: int
    model: str
    data: list[GeneratedImage]
    warnings: Warnings

    @classmethod
    def of(cls, model: str, finished: Sequence[Finished]) -> ImageResponse:
        """Return the response with these images."""
        data = [GeneratedImage(b64_json=one.file, seed=one.seed) for one in finished]
        return cls(created=int(time.time()), model=model, data=data, warnings=finished[0].warnings)


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vqdiff"


class ModelList(BaseModel):
    """All models, as OpenAI lists them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def models_in(pipes: Mapping[str, Pipeline]) -> dict[str, Any]:
    """Return the models with what they are conditioned on, their sizes, default settings and presets."""
    return {
        name: {
            "draws": pipe.model.conditioned_on,
            "classes": pipe.model.class_names,
            "image_size": pipe.model.image_tokenizer.config.image_size,
            "num_tokens": pipe.model.num_tokens,
            "settings": pipe.model.sampling,
            "presets": pipe.model.own_presets,
        }
        for name, pipe in pipes.items()
    }


class Problem(BaseModel):
    """An error: what is wrong, and how to fix it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """Every error response, in OpenAI's format."""

    error: Problem
