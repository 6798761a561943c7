"""What requests and answers look like; from these comes the OpenAPI page."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from vqdiff.errors import InputError
from vqdiff.model import Model
from vqdiff.sampling import SamplingSettings
from vqdiff.serving.limits import Limits
from vqdiff.text import Blend, Condition
from vqdiff.work import Work

Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Options(BaseModel):
    """What and how to draw; what is not given is the model's own."""

    model_config = ConfigDict(extra="forbid")

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

    def settings(self, own: SamplingSettings) -> SamplingSettings:
        """The settings ``own`` with what was given in their place."""
        names = ("steps", "sampler", "truncation", "prior_scale", "guidance", "guidance_schedule", "guidance_interval")
        return own.changed(**{name: getattr(self, name) for name in names})

    def seeded(self) -> int:
        """The seed, or a random one."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def check(self, limits: Limits) -> None:
        """Raise InputError for the first limit that is passed."""
        limits.check(prompts=(self.prompt, self.negative), num_images=self.n, steps=self.steps)

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        """What is to be drawn; InputError for what can't be."""
        asked = {"num_images": self.n, "seed": seed, "negative": self.negative}
        return Work.generate(model, self.prompt, **asked, **vars(self.settings(model.sampling)))


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
        limits.check(prompts=(self.towards,), num_images=self.n, steps=self.steps)
        if self.towards is not None and self.prompt is None:
            raise InputError("towards needs a prompt to start from")
        ways = [name for name in ("mask", "strength", "share") if getattr(self, name) is not None]
        if ways and self.image is None:
            raise InputError(f"{ways[0]} is for editing: give an image with it")
        if len(ways) > 1:
            raise InputError(f"{ways[0]} and {ways[1]} are two ways to edit: give one")
        if self.share is not None and self.n > 1:
            raise InputError(f"n is {self.n}: revising draws one picture")

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        settings = vars(self.settings(model.sampling))
        prompt: Condition = self.prompt
        if self.towards is not None and self.prompt is not None:
            if model.text_encoder is None:
                raise InputError("towards is for models that draw from text")
            prompt = Blend(self.prompt, self.towards, self.weight)
        asked = {"seed": seed, "negative": self.negative, **settings}
        if self.image is None:
            return Work.generate(model, prompt, num_images=self.n, **asked)
        image = limits.read_base64(self.image)
        if self.mask is not None:
            mask = limits.read_base64(self.mask, "mask")
            return Work.edit(model, image, mask, prompt, num_images=self.n, feather=self.feather, **asked)
        if self.share is not None:
            return Work.revise(model, image, self.share, prompt, **asked)
        strength = 0.5 if self.strength is None else self.strength
        return Work.vary(model, image, strength, prompt, num_images=self.n, **asked)


class OpenAIOptions(Options):
    """`Options` and fields of OpenAI's API, of which the last four are taken and have no effect."""

    size: str | None = Field(None, description="auto, or the model's size as in 128x128.")
    response_format: Literal["b64_json"] | None = Field(None, description="Pictures come in the answer, not as links.")
    output_format: Literal["png"] | None = None
    user: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None

    def check_size(self, model: Model) -> None:
        """Raise InputError for a size that the model does not draw."""
        side = model.image_tokenizer.config.image_size
        if self.size not in (None, "auto", f"{side}x{side}"):
            raise InputError(f"size is {self.size!r}: this model draws {side}x{side}")


class Generation(OpenAIOptions):
    """A request to /v1/images/generations."""

    model_config = ConfigDict(strict=True)

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        self.check_size(model)
        return super().work(model, seed, limits)


class Edit(OpenAIOptions):
    """A request to /v1/images/edits: the fully transparent part of the mask, or else of the image, is drawn anew."""

    image: UploadFile
    mask: UploadFile | None = None

    def work(self, model: Model, seed: int, limits: Limits) -> Work:
        self.check_size(model)
        image = limits.read_picture(self.image.file.read())
        mask = image if self.mask is None else limits.read_picture(self.mask.file.read(), "mask")
        if not mask.has_transparency_data:
            raise InputError("nothing says where to edit: the mask, or else the image, needs a fully transparent part")
        holes = mask.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
        asked = {"num_images": self.n, "seed": seed, "negative": self.negative}
        return Work.edit(model, image, holes, self.prompt, **asked, **vars(self.settings(model.sampling)))


class Picture(BaseModel):
    """A finished picture: a PNG file in base64, with its settings inside."""

    b64_json: str
    seed: int


class Pictures(BaseModel):
    """The answer of all endpoints that draw."""

    created: int
    model: str
    data: list[Picture]
    warnings: list[str] = Field(default=[], description="Prompts that the model knows no word of.")


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
