"""Settings and samplers that go together, and what is said where they do not."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vqdiff.diffusion import Schedule
from vqdiff.foundation.errors import InputError, InputWarning
from vqdiff.foundation.options import options_of
from vqdiff.sampling import SamplingSettings, Trace, get_sampler, sample, samplers
from vqdiff.sampling.checks import check_settings, warn_of_ignored

PLAIN = SamplingSettings("purity", 6, 1.0, prior_scale=0.0, corrector_share=0.2, renoise=0.5, fix_share=0.3)
OTHER: dict[str, dict[str, Any]] = {
    "steps": {"steps": 3},
    "truncation": {"truncation": 0.5},
    "prior_scale": {"prior_scale": 4.0},
    "temperature": {"temperature": 0.5},
    "temperature_schedule": {"temperature_schedule": "falling"},
    "curve": {"curve": "cosine"},
    "curve_power": {"curve": "power", "curve_power": 4.0},
    "purity_power": {"purity_power": 15.0},
    "corrector_share": {"corrector_share": 0.6},
    "error": {"error": 30.0},
    "renoise": {"renoise": 1.0},
    "renoise_cap": {"renoise_cap": 0.02},
    "renoise_loop": {"renoise_loop": 0.5},
    "fix_share": {"fix_share": 0.9},
}
COMPANIONS = {"curve_power": {"curve": "power"}}
ALWAYS = {"sampler", "best_of", "ranking", "pruning"}


def test_every_setting_is_covered() -> None:
    always = {name for name in options_of(SamplingSettings) if name in ALWAYS or name.startswith("guid")}
    assert OTHER.keys() | always == options_of(SamplingSettings).keys()


@pytest.mark.numeric
@pytest.mark.parametrize("name", samplers())
def test_a_sampler_uses_the_settings_that_it_says(name: str) -> None:
    """By what each setting does to 4 images; a setting that is not stated does nothing."""
    schedule = Schedule.linear(12, 8)
    logits = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def denoise(tokens: Tensor, t: Tensor) -> Tensor:
        return logits * (1 + (tokens % 3 == 0).double().mean(1)[:, None, None])

    def calls_and_final(settings: SamplingSettings) -> tuple[int, Tensor]:
        trace = Trace.collect(sample(denoise, schedule, num_tokens=16, seeds=range(4), settings=settings))
        return len(trace.tokens), trace.final

    uses = get_sampler(name).facts.uses
    assert uses is not None
    for setting, changes in OTHER.items():
        plain = replace(PLAIN, sampler=name, **COMPANIONS.get(setting, {}))
        (calls, final), (other_calls, other) = map(calls_and_final, (plain, replace(plain, **changes)))
        assert (calls != other_calls or not torch.equal(final, other)) == (setting in uses), setting


def test_who_sets_what_a_sampler_does_not_use_is_warned() -> None:
    settings = SamplingSettings("fewer-tokens", steps=4, prior_scale=3.0, renoise=0.2, temperature=0.5)
    given = ["steps", "prior_scale", "renoise", "temperature", "guidance", "best_of"]
    with pytest.warns(InputWarning, match=r"fewer-tokens does not use prior_scale and renoise; .*samplers fewer-tok"):
        warn_of_ignored(settings, given, get_sampler("fewer-tokens"))
    with pytest.warns(InputWarning, match="ancestral does not use steps"):
        warn_of_ignored(replace(settings, sampler="ancestral"), ["steps"], get_sampler("ancestral"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_ignored(settings, ["temperature"], get_sampler("fewer-tokens"))  # not given: the model's own
        warn_of_ignored(replace(settings, prior_scale=0.0), ["prior_scale"], get_sampler("fewer-tokens"))  # off


def test_a_missing_measurement_matters_where_the_curve_does() -> None:
    measured = SamplingSettings(steps=4, curve="measured")
    for name in samplers():
        sampler = get_sampler(name)
        if "curve" in (sampler.facts.uses or ()):
            with pytest.raises(InputError, match="no measurement"):
                check_settings(measured, 16, [], sampler)
        else:
            check_settings(measured, 16, [], sampler)
