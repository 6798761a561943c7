"""What is to be drawn, checked and ready to start: alone by a `Pipeline`, or among others by a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqdiff.foundation import fitting
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import has_lone_surrogates
from vqdiff.foundation.images import Picture, as_image, to_pixels
from vqdiff.foundation.shapes import Bool, Int
from vqdiff.model import Model
from vqdiff.sampling import Batch, Canvas, Guidance, SamplingSettings, doubtful, get_sampler
from vqdiff.text import Blend, Condition

Whole = int | float | np.integer[Any]
"""What `whole` takes."""

Prompts = Condition | np.generic | Sequence[Condition | np.generic] | NDArray[Any]
"""What `conditions_of` takes: one condition or several."""


class Changes(TypedDict, total=False):
    """Settings of `SamplingSettings` to change for one call; None leaves the model's own."""

    steps: int | None
    guidance: float | Guidance | None
    sampler: str | None
    truncation: float | None
    prior_scale: float | None


def _as_drawn(image: Image.Image) -> Image.Image:
    return image


@dataclass(frozen=True)
class Work:
    """Pictures to draw with the same settings: a condition and a seed each (conditions None: for an unconditional one).

    Guidance leads away from ``negative``, if given, in place of the null condition. canvas: what to begin with instead
    of noise. finish: what is done to each drawn picture. The class methods raise InputError as those of `Pipeline` with
    the same names do.
    """

    conditions: Sequence[Condition] | None
    seeds: Sequence[int]
    settings: SamplingSettings
    negative: Condition = None
    canvas: Canvas | None = None
    finish: Callable[[Image.Image], Image.Image] = _as_drawn

    @classmethod
    def generate(
        cls,
        model: Model,
        prompts: Prompts = None,
        *,
        num_images: Whole = 1,
        seed: Whole = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.__call__`."""
        count, first = whole("num_images", num_images, least=1), whole("seed", seed)
        asked = [one for one in conditions_of(model, prompts) for _ in range(count)]
        settings = settings_of(model, **changes)
        return cls(asked, range(first, first + len(asked)), settings, avoid(model, negative, settings))

    @classmethod
    def edit(
        cls,
        model: Model,
        image: Picture,
        mask: Picture,
        prompt: Condition = None,
        *,
        num_images: Whole = 1,
        seed: Whole = 0,
        negative: Condition = None,
        feather: Whole = 0,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.edit`."""
        settings, given, seeds = settings_of(model, **changes), as_image(image), _seeds(seed, num_images)
        redraw, width = fitting.white(mask, given.size), whole("feather", feather, least=0)
        x0, holes = tokenize(model, given), fitting.to_tokens(redraw, model.image_tokenizer.grid_size)[None]
        work = cls._over(model, x0, _wish(model, prompt), seeds, settings, negative, given.size, redraw=holes)
        return replace(work, finish=lambda drawn: fitting.paste(work.finish(drawn), given, redraw, width))

    @classmethod
    def vary(
        cls,
        model: Model,
        image: Picture,
        strength: float = 0.5,
        prompt: Condition = None,
        *,
        num_images: Whole = 1,
        seed: Whole = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.vary`."""
        if not 0 <= strength <= 1:
            raise InputError(f"strength is {strength}: give a number from 0, no change, to 1, a fresh picture")
        settings, given, seeds = settings_of(model, **changes), as_image(image), _seeds(seed, num_images)
        x0, start = tokenize(model, given), round(strength * model.schedule.num_steps)
        return cls._over(model, x0, _wish(model, prompt), seeds, settings, negative, given.size, start=start)

    @classmethod
    @torch.inference_mode()
    def revise(
        cls,
        model: Model,
        image: Picture,
        share: float = 0.25,
        prompt: Condition = None,
        *,
        seed: Whole = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.revise`."""
        settings, given, seeds = settings_of(model, **changes), as_image(image), _seeds(seed)
        x0, wish = tokenize(model, given), _wish(model, prompt)
        redraw = doubtful(model.bind(model.encode(wish)), model.schedule, x0.to(model.device), share).cpu()
        return cls._over(model, x0, wish, seeds, settings, negative, given.size, redraw=redraw)

    @classmethod
    def _over(
        cls,
        model: Model,
        x0: Int[Tensor, "1 L"],
        wish: list[Condition],
        seeds: Sequence[int],
        settings: SamplingSettings,
        negative: Condition,
        size: tuple[int, int],
        *,
        redraw: Bool[Tensor, "1 L"] | None = None,
        start: int | None = None,
    ) -> Work:
        """Draw over one picture's tokens, once for each seed, and give what is drawn the ``size`` of the picture."""
        count = len(seeds)
        canvas = Canvas.noised(
            model.schedule,
            get_sampler(settings.sampler),
            x0.expand(count, -1),
            seeds,
            redraw=None if redraw is None else redraw.expand(count, -1),
            start=None if start is None else [start] * count,
        )
        finish = partial(fitting.unfit, size=size)
        return cls(wish * count, seeds, settings, avoid(model, negative, settings), canvas, finish)

    @property
    def guided(self) -> bool:
        """Whether any step needs the null condition: from ∅ to ∅ there is no way."""
        nowhere = self.negative is None and all(one is None for one in self.conditions or ())
        return not nowhere and Guidance.of(self.settings.guidance).scale != 1

    def start(self, model: Model) -> Batch:
        """All the pictures, with no step behind them; InputError if settings or canvas don't fit the model."""
        return Batch.start(
            model.schedule,
            num_tokens=model.num_tokens,
            seeds=self.seeds,
            settings=self.settings if self.guided else replace(self.settings, guidance=1.0),
            canvas=self.canvas,
            device=model.device,
        )

    @torch.inference_mode()
    def encode(self, model: Model) -> tuple[Tensor | None, Tensor | None]:
        """The conditions of the pictures, and what guidance leads away from, None if there is none."""
        null = model.encode([self.negative] * len(self.seeds)) if self.guided else None
        return model.encode(self.conditions), null

    def parts(self, size: int) -> Iterator[Work]:
        """The pictures, ``size`` at a time."""
        for first in range(0, len(self.seeds), size):
            rows, canvas = slice(first, first + size), self.canvas
            if canvas is not None:
                known, start = canvas.known, canvas.start
                canvas = Canvas(
                    canvas.tokens[rows], None if known is None else known[rows], None if start is None else start[rows]
                )
            conditions = None if self.conditions is None else self.conditions[rows]
            yield replace(self, conditions=conditions, seeds=self.seeds[rows], canvas=canvas)


@torch.inference_mode()
def tokenize(model: Model, image: Picture) -> Int[Tensor, "1 L"]:
    """The tokens of a picture of any size, on the CPU."""
    pixels = to_pixels(np.asarray(fitting.fit(image, model.image_tokenizer.config.image_size))[None])
    return model.image_tokenizer.encode(pixels.to(model.device)).cpu()


def settings_of(model: Model, **changes: Any) -> SamplingSettings:
    """The model's own settings with ``changes`` (None = unchanged), checked against its number of tokens."""
    changes = {name: value.item() if isinstance(value, np.generic) else value for name, value in changes.items()}
    if changes.get("steps") is not None:
        changes["steps"] = whole("steps", changes["steps"], least=1)
    for name in ("truncation", "prior_scale", "guidance"):
        if not isinstance(value := changes.get(name), int | float | Guidance | None):
            raise InputError(f"{name} is {value!r}: give a number")
    settings = model.sampling.changed(**changes)
    settings.check(model.num_tokens)
    return settings


def conditions_of(model: Model, prompts: Prompts) -> list[Condition]:
    """Prompts or labels as a checked list; for an unconditional model a list of one nothing."""
    if model.text_encoder is None and model.num_classes is None:
        return [None]
    given: Any = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    alone = isinstance(given, str | bytes) or not isinstance(given, Iterable)
    conditions = [] if given is None else [_condition(one) for one in ([given] if alone else given)]
    if not conditions:
        raise InputError("no prompt: say what to draw")
    parts = [part for one in conditions for part in (one.parts if isinstance(one, Blend) else (one,))]
    for part in parts:
        if isinstance(part, str):
            check_prompt(part)
    if model.text_encoder is not None:
        model.text_encoder.check([str(part) for part in parts if part is not None])
    return conditions


def remarks_on(model: Model, work: Work) -> list[str]:
    """What to tell whoever asked for ``work``: which of the prompts the model knows no word of."""
    asked = [*(work.conditions or ()), work.negative]
    parts = [part for one in asked for part in (one.parts if isinstance(one, Blend) else (one,))]
    texts = [part for part in parts if isinstance(part, str)]
    return model.text_encoder.remarks(texts) if model.text_encoder is not None else []


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt that says nothing, or that is no valid Unicode."""
    if not prompt.strip():
        raise InputError("the prompt is empty: say what to draw")
    if has_lone_surrogates(prompt):
        raise InputError(
            f"the prompt {prompt!r} has half a character in it (a lone surrogate, or a byte that is not UTF-8): "
            "give valid Unicode"
        )


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number of any type, NumPy's and 1.0 too; InputError if it is another thing, or below ``least``."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise InputError(f"{name} is {number!r}: give a whole number")
    if least is not None and number < least:
        raise InputError(f"{name} is {number}: at least {least} is needed")
    return int(number)


def _seeds(seed: Whole, num_images: Whole = 1) -> range:
    first = whole("seed", seed)
    return range(first, first + whole("num_images", num_images, least=1))


def _condition(given: Any) -> Condition:
    one = given.item() if isinstance(given, np.generic) else given
    if isinstance(one, bool) or not isinstance(one, str | int | Blend | None):
        raise InputError(f"the prompt is {one!r}: give text, a label's number, a Blend, or a list of these")
    return one


def avoid(model: Model, negative: Condition, settings: SamplingSettings) -> Condition:
    """A negative prompt, checked."""
    if negative is not None and Guidance.of(settings.guidance).scale == 1:
        raise InputError("a negative prompt acts through guidance, which is off: give a guidance above 1")
    return _wish(model, negative)[0]


def _wish(model: Model, prompt: Condition) -> list[Condition]:
    return [None] if prompt is None else conditions_of(model, prompt)
