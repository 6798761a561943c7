"""What a step works on: tokens, prediction, plan, settings and random numbers of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vqdiff.diffusion import Schedule, temper, truncate
from vqdiff.foundation.options import options_of
from vqdiff.foundation.shapes import Bool, Float, Int
from vqdiff.sampling.over_time import guidance_at, temperature_at
from vqdiff.sampling.plan import Plan, PlanStep
from vqdiff.sampling.prediction import Prediction
from vqdiff.settings import Guidance, SamplingSettings

__all__ = ["BatchSettings", "StepInput", "StepSettings"]


class StepSettings(NamedTuple):
    """The settings of every image in one step, each (B,), on the tokens' device; None where off for all images.

    Their names are those of `SamplingSettings`. What the host knows to be off is skipped: on a GPU, `truncate` sorts
    all codes even where the rate is 1.
    """

    guidance: Float[Tensor, "B"] | None = None
    temperature: Float[Tensor, "B"] | None = None
    truncation: Float[Tensor, "B"] | None = None
    prior_scale: Float[Tensor, "B"] | None = None
    purity_power: Float[Tensor, "B"] | None = None
    corrector_share: Float[Tensor, "B"] | None = None
    error: Float[Tensor, "B"] | None = None
    renoise: Float[Tensor, "B"] | None = None
    renoise_cap: Float[Tensor, "B"] | None = None
    renoise_loop: Float[Tensor, "B"] | None = None
    fix_share: Float[Tensor, "B"] | None = None

    def warp(self, log_p0: Float[Tensor, "B N K"]) -> Float[Tensor, "B N K"]:
        """Apply the temperature to a prediction, then truncate it, as the settings say."""
        log_p0 = log_p0 if self.temperature is None else temper(log_p0, self.temperature)
        return log_p0 if self.truncation is None else truncate(log_p0, self.truncation)

    def weights(self, purity: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return the weights of the order of purity: purity to the power that the settings say."""
        if self.purity_power is None:
            return purity
        # Relative to the largest, and in float64, so that even improbable positions keep their order.
        weights = purity.double()
        return (weights / weights.amax(1, keepdim=True)).pow(self.purity_power.double()[:, None]).clamp(min=1e-300)


_FIELDS = {name: number for number, name in enumerate(StepSettings._fields)}
_OFF = torch.tensor([float(options_of(SamplingSettings)[name].off) for name in _FIELDS])


@dataclass(frozen=True)
class BatchSettings:
    """The settings of every image, and in all the steps left: a table for each field of `StepSettings`, on the CPU."""

    rows: tuple[SamplingSettings, ...]
    tables: Float[Tensor, "F B S"]

    @classmethod
    def of(cls, rows: Sequence[SamplingSettings], t: Int[Tensor, "B S"], num_steps: int) -> BatchSettings:
        """Lay out the settings of each image along the times ``t`` of its steps, of T = num_steps."""
        constant = torch.tensor([[float(getattr(row, name)) for row in rows] for name in _FIELDS])
        tables = constant[..., None].repeat(1, 1, t.shape[1])
        for one in dict.fromkeys(rows):
            own = torch.tensor([row == one for row in rows])
            tables[_FIELDS["guidance"], own] = guidance_at(Guidance.of(one), t[own], num_steps)
            tables[_FIELDS["temperature"], own] = temperature_at(one, t[own], num_steps)
        return cls(tuple(rows), tables)

    def first(self, device: torch.device | str = "cpu") -> StepSettings:
        """Return the settings of the next step, on ``device``, without waiting for it."""
        now = self.tables[..., 0]
        on = (now != _OFF[:, None]).any(1).numpy()
        return StepSettings(
            *(one.to(device, non_blocking=True) if some else None for one, some in zip(now, on, strict=True))
        )

    def guided(self) -> list[int]:
        """Return the numbers of the images that are guided in the next step."""
        return [row for row, scale in enumerate(self.tables[_FIELDS["guidance"], :, 0].numpy()) if scale != 1]

    def unguided(self, images: Sequence[int]) -> BatchSettings:
        """Return the settings with guidance off in all the steps left for these images."""
        if not images:
            return self
        rows = tuple(replace(one, guidance=1.0) if row in images else one for row, one in enumerate(self.rows))
        tables = self.tables.clone()
        tables[_FIELDS["guidance"], list(images)] = 1.0
        return BatchSettings(rows, tables)

    def rest(self) -> BatchSettings:
        """Return the settings without those of the first step."""
        return BatchSettings(self.rows, self.tables[..., 1:])

    def select(self, rows: Int[Tensor, "N"] | slice) -> BatchSettings:
        """Return the settings of some of the images."""
        chosen = tuple(self.rows[int(row)] for row in torch.arange(len(self.rows))[rows])
        return BatchSettings(chosen, self.tables[:, rows])

    def join(self, other: BatchSettings) -> BatchSettings:
        """Return the settings of these images and then those of `other`; they are off in steps that are not taken."""
        tables = [one.tables for one in (self, other)]
        joined = _OFF[:, None, None].repeat(1, len(self.rows + other.rows), max(one.shape[2] for one in tables))
        joined[:, : len(self.rows), : tables[0].shape[2]] = tables[0]
        joined[:, len(self.rows) :, : tables[1].shape[2]] = tables[1]
        return BatchSettings(self.rows + other.rows, joined)


class StepInput(NamedTuple):
    """What a step works on.

    prediction: of the clean tokens, guided, not yet truncated, computed where a token may be sampled. u:
    uniforms in (0, 1), one for each of the sampler's `num_uniforms`. known: positions of an edit that stay, whatever
    the step returns there.
    """

    schedule: Schedule
    tokens: Int[Tensor, "B L"]
    prediction: Prediction
    now: PlanStep
    settings: StepSettings
    u: Float[Tensor, "N B L"]
    known: Bool[Tensor, "B L"]

    @property
    def masked(self) -> Bool[Tensor, "B L"]:
        """Where the tokens are MASK."""
        return self.tokens == self.schedule.num_codes

    def of_image(self, image: int, plan: Plan, settings: BatchSettings) -> StepInput:
        """Return the input of this step for one image alone; ``plan`` and ``settings`` are those of the batch."""
        row, device = slice(image, image + 1), self.tokens.device
        now, own = plan.select(row).first(device), settings.select(row).first(device)
        prediction, u, known = self.prediction.select(image), self.u[:, row], self.known[row]
        return StepInput(self.schedule, self.tokens[row], prediction, now, own, u, known)
