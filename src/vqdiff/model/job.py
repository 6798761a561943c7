"""Images for a model to sample: what every request becomes, for a pipeline and for a server alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from vqdiff.model.model import Model
from vqdiff.sampling import Batch, Canvas, SamplingSettings
from vqdiff.text import Condition, prompts_in


def _unchanged(image: Image.Image) -> Image.Image:
    return image


@dataclass(frozen=True)
class Job:
    """Images to sample with the same settings: a condition and a seed each (conditions None: unconditional).

    negative: what guidance leads away from in place of the null condition. canvas: what to begin with instead of noise.
    finish: what is done to each sampled image.
    """

    conditions: Sequence[Condition] | None
    seeds: Sequence[int]
    settings: SamplingSettings
    negative: Condition = None
    canvas: Canvas | None = None
    finish: Callable[[Image.Image], Image.Image] = _unchanged

    @property
    def guided(self) -> bool:
        """Whether any step needs the null condition: from ∅ to ∅ there is no way."""
        nowhere = self.negative is None and all(one is None for one in self.conditions or ())
        return not nowhere and self.settings.guidance != 1

    def start(self, model: Model) -> Batch:
        """All the images, with no step behind them; InputError if settings or canvas don't fit the model."""
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
        """The conditions of the images, and what guidance leads away from, None if there is none."""
        null = model.encode([self.negative] * len(self.seeds)) if self.guided else None
        return model.encode(self.conditions), null

    def parts(self, size: int) -> Iterator[Job]:
        """The images, ``size`` at a time."""
        for first in range(0, len(self.seeds), size):
            rows, canvas = slice(first, first + size), self.canvas
            if canvas is not None:
                known, start = canvas.known, canvas.start
                canvas = Canvas(
                    canvas.tokens[rows], None if known is None else known[rows], None if start is None else start[rows]
                )
            conditions = None if self.conditions is None else self.conditions[rows]
            yield replace(self, conditions=conditions, seeds=self.seeds[rows], canvas=canvas)

    def remarks(self, model: Model) -> list[str]:
        """A line for each prompt of which the model knows no word."""
        texts = [prompt for one in (*(self.conditions or ()), self.negative) for prompt in prompts_in(one)]
        return model.text_encoder.remarks(texts) if model.text_encoder is not None else []
