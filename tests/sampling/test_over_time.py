"""Schedules of guidance and temperature against their formulas, and through the loop."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError
from vqdiff.sampling import Guidance, SamplingSettings
from vqdiff.sampling.over_time import guidance_at, temperature_at

TIMES = torch.tensor([100, 75, 50, 25, 1, 0])


@pytest.mark.parametrize(
    ("guidance", "scales"),
    [
        (Guidance(5.0), [5, 5, 5, 5, 5, 1]),
        (Guidance(5.0, "linear"), [1, 2, 3, 4, 4.96, 1]),
        (Guidance(5.0, "cosine"), [1, 3 - math.sqrt(2), 3, 3 + math.sqrt(2), 3 + 2 * math.cos(math.pi / 100), 1]),
        (Guidance(5.0, "falling"), [5, 4, 3, 2, 1.04, 1]),
        (Guidance(5.0, "falling", (0.0, 0.5)), [5, 4, 1, 1, 1, 1]),
        (Guidance(-1.0, "falling"), [-1, -0.5, 0, 0.5, 0.98, 1]),
        (Guidance(5.0, interval=(0.25, 0.75)), [1, 5, 5, 1, 1, 1]),
        (Guidance(5.0, "linear", (0.5, 1.0)), [1, 1, 3, 4, 4.96, 1]),
        (Guidance(-1.0, "linear"), [1, 0.5, 0, -0.5, -0.98, 1]),
        (Guidance(1.0, "cosine"), [1] * 6),
    ],
)
def test_scales(guidance: Guidance, scales: list[float]) -> None:
    torch.testing.assert_close(guidance_at(guidance, TIMES, 100), torch.tensor(scales, dtype=torch.float32))


def test_temperatures() -> None:
    constant = SamplingSettings(temperature=0.8)
    falling = constant.changed(temperature_schedule="falling")
    torch.testing.assert_close(temperature_at(constant, TIMES, 100), torch.tensor([0.8, 0.8, 0.8, 0.8, 0.8, 1]))
    torch.testing.assert_close(temperature_at(falling, TIMES, 100), torch.tensor([0.8, 0.6, 0.4, 0.2, 0.008, 1]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scale": math.nan}, "guidance is nan"),
        ({"scale": -math.inf}, "guidance is -inf"),
        ({"schedule": "parabola"}, "constant, linear, cosine, falling"),
        ({"interval": (0.5, 0.5)}, "rising"),
        ({"interval": (0.8, 0.2)}, "rising"),
        ({"interval": (-0.1, 0.2)}, "from 0 to 1"),
        ({"interval": (0.1, math.nan)}, "from 0 to 1"),
    ],
)
def test_mistakes_are_named(bad: dict[str, Any], message: str) -> None:
    guidance = object.__new__(Guidance)  # the shape checks of the tests would speak first
    for name, value in (dataclasses.asdict(Guidance()) | bad).items():
        object.__setattr__(guidance, name, value)
    with pytest.raises(InputError, match=message):
        guidance.__post_init__()


@pytest.mark.parametrize("guidance", [2.5, Guidance(4.0, "cosine", (0.1, 0.9))])
def test_settings_survive_json(guidance: float | Guidance) -> None:
    settings = SamplingSettings().changed(guidance=guidance)
    stored = json.loads(json.dumps(dataclasses.asdict(settings)))
    assert build(SamplingSettings, stored, "here") == settings


def test_a_number_is_a_constant_schedule() -> None:
    settings = SamplingSettings()
    assert (
        Guidance.of(settings.changed(guidance=2.0))
        == Guidance.of(settings.changed(guidance=Guidance(2.0)))
        == Guidance(2.0)
    )


def test_settings_once_saved_with_a_section_of_guidance_are_read() -> None:
    stored = {"steps": 3, "guidance": {"scale": 4.0, "schedule": "cosine", "interval": [0.1, 0.9]}}
    assert SamplingSettings.read(stored, "here") == SamplingSettings("purity", 3, 4.0, "cosine", (0.1, 0.9))
