"""Guidance of the posterior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vqdiff.diffusion import draw_categorical, guide_posterior
from vqdiff.foundation.shapes import Int
from vqdiff.plugins import SAMPLERS
from vqdiff.sampling.sampler import SamplerFacts
from vqdiff.sampling.samplers.strided import Strided
from vqdiff.sampling.step import StepInput

__all__ = ["PosteriorGuided"]


@dataclass(frozen=True)
class PosteriorGuided(Strided):
    """As `Strided`, but guides p(x_s | x_t), as arXiv 2205.16007 prints Eq. 7, where the others guide p(x0 | x_t).

    Builds the posterior, so it is slow. Temperature and truncation, which act on a prediction of x0, are not applied.
    """

    def step(self, x: StepInput) -> Int[Tensor, "B L"]:
        cond, null = x.prediction.pair()
        t, s = x.now.t.clamp(min=1), x.now.s
        scale = 1.0 if x.settings.guidance is None else x.settings.guidance
        return draw_categorical(guide_posterior(x.schedule, cond, null, scale, x.tokens, t, s), x.u[1])


_FACTS = SamplerFacts(
        "as strided, but guides the posterior instead of p(x0) (Eq. 7 of Improved VQ-Diffusion as printed)",
        "2205.16007", "steps, at most T", "one token per call", uses=frozenset({"steps"}),
)  # fmt: skip
SAMPLERS.register("posterior-guided", PosteriorGuided(facts=_FACTS))
