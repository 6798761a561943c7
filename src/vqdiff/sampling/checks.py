"""Whether a sampler, a model and settings go together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

from vqdiff.foundation.errors import InputError, InputWarning, about
from vqdiff.foundation.options import Number, options_of
from vqdiff.sampling.sampler import Sampler
from vqdiff.settings import SamplingSettings

__all__ = ["check_settings", "uses", "warn_of_ignored"]

_ALWAYS = frozenset(
    {"sampler", "guidance", "guidance_schedule", "guidance_interval", "guidance_threshold", "guide"}
    | {"best_of", "ranking", "pruning"}
)


def check_settings(settings: SamplingSettings, num_tokens: int, masked_nll: Sequence[float], sampler: Sampler) -> None:
    """Raise InputError for more steps than tokens, as each reveals one, or a curve that needs a missing measurement."""
    with about("steps"):
        if settings.steps > num_tokens:
            raise InputError(f"steps is {settings.steps}, more than the {num_tokens} tokens of an image: use fewer")
    with about("curve"):
        if settings.curve == "measured" and not masked_nll and uses(sampler, "curve"):
            raise InputError(
                "curve is measured, and this model has no measurement: vqdiff measure-curve makes a copy that has "
                "one; or use another curve"
            )


def warn_of_ignored(settings: SamplingSettings, given: Iterable[str], sampler: Sampler) -> None:
    """Warn (`InputWarning`) of those settings of ``given`` that the sampler does not use, unless they are off."""
    options = options_of(SamplingSettings)

    def off(name: str) -> bool:
        one, value = options[name], getattr(settings, name)
        known = isinstance(one, Number) and not math.isnan(one.off)
        return value == (one.off if known else getattr(SamplingSettings, name))

    ignored = [name for name in given if not uses(sampler, name) and (name == "steps" or not off(name))]
    if ignored:
        warnings.warn(
            f"the sampler {settings.sampler} does not use {' and '.join(ignored)}; what it uses: "
            f"vqdiff samplers {settings.sampler}",
            InputWarning,
            stacklevel=3,
        )


def uses(sampler: Sampler, setting: str) -> bool:
    """Return whether a sampler uses a setting, as far as its `SamplerFacts` say."""
    return sampler.facts.uses is None or setting in _ALWAYS or setting in sampler.facts.uses
