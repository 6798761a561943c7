"""Requests for images, from Python, the command line, the HTTP API or the page: described once, checked once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqdiff.foundation import fitting
from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.images import ImageLike, as_image, to_pixels
from vqdiff.foundation.options import check_options
from vqdiff.foundation.shapes import Bool, Int
from vqdiff.model import Job, Model
from vqdiff.sampling import Canvas, SamplingSettings, get_sampler, least_confident
from vqdiff.settings import EditOptions, ExpandOptions, ImagesOptions, ReviseOptions, VaryOptions
from vqdiff.text import Blend, Condition

Prompts = Condition | np.generic | Sequence[Condition | np.generic] | NDArray[Any]
"""What `conditions_of` accepts: one condition or several."""


@dataclass(frozen=True, kw_only=True)
class Request(ImagesOptions, ABC):
    """The fields that all requests have; image i has seed ``seed + i``.

    negative: what guidance moves away from, instead of the null condition. settings: by default the model's own.
    """

    negative: Condition = None
    settings: SamplingSettings | None = None

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def job(self, model: Model) -> Job:
        """Check the request against a model; raises InputError, with the field, for what the model cannot do."""

    def _avoided(self, model: Model, settings: SamplingSettings) -> Condition:
        """The negative prompt, checked."""
        with about("negative"):
            if self.negative is not None and settings.guidance == 1:
                raise InputError("a negative prompt acts through guidance, which is off: give a guidance above 1")
            return optional_condition(model, self.negative, "negative")[0]


@dataclass(frozen=True, kw_only=True)
class DrawRequest(Request):
    """``num_images`` images of each prompt (or label, or `Blend` of two prompts), prompt by prompt."""

    prompts: Prompts = None

    def job(self, model: Model) -> Job:
        conditions = [one for one in conditions_of(model, self.prompts) for _ in range(self.num_images)]
        settings = model.settings(self.settings)
        seeds = range(self.seed, self.seed + len(conditions))
        return Job(conditions, seeds, settings, self._avoided(model, settings))


@dataclass(frozen=True, kw_only=True)
class _ImageRequest(Request):
    """A request that starts from an image of any size; the result has the same size."""

    image: ImageLike
    prompt: Condition = None

    def _resample(
        self,
        model: Model,
        settings: SamplingSettings,
        image: Image.Image,
        condition: list[Condition],
        *,
        redraw: Bool[Tensor, "1 L"] | None = None,
        start: int | None = None,
        x0: Int[Tensor, "1 L"] | None = None,
    ) -> Job:
        """Resample the tokens where ``redraw`` is true (default: all), from the time ``start`` (default: T)."""
        seeds = range(self.seed, self.seed + self.num_images)
        count = len(seeds)
        canvas = Canvas.noised(
            model.schedule,
            get_sampler(settings.sampler),
            (tokenize(model, image) if x0 is None else x0).expand(count, -1),
            seeds,
            redraw=None if redraw is None else redraw.expand(count, -1),
            start=None if start is None else [start] * count,
        )
        finish = partial(fitting.unfit, size=image.size)
        return Job(condition * count, seeds, settings, self._avoided(model, settings), canvas, finish)

    def _opened(self) -> Image.Image:
        with about("image"):
            return as_image(self.image)


@dataclass(frozen=True, kw_only=True)
class EditRequest(_ImageRequest, EditOptions):
    """Resample the white part of ``mask``; see `Pipeline.edit`."""

    mask: ImageLike

    def job(self, model: Model) -> Job:
        settings, image = model.settings(self.settings), self._opened()
        with about("mask"):
            redraw = fitting.white(self.mask, image.size)
        holes = fitting.to_tokens(redraw, model.image_tokenizer.grid_size)[None]
        job = self._resample(model, settings, image, optional_condition(model, self.prompt), redraw=holes)
        return replace(job, finish=lambda drawn: fitting.paste(job.finish(drawn), image, redraw, self.feather))


@dataclass(frozen=True, kw_only=True)
class ExpandRequest(_ImageRequest, ExpandOptions):
    """Extend the image at its sides; see `Pipeline.expand`."""

    def job(self, model: Model) -> Job:
        canvas, mask = fitting.expand(self._opened(), self.left, self.top, self.right, self.bottom)
        same: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(_ImageRequest)} | {"image": canvas}
        return EditRequest(mask=mask, feather=self.feather, **same).job(model)


@dataclass(frozen=True, kw_only=True)
class VaryRequest(_ImageRequest, VaryOptions):
    """Noise the image to the time strength·T and sample from there; see `Pipeline.vary`."""

    def job(self, model: Model) -> Job:
        settings, start = model.settings(self.settings), round(self.strength * model.schedule.num_steps)
        return self._resample(model, settings, self._opened(), optional_condition(model, self.prompt), start=start)


@dataclass(frozen=True, kw_only=True)
class ReviseRequest(_ImageRequest, ReviseOptions):
    """Resample the least confident tokens; see `Pipeline.revise`."""

    @torch.inference_mode()
    def job(self, model: Model) -> Job:
        settings, image = model.settings(self.settings), self._opened()
        condition, x0 = optional_condition(model, self.prompt), tokenize(model, image)
        where = model.sampling_device
        redraw = least_confident(model.bind(model.encode(condition)), model.schedule, x0.to(where), self.share)
        return self._resample(model, settings, image, condition, redraw=redraw.cpu(), x0=x0)


@torch.inference_mode()
def tokenize(model: Model, image: ImageLike) -> Int[Tensor, "1 L"]:
    """The tokens of an image of any size, on the CPU."""
    pixels = to_pixels(np.asarray(fitting.fit(image, model.image_tokenizer.config.image_size))[None])
    return model.image_tokenizer.encode(pixels.to(model.device)).cpu()


def conditions_of(model: Model, prompts: Prompts, field: str = "prompt") -> list[Condition]:
    """Return prompts or labels, given as ``field``, as a checked list; for an unconditional model, a list of one None.

    Raises InputError if there is no prompt, if one is empty or too long, or if the model does not have a label.
    """
    if model.text_encoder is None and model.num_classes is None:
        return [None]
    given: Any = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    alone = isinstance(given, str | bytes | Mapping | Set) or not isinstance(given, Iterable)
    with about(field):
        conditions = [] if given is None else [_condition(one) for one in ([given] if alone else given)]
        if not conditions:
            raise InputError("no prompt: describe the image to generate")
        towards = [one.second for one in conditions if isinstance(one, Blend)]
        with about("towards") if towards else nullcontext():
            if towards and model.text_encoder is None:
                raise InputError("a second prompt needs a model that is conditioned on text: leave it out")
            model.check(towards)
        model.check([one.first if isinstance(one, Blend) else one for one in conditions])
    return conditions


def optional_condition(model: Model, prompt: Condition, field: str = "prompt") -> list[Condition]:
    """Return a list of one condition: the checked prompt, or None if there is none."""
    conditions: list[Condition] = [None] if prompt is None else conditions_of(model, prompt, field)
    if len(conditions) != 1:
        with about(field):
            raise InputError(f"{len(conditions)} prompts where one is needed: give text, a label's number or a Blend")
    return conditions


def _condition(given: Any) -> Condition:
    one = given.item() if isinstance(given, np.generic) else given
    if isinstance(one, bool) or not isinstance(one, str | int | Blend):
        raise InputError(f"the prompt is {one!r}: give text, a label's number, a Blend, or a list of these")
    return one
