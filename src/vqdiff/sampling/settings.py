"""What a caller chooses about sampling one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vqdiff.foundation.errors import InputError
from vqdiff.sampling.guidance import Guidance, GuidanceKind
from vqdiff.sampling.samplers import get_sampler

__all__ = ["SamplingSettings"]

_LARGEST = 1e6  # as for guidance


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample an image; checked when made.

    sampler: a name of `samplers()`. steps: network calls, 1..number of tokens; samplers
    which draw from the posterior take at most T. guidance: the scale g = s + 1 of the paper, 1 is off, or a schedule of
    scales. truncation: the mass kept of each prediction, in (0, 1], 1 is off. prior_scale: r of Eq. 11, >= 0, for the
    samplers that sharpen by purity.

    Raises InputError for a value outside these ranges.
    """

    sampler: str = "purity"
    steps: int = 25
    guidance: float | Guidance = 3.0
    truncation: float = 1.0
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        get_sampler(self.sampler)
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}: at least 1 is needed")
        Guidance.of(self.guidance)  # which checks itself
        if not 0 < self.truncation <= 1:
            raise InputError(f"truncation is {self.truncation}: it must be above 0 and at most 1, 1 for none")
        if not 0 <= self.prior_scale <= _LARGEST:
            raise InputError(f"prior_scale is {self.prior_scale}: it must be between 0 and {_LARGEST:.0f}, 0 for none")

    def changed(
        self,
        *,
        guidance_schedule: GuidanceKind | None = None,
        guidance_interval: tuple[float, float] | None = None,
        **changes: Any,
    ) -> SamplingSettings:
        """Return these settings with `changes`, of which None changes nothing.

        guidance_schedule, guidance_interval: change these parts of the guidance, and leave its scale.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        if guidance_schedule is not None or guidance_interval is not None:
            base = Guidance.of(changes.get("guidance", self.guidance))
            schedule, interval = guidance_schedule or base.schedule, guidance_interval or base.interval
            changes["guidance"] = Guidance(base.scale, schedule, interval)
        return replace(self, **changes)

    def check(self, num_tokens: int) -> None:
        """Raise InputError if there are more steps than tokens, since no step would be left for some."""
        if self.steps > num_tokens:
            raise InputError(f"steps is {self.steps}, more than the {num_tokens} tokens of an image: ask for fewer")
