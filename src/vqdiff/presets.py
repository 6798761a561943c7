"""Presets: sampling settings with a name, those of a model and those that were published with others."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from vqdiff.settings import SamplingSettings

__all__ = ["PUBLISHED", "fast_and_best"]

_PLAIN = SamplingSettings("ancestral", steps=100, guidance=1.0, truncation=0.86)

PUBLISHED = {
    "ithq": _PLAIN,
    "ithq-guided": SamplingSettings("ancestral", steps=100, guidance=5.0, truncation=1.0),
    "ithq-fast": SamplingSettings("reference-fast", steps=51, guidance=1.0, truncation=0.86),
    "ithq-guided-fast": SamplingSettings("reference-fast", steps=51, guidance=5.0, truncation=1.0),
    "ithq-few": SamplingSettings("reference-fewer-tokens", steps=100, guidance=1.0, truncation=0.86),
    "ithq-purity": SamplingSettings("reference-purity", steps=100, guidance=1.0, truncation=0.86, prior_scale=1.0),
    "coco": _PLAIN,
    "coco-guided": SamplingSettings("ancestral", steps=100, guidance=3.0, truncation=1.0),
    "imagenet": _PLAIN,
    "imagenet-guided": SamplingSettings("ancestral", steps=100, guidance=1.5, truncation=0.94),
    "ffhq": _PLAIN,
}
"""The settings that the published instructions recommend for each model; "guided" ones need a learned null."""


def fast_and_best(own: SamplingSettings, num_tokens: int) -> Mapping[str, Mapping[str, Any]]:
    """Return what a model's own settings change to, for models without these presets: half and twice the steps.

    Instead of ancestral, which takes all T steps, the fast one is strided.
    """
    strides = {"sampler": "strided"} if own.sampler == "ancestral" else {}
    return {"fast": strides | {"steps": ceil(own.steps / 2)}, "best": {"steps": min(2 * own.steps, num_tokens)}}
