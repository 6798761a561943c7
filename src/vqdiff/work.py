"""What is to be drawn, checked and ready to start: alone by a `Pipeline`, or among others by a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqdiff import editing
from vqdiff.errors import InputError
from vqdiff.model import Model
from vqdiff.pictures import to_pixels
from vqdiff.sampling import Batch, Canvas, Guidance, SamplingSettings, doubtful, get_sampler
from vqdiff.shapes import Bool, Int
from vqdiff.text import Blend, Condition


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
        prompts: Condition | Sequence[Condition] = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.__call__`."""
        asked = [one for one in conditions_of(model, prompts) for _ in range(num_images)]
        settings = settings_of(model, **changes)
        return cls(asked, range(seed, seed + len(asked)), settings, avoid(model, negative, settings))

    @classmethod
    def edit(
        cls,
        model: Model,
        image: Image.Image,
        mask: Image.Image,
        prompt: Condition = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        negative: Condition = None,
        feather: int = 0,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.edit`."""
        settings = settings_of(model, **changes)
        redraw = editing.white(mask, image.size)
        x0, holes = tokenize(model, image), editing.to_tokens(redraw, model.image_tokenizer.grid_size)[None]
        seeds, wish = range(seed, seed + num_images), _wish(model, prompt)
        work = cls._over(model, x0, wish, seeds, settings, negative, image.size, redraw=holes)
        return replace(work, finish=lambda drawn: editing.paste(work.finish(drawn), image, redraw, feather))

    @classmethod
    def vary(
        cls,
        model: Model,
        image: Image.Image,
        strength: float = 0.5,
        prompt: Condition = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.vary`."""
        if not 0 <= strength <= 1:
            raise InputError(f"strength is {strength}: give a number from 0, no change, to 1, a fresh picture")
        settings = settings_of(model, **changes)
        x0, start = tokenize(model, image), round(strength * model.schedule.num_steps)
        seeds, wish = range(seed, seed + num_images), _wish(model, prompt)
        return cls._over(model, x0, wish, seeds, settings, negative, image.size, start=start)

    @classmethod
    @torch.inference_mode()
    def revise(
        cls,
        model: Model,
        image: Image.Image,
        share: float = 0.25,
        prompt: Condition = None,
        *,
        seed: int = 0,
        negative: Condition = None,
        **changes: Unpack[Changes],
    ) -> Work:
        """See `Pipeline.revise`."""
        settings, x0, wish = settings_of(model, **changes), tokenize(model, image), _wish(model, prompt)
        redraw = doubtful(model.bind(model.encode(wish)), model.schedule, x0.to(model.device), share).cpu()
        return cls._over(model, x0, wish, [seed], settings, negative, image.size, redraw=redraw)

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
        finish = partial(editing.unfit, size=size)
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
def tokenize(model: Model, image: Image.Image) -> Int[Tensor, "1 L"]:
    """The tokens of a picture of any size, on the CPU."""
    pixels = to_pixels(np.asarray(editing.fit(image, model.image_tokenizer.config.image_size))[None])
    return model.image_tokenizer.encode(pixels.to(model.device)).cpu()


def settings_of(model: Model, **changes: Any) -> SamplingSettings:
    """The model's own settings with ``changes`` (None = unchanged), checked against its number of tokens."""
    settings = model.sampling.changed(**changes)
    settings.check(model.num_tokens)
    return settings


def conditions_of(model: Model, prompts: Condition | Sequence[Condition]) -> list[Condition]:
    """Prompts or labels as a checked list; for an unconditional model a list of one nothing."""
    if model.text_encoder is None and model.num_classes is None:
        return [None]
    conditions: list[Condition] = [prompts] if isinstance(prompts, str | int | Blend) else list(prompts or ())
    if not conditions:
        raise InputError("no prompt: say what to draw")
    parts = [part for one in conditions for part in (one.parts if isinstance(one, Blend) else (one,))]
    for part in parts:
        if isinstance(part, str) and not part.strip():
            raise InputError("the prompt is empty: say what to draw")
    if model.text_encoder is not None:
        model.text_encoder.check([str(part) for part in parts if part is not None])
    return conditions


def remarks_on(model: Model, work: Work) -> list[str]:
    """What to tell whoever asked for ``work``: which of the prompts the model knows no word of."""
    asked = [*(work.conditions or ()), work.negative]
    parts = [part for one in asked for part in (one.parts if isinstance(one, Blend) else (one,))]
    texts = [part for part in parts if isinstance(part, str)]
    return model.text_encoder.remarks(texts) if model.text_encoder is not None else []


def avoid(model: Model, negative: Condition, settings: SamplingSettings) -> Condition:
    """A negative prompt, checked."""
    if negative is not None and Guidance.of(settings.guidance).scale == 1:
        raise InputError("a negative prompt acts through guidance, which is off: give a guidance above 1")
    return _wish(model, negative)[0]


def _wish(model: Model, prompt: Condition) -> list[Condition]:
    return [None] if prompt is None else conditions_of(model, prompt)
