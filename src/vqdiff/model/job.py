"""A job: images for a model to sample, made from every request, in a pipeline or a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vqdiff.model.bound import BoundDenoiser
from vqdiff.model.model import Model
from vqdiff.sampling import Batch, Canvas, Reference, SamplingSettings
from vqdiff.sampling.candidates import candidate_seeds
from vqdiff.sampling.guides import references_of
from vqdiff.text import Condition, plain_text, prompts_in


def _unchanged(image: Image.Image) -> Image.Image:
    return image


@dataclass(frozen=True)
class Job:
    """Images to sample with the same settings: a condition and a seed each (conditions None: unconditional).

    Where the settings ask for candidates (`best_of`), the rows of what is sampled are theirs, image by image. negative:
    what guidance moves away from instead of the null condition. canvas: what sampling starts from instead of noise, a
    row for each candidate. finish: applied to each sampled image. record: how the images are made
    (`vqdiff.requests.Request.record`). seconds, for all of them, and calls: where to end early (`vqdiff.sampling.run`).
    """

    conditions: Sequence[Condition] | None
    seeds: Sequence[int]
    settings: SamplingSettings
    negative: Condition = None
    canvas: Canvas | None = None
    finish: Callable[[Image.Image], Image.Image] = _unchanged
    record: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float | None = None
    calls: int | None = None

    def record_of(self, index: int) -> dict[str, Any]:
        """Return the record of one image alone: its prompt and seed instead of those of all."""
        left_out = ("prompts", "seeds", "num_images")
        shared = {name: value for name, value in self.record.items() if name not in left_out}
        prompts = self.record.get("prompts")
        prompt = shared.pop("prompt", None) if prompts is None else prompts[index * len(prompts) // len(self.seeds)]
        return {"kind": shared.pop("kind", "generate"), "prompt": prompt} | shared | {"seed": self.seeds[index]}

    def references(self, model: Model) -> frozenset[Reference]:
        """Return what guidance leads away from in any step; nothing, if only from ∅ to ∅, which has no effect."""
        found = references_of(self.settings, model.schedule.num_steps)
        only_null = self.negative is None and all(one is None for one in self.conditions or ())
        return frozenset() if only_null and found == {"null"} else found

    def start(self, model: Model) -> Batch:
        """Return all rows before their first step; raises InputError if settings or canvas do not fit the model."""
        return Batch.start(
            model.schedule,
            num_tokens=model.num_tokens,
            seeds=candidate_seeds(self.seeds, self.settings.best_of),
            settings=self.settings if self.references(model) else replace(self.settings, guidance=1.0),
            canvas=self.canvas,
            masked_nll=model.masked_nll,
            device=model.sampling_device,
        )

    @torch.inference_mode()
    def encode(self, model: Model) -> tuple[Tensor | None, Tensor | None]:
        """Encode the conditions of the images and the null condition, or the negative prompt in its place.

        The latter is None where neither guidance nor the ranking of candidates needs it.
        """
        needed = "null" in self.references(model) or self.settings.ranks_by_text
        return model.encode(self.conditions), model.encode([self.negative] * len(self.seeds)) if needed else None

    def bind_images(self, model: Model, encoded: tuple[Tensor | None, Tensor | None]) -> BoundDenoiser:
        """Return the denoiser with the conditions of the images; ``encoded``: what `encode` has returned."""
        references, (condition, null) = self.references(model), encoded
        return model.bind(condition, null if "null" in references else None, weaker="weaker" in references)

    def bind(self, model: Model, encoded: tuple[Tensor | None, Tensor | None] | None = None) -> BoundDenoiser:
        """Return the denoiser with the conditions of all rows; ``encoded``: what `encode` has returned, if known."""
        bound, best_of = self.bind_images(model, encoded or self.encode(model)), self.settings.best_of
        return bound if best_of == 1 else bound.select([row // best_of for row in range(len(self.seeds) * best_of)])

    def parts(self, size: int) -> Iterator[Job]:
        """Yield jobs of at most ``size`` images each."""
        for first in range(0, len(self.seeds), size):
            images, best_of, canvas = slice(first, first + size), self.settings.best_of, self.canvas
            if canvas is not None:
                canvas = canvas.select(slice(first * best_of, (first + size) * best_of))
            conditions = None if self.conditions is None else self.conditions[images]
            seeds = self.seeds[images]
            seconds = None if self.seconds is None else self.seconds * len(seeds) / len(self.seeds)
            yield replace(self, conditions=conditions, seeds=seeds, canvas=canvas, seconds=seconds)

    def chosen(self, candidates: Sequence[int]) -> Job:
        """Return the job that samples one candidate of each image, given by its number."""
        best_of = self.settings.best_of
        rows = [image * best_of + candidate for image, candidate in enumerate(candidates)]
        seeds = candidate_seeds(self.seeds, best_of)
        canvas = None if self.canvas is None else self.canvas.select(rows)
        return replace(
            self, seeds=[seeds[row] for row in rows], settings=replace(self.settings, best_of=1), canvas=canvas
        )

    def remarks(self, model: Model) -> list[str]:
        """Return a line for each prompt of which the model knows no word."""
        if model.text_encoder is None:
            return []
        given = (*(self.conditions or ()), self.negative)
        return model.text_encoder.remarks([plain_text(prompt) for one in given for prompt in prompts_in(one)])
