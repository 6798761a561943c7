"""What requests and answers look like; from these comes the OpenAPI page. OpenAI's own are in `openai_schemas`."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.fitting import white
from vqdiff.model import Model
from vqdiff.sampling import SamplingSettings
from vqdiff.serving.encoding import Encoding
from vqdiff.serving.limits import Limits
from vqdiff.text import Blend, Condition
from vqdiff.work import Work, avoid, conditions_of, settings_of

_SEEDS = 2**63


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,40}", value) else value


def _nullable(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that null is taken for each field that may be left out."""
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = kept | {"anyOf": [field, {"type": "null"}]}


Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=0, le=_SEEDS - 1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _SEEDS - 1},
                {"type": "string", "pattern": "^[0-9]{1,19}$"},
            ]
        }
    ),
]
"""Or its digits as a string: JavaScript rounds numbers from 2⁵³ on."""


@dataclass(frozen=True)
class Finished:
    """A picture as a file in base64: its seed, its width and height in pixels, and the tokens of its model.

    warnings: what there is to say about the prompts of its request.
    """

    file: str
    seed: int
    size: tuple[int, int]
    tokens: int
    warnings: list[str]


class Options(BaseModel):
    """What and how to draw; what is not given, or null, is the model's own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_nullable)

    model: str | None = Field(None, description="A name of /v1/models; by default the first.")
    prompt: str | None = Field(None, description="What to draw; a label's number for a class-conditional model.")
    n: int = Field(1, ge=1, description="Pictures; picture i has seed + i.")
    seed: Seed | None = Field(None, description="By default a random one, which the answer tells.")
    negative: str | None = Field(None, description="What to lead away from.")
    steps: int | None = Field(None, ge=1, description="Network calls.")
    guidance: Number | None = Field(None, description="Guidance scale s + 1 of the paper; 1 is off.")
    guidance_schedule: Literal["constant", "linear", "cosine"] | None = None
    guidance_interval: tuple[Number, Number] | None = Field(
        None, strict=False, description="Guide only from here to there on the way from noise (0) to picture (1)."
    )
    sampler: str | None = Field(None, description="A name of /api/models.")
    truncation: Number | None = Field(None, description="Share of each prediction's mass that is kept; 1 is off.")
    prior_scale: Number | None = Field(None, description="How much confident predictions are sharpened.")

    _settings: ClassVar = (
        "steps", "sampler", "truncation", "prior_scale", "guidance", "guidance_schedule", "guidance_interval",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @property
    def encoding(self) -> Encoding:
        """The files to answer with."""
        return Encoding()

    def settings(self, model: Model) -> SamplingSettings:
        """The model's own settings with what was given in their place; an InputError names its field."""
        given = {name: value for name in self._settings if (value := getattr(self, name)) is not None}
        try:
            return settings_of(model, **given)
        except InputError:
            for name, value in given.items():
                with about(name):
                    settings_of(model, **{name: value})
            raise

    def seeded(self) -> int:
        """The seed, or a random one."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def check(self, limits: Limits) -> None:
        """Raise InputError, which names the field, for the first limit that is passed."""
        for name in ("prompt", "negative"):
            with about(name):
                limits.check_prompt(getattr(self, name))
        with about("n"):
            limits.check_num_images(self.n)
        with about("steps"):
            limits.check_steps(self.steps)
        with about("seed"):
            if self.seed is not None and self.seed + self.n > _SEEDS:
                raise InputError(f"seed is {self.seed}: {self.n} pictures from there on pass 2^63, give a smaller one")

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        """What is to be drawn; InputError, which names the field where one is to blame, for what can't be."""
        with about("prompt"):
            check_condition(model, self.prompt)
        return Work.generate(model, self.prompt, num_images=self.n, seed=seed, **self.asked(model))

    def asked(self, model: Model) -> dict[str, Any]:
        """The negative prompt and all settings, checked, as `Work` takes them."""
        settings = self.settings(model)
        with about("negative"):
            avoid(model, self.negative, settings)
            if self.negative is not None:
                check_condition(model, self.negative)
        return {"negative": self.negative, **vars(settings)}

    def answer(self, model: str, finished: Sequence[Finished]) -> BaseModel:
        """What is answered."""
        return Pictures.of(model, finished)


def check_condition(model: Model, prompt: Condition) -> None:
    """Raise InputError for what the model cannot draw."""
    conditions = conditions_of(model, prompt)
    if model.text_encoder is None:
        model.encode(conditions)


class Drawing(Options):
    """A request to the native endpoint; with an ``image`` it edits (``mask``), revises (``share``) or varies it."""

    model_config = ConfigDict(strict=True)  # no true for 1, no "1" for 1

    towards: str | None = Field(None, description="A second prompt: draw what lies between the two.")
    weight: float = Field(0.5, ge=0, le=1, description="Where between: 0 is the prompt, 1 the second one.")
    image: str | None = Field(None, description="A PNG, JPEG or WebP file in base64.")
    mask: str | None = Field(None, description="The same for a mask of the image's size: white is drawn anew.")
    feather: int = Field(0, ge=0, le=256, description="Width in pixels of a soft seam inside the white part.")
    strength: float | None = Field(None, ge=0, le=1, description="0 changes nothing, 1 draws a fresh picture.")
    share: float | None = Field(None, ge=0, le=1, description="Draw so much anew of what the model is least sure of.")
    stream: bool = Field(False, description="Answer with server-sent events: progress, preview, done or error.")
    previews: bool = Field(True, description="Whether the events include previews.")

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
                raise InputError(f"n is {self.n}: revising draws one picture")

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        prompt: Condition = self.prompt
        if self.towards is not None and self.prompt is not None:
            with about("towards"):
                if model.text_encoder is None:
                    raise InputError("towards is for models that draw from text")
                check_condition(model, self.towards)
            prompt = Blend(self.prompt, self.towards, self.weight)
        with about("prompt"):
            if self.image is None or prompt is not None:
                check_condition(model, prompt)
        asked = {"seed": seed, **self.asked(model)}
        if self.image is None:
            return Work.generate(model, prompt, num_images=self.n, **asked)
        with about("image"):
            image = limits.read_base64(self.image)
        if self.mask is not None:
            with about("mask"):
                mask = limits.read_base64(self.mask, "mask")
                white(mask, image.size)
            return Work.edit(model, image, mask, prompt, num_images=self.n, feather=self.feather, **asked)
        if self.share is not None:
            return Work.revise(model, image, self.share, prompt, **asked)
        strength = 0.5 if self.strength is None else self.strength
        return Work.vary(model, image, strength, prompt, num_images=self.n, **asked)


Warnings = Annotated[list[str], Field(description="A line for each prompt of which the model knows no word.")]


class Picture(BaseModel):
    """A finished picture: a PNG file in base64, with its settings inside."""

    b64_json: str
    seed: int


class Pictures(BaseModel):
    """The answer of the native endpoint."""

    created: int
    model: str
    data: list[Picture]
    warnings: Warnings

    @classmethod
    def of(cls, model: str, finished: Sequence[Finished]) -> Pictures:
        """The answer with these pictures."""
        data = [Picture(b64_json=one.file, seed=one.seed) for one in finished]
        return cls(created=int(time.time()), model=model, data=data, warnings=finished[0].warnings)


class ModelCard(BaseModel):
    """A model that may be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "vqdiff"


class ModelList(BaseModel):
    """All models, as OpenAI lists them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Problem(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Failure(BaseModel):
    """Every answer that is no success, in the shape of OpenAI's."""

    error: Problem
