"""How strongly to guide, and when."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.shapes import Float, Int

__all__ = ["Guidance", "GuidanceKind"]

GuidanceKind = Literal["constant", "linear", "cosine"]

_LARGEST = 1e6  # beyond, products with log-probabilities leave float32


@dataclass(frozen=True)
class Guidance:
    """The guidance scale at every time of a run; checked when made.

    scale: g = s + 1 of the paper, 1 is off. schedule: "constant", or "linear" or "cosine" for a scale that rises from 1
    at t = T to `scale` at t = 0. interval: the part of the way from noise (0) to the picture (1) that is guided at all;
    outside it the scale is 1, and the null condition is not asked for (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Raises InputError for a scale that is not finite or an interval that is none.
    """

    scale: float = 3.0
    schedule: GuidanceKind = "constant"
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not abs(self.scale) <= _LARGEST:
            bounds = f"{-_LARGEST:.0f} and {_LARGEST:.0f}"
            raise InputError(f"guidance is {self.scale}: it must be between {bounds}, 1 for none")
        if self.schedule not in ("constant", "linear", "cosine"):
            raise InputError(f"the guidance schedule is {self.schedule!r}: choose constant, linear or cosine")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(f"the guidance interval is {self.interval}: give two rising numbers from 0 to 1")

    @classmethod
    def of(cls, value: float | Guidance) -> Guidance:
        """Return a schedule as it is, and a number as the constant schedule."""
        return value if isinstance(value, Guidance) else cls(value)

    def at(self, t: Int[Tensor, "*times"], num_steps: int) -> Float[Tensor, "*times"]:
        """Return the scale at the times t of T = num_steps, float32; 1 at t = 0, where nothing is left to do."""
        done = 1 - t.double() / num_steps
        rise = {"constant": torch.ones_like(done), "linear": done, "cosine": (1 - (pi * done).cos()) / 2}[self.schedule]
        guided = (self.interval[0] <= done) & (done < self.interval[1])
        return torch.where(guided, 1 + (self.scale - 1) * rise, 1.0).float()
