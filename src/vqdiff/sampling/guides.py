"""Guides: what guidance leads away from, at which part of the run, and how both predictions are combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vqdiff.diffusion import guide
from vqdiff.foundation.errors import InputError
from vqdiff.plugins import GUIDES
from vqdiff.sampling.over_time import guidance_at
from vqdiff.settings import Guidance, SamplingSettings

__all__ = ["Away", "Combine", "Guide", "Reference", "away", "combined_by", "in_turn", "references_of"]

Reference = Literal["null", "weaker", "skipped-layers"]
"""A prediction to lead away from: of the network under the null condition; or, under the same condition, of a weaker
network, or of the network without its middle layers."""
Guide = Callable[[float], Reference]
"""The part of the way from noise to image that is done, in [0, 1), -> the prediction that guidance leads away from."""
Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, M, K), those to lead away from, scale (B,)) -> guided log-probabilities, as `vqdiff.diffusion.guide`."""


class Away(NamedTuple):
    """What guidance leads an image away from in a step, and how both predictions are combined."""

    reference: Reference = "null"
    combine: Combine = guide


def away(name: str, done: float) -> Away:
    """Ask the guide of that name; raises InputError for a reference that does not exist."""
    chosen = GUIDES.get(name)
    reference = chosen(done)
    if reference not in get_args(Reference):
        raise InputError(f"the guide {name!r} leads away from {reference!r}: use {', '.join(get_args(Reference))}")
    return Away(reference, getattr(chosen, _COMBINE, guide))


def references_of(settings: SamplingSettings, num_steps: int) -> frozenset[Reference]:
    """Return all that these settings lead away from at any of the times 1..T = num_steps; nothing without guidance."""
    scales = guidance_at(Guidance.of(settings), torch.arange(1, num_steps + 1), num_steps)
    guided = (t for t, scale in enumerate(scales, start=1) if scale != 1)
    return frozenset(away(settings.guide, 1 - t / num_steps).reference for t in guided)


def in_turn(*references: Reference) -> Guide:
    """Make a guide that leads away from each of these for an equal part of the run."""

    def chosen(done: float) -> Reference:
        return references[int(done * len(references))]

    return chosen


def combined_by(combine: Combine) -> Callable[[Guide], Guide]:
    """Declare how a guide combines the two predictions; a decorator. The sampler posterior-guided ignores it."""

    def declared(chosen: Guide) -> Guide:
        setattr(chosen, _COMBINE, combine)
        return chosen

    return declared


_COMBINE = "combine"

GUIDES.register("null", in_turn("null"), "Away from the prediction without the prompt (Improved VQ-Diffusion, Eq. 7).")
GUIDES.register(
    "weaker",
    in_turn("weaker"),
    "Away from a weaker network of the model, under the same prompt (autoguidance, arXiv 2406.02507).",
)
GUIDES.register(
    "skipped-layers",
    in_turn("skipped-layers"),
    "Away from the network without its middle layers, under the same prompt.",
)
GUIDES.register("null-then-weaker", in_turn("null", "weaker"), "In the first half as null, then as weaker.")
GUIDES.register(
    "null-then-skipped-layers",
    in_turn("null", "skipped-layers"),
    "In the first half as null, then as skipped-layers.",
)
