"""Requests for images, from Python, the command line, the HTTP API or the page: described once, checked once."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqdiff.foundation import fitting
from vqdiff.foundation.errors import InputError, about
from vqdiff.foundation.images import ImageLike, as_image, on_white, to_pixels
from vqdiff.foundation.options import check_options, options_of
from vqdiff.foundation.shapes import Bool, Int
from vqdiff.model import Job, Model
from vqdiff.ranking import check_ranking
from vqdiff.sampling import Canvas, SamplingSettings, get_sampler, least_confident
from vqdiff.sampling.candidates import candidate_seeds
from vqdiff.sampling.guides import references_of
from vqdiff.settings import CallSettings, EditOptions, ExpandOptions, ImagesOptions, ReviseOptions, VaryOptions
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

    kind: ClassVar[str]
    """What a record calls this kind of request."""

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def settings_for(
        cls, model: Model, given: SamplingSettings | None = None, /, **changes: Unpack[CallSettings]
    ) -> SamplingSettings:
        """Return the settings of a request of this kind, as `Model.settings` does."""
        return model.settings(given, **changes)

    @abstractmethod
    def job(self, model: Model) -> Job:
        """Check the request against a model; raises InputError, with the field, for what the model cannot do."""

    @abstractmethod
    def _given(self) -> dict[str, Any]:
        """What a record says about the prompts and the images."""

    def record(self, model: Model) -> dict[str, Any]:
        """Return how the images are made, to be kept with them; `request_of` returns the request again.

        It contains the kind, the prompts, the seed of each image, all settings, the model's `identity`, and hashes of
        the images that were given.
        """
        given = self._given()
        count = self.num_images * len(given.get("prompts", [None]))
        seeds = {} if count == 1 else {"seeds": list(range(self.seed, self.seed + count))}
        negative = {} if self.negative is None else {"negative": _as_json(self.negative)}
        options = {name: getattr(self, name) for name in options_of(type(self))}
        settings = self.settings_for(model, self.settings)
        about_model = model.identity() | model.curve_identity(settings)
        return {"kind": self.kind} | given | options | seeds | negative | asdict(settings) | about_model

    def _avoided(self, model: Model, settings: SamplingSettings) -> Condition:
        """The negative prompt, checked."""
        with about("negative"):
            if self.negative is not None and settings.guidance == 1:
                raise InputError("a negative prompt acts through guidance, which is off: give a guidance above 1")
            if self.negative is not None and "null" not in references_of(settings, model.schedule.num_steps):
                raise InputError(
                    "a negative prompt takes the place of the null condition, from which guidance never leads away "
                    f"with the guide {settings.guide}: use the guide null"
                )
            return optional_condition(model, self.negative, "negative")[0]


@dataclass(frozen=True, kw_only=True)
class DrawRequest(Request):
    """``num_images`` images of each prompt (or label, or `Blend` of two prompts), prompt by prompt."""

    kind: ClassVar[str] = "generate"

    prompts: Prompts = None

    def _given(self) -> dict[str, Any]:
        return {"prompts": [_as_json(one) for one in _listed(self.prompts)]}

    def job(self, model: Model) -> Job:
        prompts = conditions_of(model, self.prompts)
        conditions = [one for one in prompts for _ in range(self.num_images)]
        settings = model.settings(self.settings)
        seeds = range(self.seed, self.seed + len(conditions))
        avoided = self._avoided(model, settings)
        check_ranking(model, settings, conditions)
        return Job(conditions, seeds, settings, avoided, record=replace(self, prompts=prompts).record(model))


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
        check_ranking(model, settings, condition)
        seeds = range(self.seed, self.seed + self.num_images)
        candidates = candidate_seeds(seeds, settings.best_of)
        count = len(candidates)
        canvas = Canvas.noised(
            model.schedule,
            get_sampler(settings.sampler),
            (tokenize(model, image) if x0 is None else x0).expand(count, -1),
            candidates,
            redraw=None if redraw is None else redraw.expand(count, -1),
            start=None if start is None else [start] * count,
        )
        finish = partial(fitting.unfit, size=image.size)
        avoided = self._avoided(model, settings)
        return Job(condition * len(seeds), seeds, settings, avoided, canvas, finish, self.record(model))

    def _given(self) -> dict[str, Any]:
        return {"prompt": _as_json(self.prompt), "inputs": {"image": _input(np.asarray(on_white(self._opened)))}}

    @cached_property
    def _opened(self) -> Image.Image:
        """The image, read once: what is hashed for the record is what is resampled."""
        with about("image"):
            return as_image(self.image)


@dataclass(frozen=True, kw_only=True)
class EditRequest(_ImageRequest, EditOptions):
    """Resample the white part of ``mask``; see `Pipeline.edit`."""

    kind: ClassVar[str] = "edit"

    mask: ImageLike

    def _given(self) -> dict[str, Any]:
        given = super()._given()
        given["inputs"]["mask"] = _input(self._white)
        return given

    @cached_property
    def _white(self) -> NDArray[np.bool_]:
        """Where the mask is white, read once as well."""
        with about("mask"):
            return fitting.white(self.mask, self._opened.size)

    def job(self, model: Model) -> Job:
        settings, image, redraw = model.settings(self.settings), self._opened, self._white
        holes = fitting.to_tokens(redraw, model.image_tokenizer.grid_size)[None]
        job = self._resample(model, settings, image, optional_condition(model, self.prompt), redraw=holes)
        return replace(job, finish=lambda drawn: fitting.paste(job.finish(drawn), image, redraw, self.feather))


@dataclass(frozen=True, kw_only=True)
class ExpandRequest(_ImageRequest, ExpandOptions):
    """Extend the image at its sides; see `Pipeline.expand`."""

    kind: ClassVar[str] = "expand"

    def job(self, model: Model) -> Job:
        canvas, mask = fitting.expand(self._opened, self.left, self.top, self.right, self.bottom)
        same: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(_ImageRequest)} | {"image": canvas}
        return replace(EditRequest(mask=mask, feather=self.feather, **same).job(model), record=self.record(model))


@dataclass(frozen=True, kw_only=True)
class VaryRequest(_ImageRequest, VaryOptions):
    """Noise the image to the time strength·T and sample from there; see `Pipeline.vary`."""

    kind: ClassVar[str] = "vary"

    def job(self, model: Model) -> Job:
        settings, start = model.settings(self.settings), round(self.strength * model.schedule.num_steps)
        return self._resample(model, settings, self._opened, optional_condition(model, self.prompt), start=start)


@dataclass(frozen=True, kw_only=True)
class ReviseRequest(_ImageRequest, ReviseOptions):
    """Resample the least confident tokens; see `Pipeline.revise`."""

    kind: ClassVar[str] = "revise"

    @classmethod
    def settings_for(
        cls, model: Model, given: SamplingSettings | None = None, /, **changes: Unpack[CallSettings]
    ) -> SamplingSettings:
        """Return the settings as `Model.settings` does, but by default with the sampler token-fixing where that helps.

        It helps a model that was trained with masks and replace noise; a sampler or a preset that is named is used.
        """
        learned = model.schedule.replaces and model.schedule.gamma_bar_ends[1] > 0
        if learned and given is None and changes.get("sampler") is None and changes.get("preset") is None:
            changes["sampler"] = "token-fixing"
        return super().settings_for(model, given, **changes)

    @torch.inference_mode()
    def job(self, model: Model) -> Job:
        settings, image = self.settings_for(model, self.settings), self._opened
        condition, x0 = optional_condition(model, self.prompt), tokenize(model, image)
        where = model.sampling_device
        redraw = least_confident(model.bind(model.encode(condition)), model.schedule, x0.to(where), self.share)
        job = self._resample(model, settings, image, condition, redraw=redraw.cpu(), x0=x0)
        if get_sampler(settings.sampler).fixes and job.canvas is not None:
            job = replace(job, canvas=replace(job.canvas, known=None))
        return job


REQUESTS: dict[str, type[Request]] = {
    one.kind: one for one in (DrawRequest, EditRequest, ExpandRequest, VaryRequest, ReviseRequest)
}
"""The kinds of requests by the name that a record has for them."""


def request_of(record: Mapping[str, Any], **images: Any) -> Request:
    """Return the request that a record describes (`Request.record`, or `Job.record_of` one image).

    images: ``image`` and ``mask``, if the request started from them. Raises InputError if one is missing or is not the
    one of the record, or if the record is not complete.
    """
    kind = REQUESTS.get(record.get("kind", ""))
    if kind is None:
        raise InputError("the record lacks the kind of request, so the image cannot be made from it again")
    inputs = record.get("inputs", {})
    if not isinstance(inputs, Mapping) or not all(
        isinstance(one, Mapping) and "hash" in one for one in inputs.values()
    ):
        raise InputError("the record is not complete: its inputs have no hashes")
    if extra := images.keys() - inputs.keys():
        raise InputError(f"it was made with {record['kind']}, which takes no {min(extra)}: leave it out")
    for name, about_input in inputs.items():
        if name not in images:
            file = about_input.get("file")
            raise InputError(
                f"it was made with {record['kind']}, from an {name} that it does not contain"
                f"{f' ({file})' if file else ''}: give the {name} again"
            )
    options, read = options_of(kind), partial(condition_of, record)
    given = {name: record[name] for name in options if name in record} | images
    try:
        values = {name: record[name] for name in options_of(SamplingSettings) if name in record}  # older ones lack some
        if kind is DrawRequest:
            given["prompts"] = [read(one) for one in record.get("prompts") or [record["prompt"]]]
        else:
            given["prompt"] = read(record["prompt"])
        settings = SamplingSettings.read(values, "the record")
        request = kind(settings=settings, negative=condition_of({}, record.get("negative")), **given)
    except (KeyError, TypeError) as error:
        raise InputError(f"the record is not complete: {error}") from error
    for name, found in request._given().get("inputs", {}).items():
        if found["hash"] != inputs.get(name, found)["hash"]:
            raise InputError(f"this {name} is not the one that the record names: its pixels differ")
    return request


def _as_json(condition: Any) -> Any:
    return asdict(condition) if isinstance(condition, Blend) else condition


def condition_of(record: Mapping[str, Any], value: Any) -> Condition:
    """Return the condition that a value of a record stands for; older records have ``towards`` for a blend."""
    if isinstance(value, str) and "towards" in record:
        return Blend(value, record["towards"], record["weight"])
    return Blend(**value) if isinstance(value, Mapping) else value


def _input(pixels: NDArray[Any]) -> dict[str, str]:
    """What a record says about an image that a request starts from: a hash of its shape and pixels."""
    shape = repr(pixels.shape).encode()
    return {"hash": hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]}


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
    with about(field):
        conditions = [] if prompts is None else [_condition(one) for one in _listed(prompts)]
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


def _listed(prompts: Prompts) -> Iterable[Any]:
    given: Any = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    alone = isinstance(given, str | bytes | Mapping | Set) or not isinstance(given, Iterable)
    return [given] if alone else given


def _condition(given: Any) -> Condition:
    one = given.item() if isinstance(given, np.generic) else given
    if isinstance(one, bool) or not isinstance(one, str | int | Blend):
        raise InputError(f"the prompt is {one!r}: give text, a label's number, a Blend, or a list of these")
    return one
