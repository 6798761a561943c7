"""What guidance leads away from beside the null condition: whether a model has it."""

from __future__ import annotations

from vqdiff.foundation.errors import InputError, about
from vqdiff.interfaces import Denoiser
from vqdiff.sampling import SamplingSettings
from vqdiff.sampling.guides import references_of

_SHARED = ("num_codes", "num_steps", "grid_size", "text_width", "num_classes")
"""Fields of configurations in which a weaker denoiser must be like the other."""


def skipping_layers(denoiser: Denoiser) -> Denoiser | None:
    """Return the denoiser without its middle layers, or None if it cannot leave any out."""
    method = getattr(denoiser, "skipping_layers", None)
    return None if method is None else method()


def check_weaker(denoiser: Denoiser, weaker: Denoiser) -> None:
    """Raise InputError if the weaker denoiser has other tokens, times or conditions."""
    own, other = vars(denoiser.config), vars(weaker.config)
    for name in _SHARED:
        if name in own and name in other and own[name] != other[name]:
            raise InputError(
                f"the weaker denoiser has {name} {other[name]} and the denoiser {own[name]}: use one that fits"
            )


def check_guide(settings: SamplingSettings, num_steps: int, denoiser: Denoiser, weaker: Denoiser | None) -> None:
    """Raise InputError, with the field, if settings lead away from what is not there. num_steps: T."""
    with about("guide"):
        references = references_of(settings, num_steps)
        if "weaker" in references and weaker is None:
            raise InputError(
                f"guide is {settings.guide}, and this model has no weaker denoiser: add one with "
                "vqdiff convert --weaker, or use null"
            )
        if "skipped-layers" in references and skipping_layers(denoiser) is None:
            raise InputError(f"guide is {settings.guide}, and this model's denoiser cannot leave layers out: use null")
