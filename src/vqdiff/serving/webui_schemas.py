"""Requests and responses in the format of AUTOMATIC1111's Stable Diffusion web UI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from vqdiff import __version__
from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.records import parameters
from vqdiff.serving.limits import Limits
from vqdiff.serving.schemas import SEEDS, Body, Finished, Finite, ImageRequest, nullable

_UNCHOSEN = ("Euler", "Euler a", "Automatic")
"""Samplers of continuous diffusion that clients send if nobody has chosen one: the model's own is used."""
_UNSUPPORTED = ("enable_hr", "restore_faces", "tiling", "subseed_strength", "script_name", "alwayson_scripts")
"""Fields that would change an image, and cannot here."""
_NAMES = {
    "guidance": "cfg_scale", "image": "init_images", "model": "override_settings", "n": "batch_size",
    "negative": "negative_prompt", "sampler": "sampler_name", "strength": "denoising_strength",
}  # fmt: skip
"""What the fields of `ImageRequest` are called here."""


class Overrides(Body):
    """Options; those without a meaning here are ignored."""

    model_config = ConfigDict(strict=True, json_schema_extra=nullable)

    sd_model_checkpoint: str | None = Field(None, description="A name of /sdapi/v1/sd-models.")


class Drawing(ImageRequest):
    """The native request that one of the web UI stands for."""

    inverted: bool = False
    """Whether the black part of the mask is resampled."""

    def read_mask(self, limits: Limits) -> Image.Image:
        mask = super().read_mask(limits)
        mask = mask.getchannel("A") if mask.mode == "RGBA" else mask.convert("L")
        return ImageOps.invert(mask) if self.inverted else mask


class TextToImage(Body):
    """A request to /sdapi/v1/txt2img; fields without a meaning here, such as width and height, are ignored."""

    model_config = ConfigDict(strict=True, json_schema_extra=nullable)

    prompt: str = Field("", description="What to generate; a label's number for a class-conditional model.")
    negative_prompt: str = Field("", description="A prompt to guide away from.")
    seed: int = Field(-1, ge=-1, le=SEEDS - 1, description="Image i has seed + i; -1 for a random seed.")
    batch_size: int = Field(1, ge=1, description="batch_size × n_iter images are generated.")
    n_iter: int = Field(1, ge=1, description="batch_size × n_iter images are generated.")
    steps: int | None = Field(None, description="By default the model's own.")
    cfg_scale: Finite | None = Field(None, description="Guidance scale; by default the model's own, 1 is off.")
    sampler_name: str | None = Field(None, description="A name of /sdapi/v1/samplers; Euler and Euler a: the model's.")
    sampler_index: str | None = Field(None, description="The same, if there is no sampler_name.")
    override_settings: Overrides = Overrides(sd_model_checkpoint=None)
    send_images: bool = Field(True, description="Whether the response contains the images.")
    enable_hr: bool = Field(False, description="Not supported.")
    restore_faces: bool = Field(False, description="Not supported.")
    tiling: bool = Field(False, description="Not supported.")
    subseed_strength: Finite = Field(0.0, description="Not supported.")
    script_name: str | None = Field(None, description="Not supported.")
    alwayson_scripts: dict[str, Any] = Field({}, description="Not supported.")

    def drawing(self, limits: Limits, model: str | None) -> Drawing:
        """Return the native request to a model, by default the first; raises InputError for what cannot be done."""
        for name in _UNSUPPORTED:
            if value := getattr(self, name):
                with about(name):
                    raise InputError(f"{name} is {str(value)[:40]!r}: this server does not support it, leave it out")
        number, sampler = self.batch_size * self.n_iter, self.sampler_name or self.sampler_index
        with about("batch_size"):
            if number > limits.max_images:
                raise InputError(f"batch_size × n_iter is {number}: give 1 to {limits.max_images} images")
        return Drawing(
            model=self.override_settings.sd_model_checkpoint or model,
            prompt=self.prompt or None,
            negative=self.negative_prompt if self.negative_prompt and self.cfg_scale != 1 else None,
            seed=None if self.seed < 0 else self.seed,
            n=number,
            steps=self.steps,
            guidance=self.cfg_scale,
            sampler=None if sampler in (*_UNCHOSEN, "") else sampler,
            **self._image(),
        )

    def _image(self) -> dict[str, Any]:
        """Return the fields of an image to start from."""
        return {}

    def answer(self, drawing: Drawing, finished: Sequence[Finished]) -> WebUIImages:
        """Return the response with these images."""
        record = finished[0].record if finished else {}
        width, height = finished[0].size if finished else (0, 0)
        prompts, seeds = [self.prompt] * len(finished), [one.seed for one in finished]
        info = {
            "prompt": self.prompt,
            "all_prompts": prompts,
            "negative_prompt": self.negative_prompt,
            "all_negative_prompts": [self.negative_prompt] * len(finished),
            "seed": seeds[0] if seeds else self.seed,
            "all_seeds": seeds,
            "subseed": -1,
            "all_subseeds": [-1] * len(finished),
            "subseed_strength": 0,
            "width": width,
            "height": height,
            "sampler_name": record.get("sampler"),
            "cfg_scale": record.get("guidance"),
            "steps": record.get("steps"),
            "batch_size": self.batch_size,
            "restore_faces": False,
            "sd_model_name": record.get("model"),
            "sd_model_hash": record.get("model_hash"),
            "denoising_strength": drawing.strength,
            "extra_generation_params": {},
            "index_of_first_image": 0,
            "infotexts": [parameters(one.record, one.size) for one in finished],
            "styles": [],
            "version": f"vqdiff {__version__}",
            "warnings": finished[0].warnings if finished else [],
        }
        images = [one.file for one in finished] if self.send_images else []
        given = self.model_dump(exclude={"init_images", "mask"})
        return WebUIImages(images=images, parameters=given, info=json.dumps(info))


class ImageToImage(TextToImage):
    """A request to /sdapi/v1/img2img: resample the white part of the mask, or without a mask vary the image."""

    init_images: list[str] = Field([], description="One PNG, JPEG or WebP file in base64, or as a data URL.")
    mask: str | None = Field(None, description="The same for a mask of its size, white where to resample.")
    mask_blur: int = Field(4, ge=0, le=256, description="Width in pixels of a soft seam inside the resampled part.")
    inpainting_mask_invert: int | bool = Field(0, description="1: the mask is black where to resample.")
    denoising_strength: float = Field(0.75, ge=0, le=1, allow_inf_nan=False, description="Without a mask: how much.")

    def _image(self) -> dict[str, Any]:
        with about("init_images"):
            if len(self.init_images) != 1:
                raise InputError(f"init_images has {len(self.init_images)} images: send one")
        if self.mask is None:
            return {"image": self.init_images[0], "strength": self.denoising_strength}
        inverted = bool(self.inpainting_mask_invert)
        return {"image": self.init_images[0], "mask": self.mask, "feather": self.mask_blur, "inverted": inverted}


class WebUIImages(BaseModel):
    """The response: PNG files in base64, the request without its images, and as JSON what is known about them."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class ProgressState(BaseModel):
    """The state of the requests in progress."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class ProgressResponse(BaseModel):
    """The progress of a client's requests, from 0 to 1, and the seconds left."""

    progress: float = 0.0
    eta_relative: float = 0.0
    state: ProgressState = ProgressState()
    current_image: str | None = None
    textinfo: str | None = None


@contextmanager
def named_as_here() -> Iterator[None]:
    """Give the field of an InputError its name in this API."""
    try:
        yield
    except InputError as error:
        error.field = _NAMES.get(error.field or "", error.field)
        raise
