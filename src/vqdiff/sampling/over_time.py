"""The settings that change over time: the guidance scale and the temperature."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from vqdiff.foundation.shapes import Float, Int
from vqdiff.settings import Guidance, SamplingSettings

__all__ = ["guidance_at", "temperature_at"]


def guidance_at(guidance: Guidance, t: Int[Tensor, "*times"], num_steps: int) -> Float[Tensor, "*times"]:
    """Return the guidance scale at the times t of T = num_steps, float32; 1 at t = 0, where the image is finished."""
    done = 1 - t.double() / num_steps
    strength = {
        "constant": torch.ones_like(done),
        "linear": done,
        "cosine": (1 - (pi * done).cos()) / 2,
        "falling": 1 - done,
    }[guidance.schedule]
    guided = (guidance.interval[0] <= done) & (done < guidance.interval[1])
    return torch.where(guided, 1 + (guidance.scale - 1) * strength, 1.0).float()


def temperature_at(settings: SamplingSettings, t: Int[Tensor, "*times"], num_steps: int) -> Float[Tensor, "*times"]:
    """Return the temperature at the times t of T = num_steps, float32; 1 at t = 0, where the image is finished."""
    share = t.double() / num_steps
    fall = {"constant": torch.ones_like(share), "falling": share}[settings.temperature_schedule]
    return torch.where(t > 0, settings.temperature * fall, 1.0).float()
